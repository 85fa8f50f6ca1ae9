"""``tfpg train ALGORITHM ENV``: train a model, and save everything about it in a run folder."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tfpg.agents import presets
from tfpg.agents.registry import algorithm_class, algorithm_names
from tfpg.cli.command import (
    ClickCommand,
    Command,
    CommandGroup,
    EnvArguments,
    argument,
    given,
    help_of,
    is_option,
    make,
    parameters,
    setting,
)
from tfpg.cli.run_training import Training
from tfpg.cli.several_runs import seeds, train_all, without
from tfpg.cli.values import as_text, dashed, each
from tfpg.core.options import (
    WithOptions,
    as_json,
    count,
    finite,
    nonnegative,
    one_of,
    option,
    options_of,
    positive,
    whole,
)
from tfpg.envs import has_own_vectorization, render_modes, split_env_id
from tfpg.results.run_config import read_config
from tfpg.sharing import runs

VERBOSE = (
    "0: silent. 1: a progress bar in a terminal, else a line every two seconds. 2: a line per "
    "iteration."
)
# Options that may change when a run is resumed, because the result is the same.
_FREE = (
    *("run", "debug", "verbose", "allow_version_skew", "checkpoint_every", "worker_timeout"),
    "ray_address",
    "env_kwargs",  # which are a part of env
)


class Model(WithOptions):
    """The network and its optimizer."""

    model: Path | None = setting(
        "Run or .keras file with the model to train, instead of a new network."
    )
    learning_rate: float | None = setting("Learning rate of Adam.", positive)
    hidden: tuple[int, ...] | None = setting("Units of each hidden layer.", each(count))
    activation: str | None = setting("Keras name of the activation function of the hidden layers.")
    normalize: bool | None = setting("Standardize observations with running statistics.")
    layer_norm: bool | None = setting("Normalize each hidden layer before its activation.")
    dueling: bool | None = setting(
        "Split the network into streams for the state value and the advantages."
    )
    atoms: int | None = setting("Outputs per action, for the distribution of its return.", count)
    noisy: bool | None = setting(
        "Explore with trainable noise on the network's weights (with DQN, use --epsilon 0)."
    )
    recurrent: int | None = setting(
        "Give the policy a memory: a GRU cell with this many units, after the hidden layers.", count
    )
    log_std: float | None = setting("Initial log standard deviation of continuous actions.", finite)

    def network(self) -> dict[str, Any]:
        """Return the settings of a new network that were given."""
        names = ("hidden", "activation", "normalize", "layer_norm", "atoms", "noisy", "log_std")
        return {x: getattr(self, x) for x in names if getattr(self, x) is not None}

    def check_options(self) -> None:
        super().check_options()
        kinds = [x for x in ("dueling", "recurrent") if getattr(self, x) is not None]
        settings = [*kinds, *self.network()]
        if self.model is not None and settings:
            name = dashed(settings[0])
            raise ValueError(f"{name} is for new networks: leave out --model or {name}.")


class Workers(WithOptions):
    """Processes that run the environments."""

    section = "Worker options"

    workers: int | None = setting(
        "Number of worker processes to distribute the environments over. [default: none]",
        count,
    )
    ray_workers: int | None = setting(
        "Number of Ray actors that play, on this machine or in a cluster. [default: none]", count
    )
    ray_address: str | None = setting(
        "Address of the Ray cluster: auto, or ray://HOST:10001. [default: Ray is started on this "
        "machine]"
    )
    worker_timeout: float | None = setting(
        "Kill a worker whose environment does not answer within this many seconds.", positive
    )
    on_env_error: str = setting(
        "If an environment fails: stop training, restart the episode, or drop it.",
        one_of("raise", "restart", "drop"),
        default="raise",
    )

    def check_options(self) -> None:
        super().check_options()
        if self.workers is not None and self.ray_workers is not None:
            raise ValueError("Use either --workers or --ray-workers.")
        if self.ray_address is not None and self.ray_workers is None:
            raise ValueError("--ray-address needs --ray-workers, their number.")
        if self.worker_timeout is not None and not (self.workers or self.ray_workers):
            raise ValueError(
                "--worker-timeout needs --workers or --ray-workers: only a worker can be killed."
            )


class Output(WithOptions):
    """Files to save in addition to the models and metrics."""

    video: bool = setting("Record a video of the best model.", default=True)
    video_at: tuple[int, ...] | None = setting(
        "Also record a video after each of these iterations. 0: before the first one.",
        each(whole),
    )
    snapshots: tuple[int, ...] | None = setting(
        "Save the model after each of these iterations, for tfpg record --snapshots.", each(whole)
    )
    tensorboard: bool = setting(
        "Write a log for TensorBoard, with the videos of --video-at.", default=False
    )
    checkpoint_every: float = setting(
        "Seconds between checkpoints. 0: save one after each iteration.", nonnegative, default=10.0
    )


class Train(EnvArguments, Model, Workers, Output, Command):
    """Train a model, and save it in a run folder.

    The folder contains the best and the last model, metrics, a learning curve, a video and
    checkpoints. To resume a stopped run, run the same command again.
    """

    section = "Training options"

    env: str = argument("Gymnasium id, such as CartPole-v1, or module:id.")
    run: Path | None = setting("Run folder. [default: runs/ALGORITHM-ENV]")
    seed: int | None = setting("Random seed. [default: random]", whole)
    seeds: int | None = setting(
        "Train this many models with successive seeds, as many at a time as there are cores. Each "
        "has its own folder in the run folder. [default: a single model]",
        count,
    )
    env_steps: int | None = setting("Train for at most this many environment steps.", count)
    iterations: int | None = setting("Train for this many iterations, instead of env_steps.", count)
    stop_at: float | None = setting("Stop when the mean episode return reaches this value.", finite)
    validation_env_steps: int | None = setting(
        "Environment steps between evaluations of the greedy policy. 0: no evaluations. [default: "
        "a twentieth of the training]",
        whole,
    )
    validation_episodes: int = setting("Number of episodes in each evaluation.", count, default=10)
    verbose: int = setting(VERBOSE, one_of(0, 1, 2), default=1)
    allow_version_skew: bool = setting(
        "Load models and checkpoints that a newer version of tfpg or Keras wrote.", default=False
    )

    # Not options of the command line, but set when it is parsed.
    algorithm: str = option(default="", help="Name of the algorithm.", in_config=False)
    agent_options: Mapping[str, Any] = option(
        default=(), check=dict, help="Options of the agent.", in_config=False
    )
    words: Sequence[str] = option(default=(), help="The command line.", in_config=False)

    def execute(self) -> None:
        render_modes(self.env)  # raises an error if there is no such environment
        name, _ = split_env_id(self.env)
        folder = self.run or Path("runs") / f"{self.algorithm}-{name.split('/')[-1]}"
        if self.seeds is not None:
            words = without(self.words, "--seeds", "--seed", "--run")
            train_all(folder, words, seeds(self.seed or 0, self.seeds), check=check_finished)
            return
        resuming = not runs.is_free(folder)
        if resuming:
            try:
                stored = parse(runs.unfinished_command(folder))
            except ValueError as error:
                raise FileExistsError(
                    f"{error} Choose another folder with --run, or remove this one."
                ) from None
            self.seed = stored.seed if self.seed is None else self.seed
            self.check_same(stored, folder)
        Training(self, folder, resuming).run()

    @property
    def text(self) -> str:
        """The command, with its seed."""
        seeded = any(word.partition("=")[0] == "--seed" for word in self.words)
        seed = [] if seeded else ["--seed", str(self.seed)]
        return shlex.join(["tfpg", "train", *self.words, *seed])

    def settings(self) -> dict[str, Any]:
        """Return everything that was given and affects the result."""
        own = {
            each.name: getattr(self, each.name)
            for each in options_of(Train).values()
            if each.in_config and getattr(self, each.name) not in (None, each.default)
        }
        found = {"algorithm": self.algorithm, "env": self.env, **own, **self.agent_options}
        return {name: as_json(value) for name, value in found.items() if name not in _FREE}

    def check_same(self, stored: Train, folder: Path) -> None:
        """Raise an error unless this is the command of the run in a folder.

        Raises:
            FileExistsError: It is a different one. The message names the first difference.
        """
        # Gymnasium's own vector environments step differently without workers.
        own = has_own_vectorization(self.env)
        free = () if own else ("on_env_error", "workers", "ray_workers")
        here, there = self.settings(), stored.settings()
        for name in {**there, **here}:
            if name not in free and here.get(name, "default") != there.get(name, "default"):
                raise FileExistsError(
                    f"{str(folder)!r} has a run with {_as_typed(name, there)}, but this one "
                    f"has {_as_typed(name, here)}. Choose another folder with --run, remove this "
                    f"one, or resume it as it was: tfpg resume {folder}"
                )


def _as_typed(name: str, settings: Mapping[str, Any]) -> str:
    if name not in settings:
        return f"the default {dashed(name)}"
    value = settings[name]
    if name in ("algorithm", "env"):
        return f"{name} {value}"
    if isinstance(value, bool):
        return dashed(name if value else f"no_{name}")
    return f"{dashed(name)} {as_text(value)}"


def summary_of(agent: type) -> str:
    """The first line of an agent's docstring."""
    return help_of(agent).splitlines()[0]


