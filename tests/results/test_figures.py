"""Learning curves and figures of comparisons, decoded again."""

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from made_runs import make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import tfpg
from tfpg.core.figures import DARK, LIGHT, short_count


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of ppo, two of dqn and one of each in another environment."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for name, count in (("ppo", 3), ("dqn", 2)):
        for seed in range(count):
            returns = [None, *np.linspace(0, 300, 8) + rng.normal(0, 30, 8)]
            make_run(folder / f"cartpole/{name}/{seed}", returns, seed, name)
        make_run(folder / f"acrobot/{name}", [-500, -200, -90], 0, name, "Acrobot-v1")
    return folder


def rgb(color):
    names = {"white": "#FFFFFF"}
    digits = names.get(color, color).removeprefix("#")
    return tuple(bytes.fromhex(digits))


def pixels(path):
    """The counts of the colors of a picture, and its width and height."""
    with Image.open(path) as picture:
        counts = picture.convert("RGB").getcolors(2**24)
        return {color: count for count, color in counts}, picture.size


@pytest.mark.parametrize("draw", [tfpg.plot, tfpg.compare])
@pytest.mark.parametrize(("dark", "theme"), [(False, LIGHT), (True, DARK)])
def test_a_figure_has_the_colors_of_its_theme(runs, tmp_path, draw, dark, theme):
    draw(runs / "cartpole", tmp_path / "figure.png", dark=dark)
    counts, (width, height) = pixels(tmp_path / "figure.png")
    assert width == 1400
    assert 300 < height < 1000
    assert counts[rgb(theme.background)] > 0.6 * width * height
    for color in theme.lines[:2]:  # a line for each algorithm
        assert counts[rgb(color)] > 100
    assert rgb(theme.lines[2]) not in counts


def test_every_environment_has_a_panel(runs):
    figure = tfpg.plot(runs)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Acrobot-v1", "CartPole-v1"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["Environment steps"] * 2


def test_four_environments_are_two_rows(tmp_path):
    for env in "abcd":
        make_run(tmp_path / env, [1, 2], env=env)
    figure = tfpg.plot(tmp_path)
    rows = {round(axis.get_position().y0, 2) for axis in figure.axes}
    assert (len(figure.axes), len(rows)) == (4, 2)


def texts(figure):
    (legend,) = figure.legends or [None]
    labels = [text.get_text() for text in legend.get_texts()] if legend else []
    return labels, figure.get_supxlabel()


def test_legend_and_caption_state_what_is_drawn(runs):
    labels, caption = texts(tfpg.plot(runs / "cartpole"))
    assert labels == ["dqn (2 seeds)", "ppo (3 seeds)"]
    assert caption.splitlines() == [
        "Lines: mean of the seeds; bands: 95% bootstrap interval; thin lines: single seeds; "
        "10 greedy episodes per",
        "evaluation.",
        "2 seeds: differences may be chance.",
    ]


def test_five_seeds_are_enough(tmp_path):
    for seed in range(5):
        make_run(tmp_path / f"{seed}", [1, 2], seed)
    figure = tfpg.plot(tmp_path)
    assert texts(figure) == (
        [],
        "Lines: interquartile mean of 5 seeds; bands: 95% bootstrap interval; 10 greedy episodes "
        "per evaluation.",
    )
    assert figure.axes[0].get_title(loc="left") == "ppo in CartPole-v1"


def test_a_single_run_shows_its_training_too(tmp_path):
    run = make_run(tmp_path / "run", [10, None, 30], seed=4)
    figure = tfpg.plot(run)
    (axis,) = figure.axes
    assert texts(figure)[0] == ["greedy policy", "in training"]
    assert axis.get_title(loc="left") == "ppo in CartPole-v1, seed 4"
    drawn = [line.get_xydata().tolist() for line in axis.lines]
    assert drawn == [[[100, 10], [300, 30]], [[100, 0.4], [200, 1.4], [300, 2.4]]]


def test_the_line_is_the_interquartile_mean_and_the_band_covers_it(tmp_path):
    for seed, value in enumerate([0, 10, 20, 90]):
        make_run(tmp_path / f"{seed}", [value, value], seed)
    (axis,) = tfpg.plot(tmp_path).axes
    (line,) = axis.lines
    assert set(line.get_ydata()) == {15}
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (0, 90)


@pytest.mark.parametrize("what", ["one", "list", "dict"])
def test_runs_without_validation_are_compared_by_their_training_with_a_note(tmp_path, what):
    make_run(tmp_path / "a", [None, None])
    make_run(tmp_path / "b", [1, 2], seed=1, algorithm="dqn")
    runs = {"one": tmp_path, "list": [tmp_path / "a", tmp_path / "b"], "dict": {"x": tmp_path}}
    figure = tfpg.plot(runs[what])
    assert figure.axes[0].get_ylabel() == "Training return"
    assert "No validation in 1 of 2 runs: these" in figure.get_supxlabel()
    comparison = tfpg.compare(runs[what])
    assert comparison.metric == "episode_return"
    assert "No validation in 1 of 2 runs: these" in comparison.notes[-1]


def test_any_metric_can_be_drawn(runs):
    figure = tfpg.plot(runs / "cartpole", metric="epoch")
    assert figure.axes[0].get_ylabel() == "epoch"
    assert "greedy" not in figure.get_supxlabel()
    with pytest.raises(ValueError, match="Did you mean 'episode_return'"):
        tfpg.plot(runs, metric="episode_retrun")


@pytest.mark.parametrize("draw", [tfpg.plot, tfpg.compare])
def test_an_svg_is_a_valid_file_with_the_lines(runs, tmp_path, draw):
    draw(runs / "cartpole", tmp_path / "figure.svg", dark=True)
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    styles = " ".join(each.get("style", "") for each in root.iter())
    for color in (DARK.background, *DARK.lines[:2]):
        assert color.lower() in styles.lower()


def test_nothing_is_drawn_over_anything_else(tmp_path):
    long = {f"ppo, learning_rate=0.00{i}, hidden=[256, 256, 256], gamma=0.99": i for i in range(9)}
    for label, i in long.items():
        make_run(tmp_path / f"{i}", [i, None, 3 * i])
        long[label] = tmp_path / f"{i}"
    for draw in (tfpg.plot, tfpg.compare):
        draw(long, tmp_path / "figure.png")
        assert pixels(tmp_path / "figure.png")[1][0] == 1400
    figure = tfpg.plot(long)
    (axis,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    assert legend.y0 > axis.get_tightbbox(renderer).y1 - 1
    assert legend.x1 < figure.bbox.x1
    styles = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(styles) == len(axis.lines) == 9


def test_notebooks_display_a_figure(runs):
    data, metadata = DisplayFormatter().format(tfpg.plot(runs))
    assert data["image/png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert metadata["image/png"] == {"width": 840, "height": 420}


def test_a_figure_needs_neither_pyplot_nor_tensorflow(runs, tmp_path):
    code = (
        "import sys, tfpg\n"
        "tfpg.plot(sys.argv[1], sys.argv[2])\n"
        "print({'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, str(runs), str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("draw", [tfpg.plot, tfpg.compare])
def test_a_figure_that_cannot_be_written_is_refused(runs, tmp_path, draw):
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg"):
        draw(runs, tmp_path / "figure.txt")
    with pytest.raises(FileNotFoundError, match="mkdir -p"):
        draw(runs, tmp_path / "no/figure.png")


@pytest.mark.parametrize(
    ("steps", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (2500, "2.5k"), (999_999, "1M"), (12_345_678, "12.3M")],
)
def test_steps_are_short(steps, text):
    assert short_count(steps) == text
