"""Reports: everything about a training run in an HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tfpg.agents import ALGORITHMS
from tfpg.agents.registry import algorithm_class
from tfpg.core.files import atomic_write, check_writable, open_regular
from tfpg.core.memory import readable_bytes
from tfpg.core.messages import number, one_line
from tfpg.core.options import options_of
from tfpg.results.comparison import LEGEND, compare
from tfpg.results.learning_curves import align
from tfpg.results.panels import METRIC_LABELS, count_of
from tfpg.results.run_config import CONFIG, METRICS, read_config
from tfpg.results.run_data import TRAINING, VALIDATION, Group, Run, choose_metric, groups_of
from tfpg.results.statistics import interquartile_mean
from tfpg.sharing.html_page import HtmlPage, line, plotly_script
from tfpg.sharing.pack import score_of
from tfpg.sharing.runs import MODEL, VIDEO, find_model

REPORT = "report.html"
_MAX_VIDEO = 20_000_000  # bytes
_NO_CHARTS = ("epoch", "env_steps", "val_env_steps")


def report(
    run: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    episodes: int | None = None,
    seed: int | None = None,
) -> Path:
    """Write an HTML page about a training run, or about several.

    The page of a run has its score, interactive curves of all metrics, the video, the command that
    trains it again, the layers of the network, the options and the versions. The page of several
    runs has the table of `tfpg.compare`, their curves and their commands. It is a single file that
    needs no network.

    Args:
        run: A run folder, or a folder of run folders.
        path: The file to write. None: ``report.html`` in the folder.
        episodes: The number of new episodes that ``model.keras`` of a single run plays for
            its score. None: the page only has the scores that were measured in training.
        seed: The seed of these episodes. None: a random seed.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: There is no such run, or it has no metrics yet.
        ValueError: A file of a run is broken, or ``episodes`` is given for several runs.
        ImportError: Plotly is not installed.

    Example:
        >>> report("missing")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No run at 'missing': pass a run folder.
    """
    folder = Path(run)
    groups = groups_of(folder)
    path = folder / REPORT if path is None else Path(path)
    check_writable(path)
    plotly_script()  # raises an error before episodes are played
    if (folder / CONFIG).is_file():
        page = _page_of_run(folder, groups[0].runs[0], episodes, seed)
    elif episodes is None:
        page = _page_of_runs(folder, groups)
    else:
        raise ValueError(f"{str(folder)!r} has several runs: episodes are for a single one.")
    with atomic_write(path) as temporary:
        temporary.write_text(page.html(), encoding="utf-8")
    return path


def _page_of_run(folder: Path, run: Run, episodes: int | None, seed: int | None) -> HtmlPage:
    config = read_config(folder / CONFIG)
    page = HtmlPage(f"{_title(run.algorithm)} on {run.env}")
    written = datetime.fromtimestamp((folder / METRICS).stat().st_mtime)
    facts = [
        "" if run.seed is None else f"Seed {run.seed}",
        f"{run.env_steps:,.0f} environment steps",
        "" if config.get("finished", True) else "not finished",
        f"{written:%Y-%m-%d %H:%M}",
    ]
    page.note(", ".join(filter(None, facts)))
    page.heading("Score")
    page.table([*_measured(run), *_evaluated(folder, episodes, seed)])
    page.heading("Return")
    main = choose_metric([Group("", run.env, [run])])
    both = [line(*run.curve(main), METRIC_LABELS[main], 0)]
    if main != TRAINING and TRAINING in run.curves:
        both.insert(0, line(*run.curves[TRAINING], METRIC_LABELS[TRAINING], -1, thin=True))
    page.chart(both)
    page.note("Drag to zoom in. Double-click to zoom out.")
    page.heading("Video")
    _add_video(page, folder / VIDEO)
    if "command" in config:
        page.heading("Run it again")
        page.code(str(config["command"]))
    page.heading("Metrics")
    page.note("Against environment steps.")
    page.small_charts(_small_charts([Group(run.algorithm, run.env, [run])], {main, TRAINING}))
    page.heading("Network")
    _add_network(page, folder)
    page.heading("Options")
    page.note("The optimizer, the network, and the options that differ from the defaults.")
    page.table(_changed_options(config, run), ("option", "value", "default"))
    page.heading("Versions")
    page.table(_mapping(config.get("versions")).items())
    return page


def _page_of_runs(folder: Path, groups: Sequence[Group]) -> HtmlPage:
    algorithms: dict[str, dict[str, None]] = {}  # by environment, in order
    for group in groups:
        algorithms.setdefault(group.env, {})[_title(group.runs[0].algorithm)] = None
    page = HtmlPage("; ".join(f"{', '.join(names)} on {env}" for env, names in algorithms.items()))
    count = count_of(sum(len(group.runs) for group in groups), "run")
    page.note(f"{count} in {folder.resolve().name}")
    page.heading("Comparison")
    result = compare(folder)
    for title, names, rows in result.tables():
        page.table(rows, names, title)
    for text in (LEGEND, *result.notes):
        page.note(text)
    for env in algorithms:
        own = [group for group in groups if group.env == env]
        page.heading(f"{METRIC_LABELS[result.metric]} in {env}")
        page.chart(_lines(own, result.metric, means=True))
        if any(len(group.runs) > 1 for group in own):
            page.note("Thick lines: interquartile mean of the seeds. Thin lines: single seeds.")
        page.heading(f"Metrics in {env}")
        page.note("Against environment steps.")
        page.small_charts(_small_charts(own, {result.metric}))
    configs = (read_config(path) for path in sorted(folder.rglob(CONFIG)))
    if commands := [str(config["command"]) for config in configs if "command" in config]:
        page.heading("Run them again")
        page.code("\n".join(commands))
    return page


def _title(algorithm: str) -> str:
    """The name of an algorithm. Classes of other modules are not imported."""
    return algorithm_class(algorithm).__name__ if algorithm in ALGORITHMS else algorithm


def _measured(run: Run) -> Iterator[tuple[str, str]]:
    """The scores that were measured in training."""
    if VALIDATION in run.curves and run.curves[VALIDATION][0].size:
        metric, of = VALIDATION, "greedy policy"
        episodes = f", mean of {run.episodes} episodes" if run.episodes else ""
    else:
        metric, of, episodes = TRAINING, "in training, no validation", ""
    steps, values = run.curve(metric)
    for name, i in (("last", -1), ("best", values.argmax())):
        yield (
            f"{name} return ({of})",
            f"{number(values[i])}{episodes}, after {steps[i]:,.0f} environment steps",
        )


def _evaluated(folder: Path, episodes: int | None, seed: int | None) -> Iterator[tuple[str, str]]:
    """The score of the saved model in new episodes."""
    if episodes is None:
        return
    from tfpg.models.policy import Policy
    from tfpg.models.saving import load_model
    from tfpg.rollouts.evaluation import evaluate, open_envs

    source = find_model(folder)
    with open_envs(source.env, episodes) as envs:
        policy = Policy(load_model(source.model), envs, **source.head)
        result = evaluate(policy, envs, episodes, seed=seed, max_steps=source.max_steps)
    score, how = score_of(result)
    yield f"return of {MODEL}", f"{score}, {how}"


def _lines(groups: Sequence[Group], metric: str, means: bool = False) -> list[dict[str, Any]]:
    """The lines of a metric, one for each run that has it, and the means of groups."""
    lines = []
    for color, group in enumerate(groups):
        runs = [run for run in group.runs if metric in run.curves and run.curves[metric][0].size]
        thin = means and len(runs) > 1
        for run in runs:
            name = group.label if run.seed is None else f"{group.label}, seed {run.seed}"
            lines.append(line(*run.curves[metric], name, color, thin=thin, legend=not thin))
        if thin:
            steps, values = align(group, metric)
            name = f"{group.label}, {count_of(len(runs))}"
            lines.append(line(steps, interquartile_mean(values), name, color))
    return lines


def _small_charts(groups: Sequence[Group], shown: set[str]) -> dict[str, list[dict[str, Any]]]:
    """A chart of each metric that has values and is not shown elsewhere."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.curves)
    charts = {name: _lines(groups, name) for name in names if name not in shown.union(_NO_CHARTS)}
    return {name: lines for name, lines in charts.items() if lines}