class AlgorithmCommand(ClickCommand):
    """``tfpg train``, or a command like it, with the options of one algorithm."""

    def __init__(self, algorithm: str, command: type[Train]):
        self.algorithm, self.agent = algorithm, algorithm_class(algorithm)
        self.declared = command
        options = options_of(self.agent)
        # Settings of the network that this agent has no use for. The network's log_std takes the
        # place of the agent's.
        networks = {
            "log_std": "log_std" in options,
            "dueling": "epsilon" in options,
            "noisy": self.agent.may_be_noisy,
            "atoms": "atoms" in presets.find(algorithm, "").network,
            "recurrent": self.agent.may_be_recurrent,
        }
        skip = [name for name, fits in networks.items() if not fits]
        own, agents = parameters(command, skip), parameters(self.agent, ["log_std"])
        self.agent_names = [each.name for each in agents]
        super().__init__(
            algorithm,
            params=[own[0], *agents, *own[1:]],
            callback=self.make,
            help=f"{summary_of(self.agent)}\n\n{help_of(command)}",
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = [self.algorithm, *args]
        return super().parse_args(ctx, args)

    def make(self, **_: Any) -> Command:
        values = given()
        options = {name: values.pop(name) for name in self.agent_names if name in values}
        words = click.get_current_context().obj
        more = {"algorithm": self.algorithm, "agent_options": options, "words": words}
        return make(self.declared, {**values, **more})

    def defaults(self, ctx: click.Context) -> Mapping[str, Any]:
        """Return those of the preset, of ``ENV`` if it is given before ``--help``."""
        from tfpg.models import networks

        preset = presets.find(self.algorithm, _env_of(ctx) or "")
        kind = "actor_critic" if self.agent.needs_value and preset.critic is None else "mlp"
        kind = preset.architecture or kind
        network = inspect.signature(getattr(networks, kind)).parameters
        rate = f"{preset.learning_rate:g}" + ", decays to 0" * preset.anneal
        return {
            **{name: each.default for name, each in network.items() if name in options_of(Model)},
            **preset.network,
            **preset.options,
            "dueling": kind == "dueling" or bool(preset.network.get("dueling")),
            "learning_rate": rate,
            "env_steps": preset.env_steps,
        }

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        env = _env_of(ctx)
        text = f"The defaults are those for {env}."
        if env is None:
            text = (
                "Some environments have their own defaults. To see them: "
                f"{ctx.command_path} ENV --help"
            )
        formatter.write_paragraph()
        formatter.write_text(text)


def _env_of(ctx: click.Context) -> str | None:
    """The environment that is given before ``--help``."""
    env = (ctx.obj or [])[1:2]
    return env[0] if env and not is_option(env[0]) else None


class AlgorithmGroup(CommandGroup):
    """``tfpg train``, or a command like it: one for each algorithm, made when it is used."""

    what = "algorithm"

    def __init__(self, name: str, command: type[Train]):
        more = f"For the options of an algorithm: tfpg {name} ALGORITHM --help"
        help = f"{help_of(command)}\n\n{more}"
        metavar = "ALGORITHM ENV [OPTIONS]"
        super().__init__(name, help=help, options_metavar="", subcommand_metavar=metavar)
        self.declared = command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary_of(algorithm_class(name))) for name in algorithm_names()]
        rows.append(("module:Class", "A tfpg.Agent in a module of your own."))
        with formatter.section("Algorithms"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return algorithm_names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        try:
            return AlgorithmCommand(name, self.declared)
        except (ValueError, ImportError) as error:
            raise click.UsageError(str(error), ctx) from None


train = AlgorithmGroup("train", Train)


def parse(text: str) -> Train:
    """Return the training command that a text contains.

    Raises:
        ValueError: It is not a valid command.
    """
    try:
        words = shlex.split(text)
        if words[:2] == ["tfpg", "train"] and "--help" not in words:
            return train.main(words[2:], prog_name="tfpg train", standalone_mode=False)
        reason = "It must start with tfpg train."
    except click.ClickException as error:
        reason = error.format_message()
    except ValueError as error:  # unbalanced quotes
        reason = f"{error}."
    raise ValueError(f"{text!r} is not a valid training command. {reason}")


def check_finished(folder: Path, words: Sequence[str]) -> None:
    """Raise an error unless a finished run was trained with these words, after ``tfpg train``.

    Raises:
        FileExistsError: It was trained with others.
    """
    stored = parse(read_config(folder / runs.CONFIG)["command"])
    parse(shlex.join(["tfpg", "train", *words])).check_same(stored, folder)