def _add_video(page: HtmlPage, video: Path) -> None:
    if not video.is_file():
        page.note(f"The run has no {VIDEO}.")
    elif (size := video.stat().st_size) > _MAX_VIDEO:
        limit = readable_bytes(_MAX_VIDEO)
        page.note(f"{VIDEO} is not included: it has {readable_bytes(size)}, the limit is {limit}.")
    else:
        with open_regular(video) as file:
            page.video(file.read())


def _add_network(page: HtmlPage, folder: Path) -> None:
    """Add a table of the layers of the saved model."""
    from tfpg.models.saving import load_model

    try:
        model = load_model(folder / MODEL)
        rows = [
            (each.name, type(each).__name__, _shape(each), f"{each.count_params():,}")
            for each in model.layers
        ]
        total = "total", "", "", f"{model.count_params():,}"
    except (ValueError, OSError) as error:
        page.note(f"The model cannot be read: {one_line(error)}.")
        return
    page.table([*rows, total], ("layer", "class", "output", "parameters"))


def _shape(layer: Any) -> str:
    """The shape of the outputs of a layer, N being the batch. Empty if it is not known."""
    try:
        output = layer.output
    except (AttributeError, ValueError):  # of a model that is not functional
        return ""
    outputs = output if isinstance(output, (list, tuple)) else [output]
    if isinstance(output, Mapping):
        outputs = list(output.values())
    return ", ".join(
        f"[{', '.join('N' if n is None else str(n) for n in each.shape)}]" for each in outputs
    )


def _changed_options(config: Mapping[str, Any], run: Run) -> Iterator[tuple[str, str, str]]:
    """The name, the value and the default of options.

    The algorithm of another module is not imported, so all its options are listed.
    """
    if preset := config.get("preset"):
        yield "preset", str(preset), ""
    optimizer = _mapping(config.get("optimizer")).get("class_name", "")
    rate = f"learning_rate={_text(run.settings['learning_rate'])}"
    yield "optimizer", ", ".join(filter(None, [str(optimizer), rate])), ""
    for part in ("network", "critic", "head"):
        for name, value in _mapping(config.get(part)).items():
            yield f"{part}: {name}", _text(value), ""
    algorithm = config.get("algorithm")
    known = options_of(algorithm_class(algorithm)) if algorithm in ALGORITHMS else {}
    for name, value in config["options"].items():
        default = _text(known[name].default) if name in known else ""
        if _text(value) != default:
            yield name, _text(value), default


def _text(value: Any) -> str:
    """An option as Python writes it. Schedules are strings in ``config.json``."""
    if isinstance(value, float):
        return f"{value:.6g}"  # Keras saves float32
    return value if isinstance(value, str) else repr(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
