"""The arguments of the command line. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

import tfpg
from tfpg.rendering import OVERLAYS

ALGORITHMS = ("reinforce", "a2c", "ppo", "dqn")

# Options of the agents by the algorithms that have them; None: all.
_ACTOR_CRITIC = ("a2c", "ppo")
_POLICY_GRADIENT = ("reinforce", *_ACTOR_CRITIC)
_DQN = ("dqn",)
AGENT_OPTIONS: dict[str, tuple[str, ...] | None] = {
    "gamma": None,
    "num_envs": None,
    "max_steps": None,
    "entropy_coef": _POLICY_GRADIENT,
    "value_coef": _POLICY_GRADIENT,
    "gae_lambda": _POLICY_GRADIENT,
    "squash": _POLICY_GRADIENT,
    "episodes_per_update": ("reinforce",),
    "gradient": ("reinforce",),
    "baseline": ("reinforce",),
    "num_steps": _ACTOR_CRITIC,
    "epochs": ("ppo",),
    "minibatches": ("ppo",),
    "clip_ratio": ("ppo",),
    "target_kl": ("ppo",),
    "double": _DQN,
    "n_step": _DQN,
    "prioritized": _DQN,
    "capacity": _DQN,
    "batch_size": _DQN,
    "learn_period": _DQN,
    "updates_per_learn": _DQN,
    "learning_starts": _DQN,
    "target_update_period": _DQN,
    "tau": _DQN,
    "epsilon": _DQN,
    "explore_steps": _DQN,
    "steps_per_iteration": _DQN,
    "reward_clip": _DQN,
    "epsilon_per": _DQN,
    "overlap": _DQN,
}
# Options of networks and heads, likewise.
_OTHER_OPTIONS = {
    "dueling": _DQN,
    "log_std": _POLICY_GRADIENT,
    "positive_action": _POLICY_GRADIENT,
}
NETWORK_OPTIONS = ("hidden", "activation", "normalize", "log_std")


_EITHER = argparse.BooleanOptionalAction


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")


def parse(argv: Any, commands: dict[str, Callable]) -> argparse.Namespace:
    """The parsed arguments, with the function of their command as ``run_command``.

    Args:
        argv: The arguments. None: those of the process.
        commands: The functions by the names of the commands.
    """
    parser, train = _parser(commands)
    args = parser.parse_args(argv)
    if args.command == "record" and args.rank and args.episodes < 2:
        parser.error("--rank is of several episodes: --episodes 20")
    if args.command == "record" and "none" in args.overlay and len(args.overlay) > 1:
        parser.error("--overlay none shows nothing: leave out the others")
    if args.command == "train":
        for option, algorithms in (AGENT_OPTIONS | _OTHER_OPTIONS).items():
            known = algorithms or ALGORITHMS
            if getattr(args, option) is not None and args.algorithm not in known:
                train.error(f"--{option.replace('_', '-')} is for {' and '.join(known)}")
        if args.epsilon is not None:
            line = len(args.epsilon) == 3 and args.epsilon[2] >= 1
            if max(args.epsilon[:2]) > 1 or not (line or len(args.epsilon) == 1):
                train.error(
                    "--epsilon takes a number in [0, 1], or two of them and steps of at least 1"
                )
        given = [o for o in (*NETWORK_OPTIONS, "dueling") if getattr(args, o) is not None]
        if args.model and given:
            train.error(f"--{given[0].replace('_', '-')} shapes a new network: leave out --model")
    return args


def _number(kind: Callable[[str], Any], test: Callable[[Any], bool], what: str) -> Callable:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
            if test(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {what}, and got {text!r}")

    return parse


_COUNT = _number(int, lambda n: n >= 1, "an integer of at least 1")
_SEED = _number(int, lambda n: n >= 0, "an integer of at least 0")
_FROM_ZERO = _SEED
_FRACTION = _number(float, lambda x: 0 <= x <= 1, "a number in [0, 1]")
_POSITIVE = _number(float, lambda x: 0 < x < float("inf"), "a number above 0")
_COEF = _number(float, lambda x: 0 <= x < float("inf"), "a number of at least 0")
_FINITE = _number(float, lambda x: abs(x) < float("inf"), "a number")


def _parser(commands: dict[str, Callable]) -> tuple[argparse.ArgumentParser, Any]:
    parser: argparse.ArgumentParser = _Parser(
        prog="tfpg", description="Deep reinforcement learning for Keras."
    )
    parser.add_argument("--version", action="version", version=f"tfpg {tfpg.__version__}")
    subparsers = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=_SEED, metavar="N", help="of everything random")
    common.add_argument("--max-steps", type=_COUNT, metavar="N", help="cut episodes here")
    common.add_argument(
        "--positive-action",
        type=int,
        choices=(0, 1),
        help="the action whose probability a one-output model gives (default: 1)",
    )
    common.add_argument(
        "--squash",
        action=_EITHER,
        help="keep real actions in their bounds by a tanh",
    )
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    text = "load models of a newer Keras, too"
    common.add_argument("--allow-version-skew", action="store_true", help=text)

    train = subparsers.add_parser(
        "train",
        parents=[common],
        help="train a model, film it, plot it",
        description="Trains a model into a run directory. What is not said comes from the preset "
        "that was measured for the algorithm and the environment, or from the algorithm's "
        "defaults.",
    )
    train.set_defaults(run_command=commands["train"])
    train.add_argument("algorithm", choices=ALGORITHMS)
    train.add_argument("env", metavar="ENV", help="Gymnasium id, for example CartPole-v1")
    train.add_argument("--run", metavar="DIR", help="run directory (default: runs/ALGORITHM-ENV)")
    _add_budget(train)
    _add_agent_options(train)
    _add_dqn_options(train)
    _add_network_options(train)
    train.add_argument("--no-film", dest="film", action="store_false", help="no film of the result")
    train.add_argument(
        "--film-at",
        type=_FROM_ZERO,
        nargs="+",
        metavar="N",
        help="also film after so many iterations (0: before the first), into DIR/films",
    )
    train.add_argument(
        "--snapshots",
        type=_FROM_ZERO,
        nargs="+",
        metavar="N",
        help="keep the model after so many iterations, for tfpg record --snapshots",
    )
    train.add_argument("--verbose", type=int, choices=(0, 1, 2), help="as in Keras")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("source", metavar="RUN_OR_MODEL", help="a run directory or a .keras file")
    source.add_argument("--env", metavar="ID", help="Gymnasium id (default: the run's)")
    source.add_argument("--stochastic", action="store_true", help="sample the actions")
    source.add_argument(
        "--epsilon",
        type=_FRACTION,
        metavar="X",
        help="the model is a Q-network, and --stochastic plays any action so often",
    )

    p = subparsers.add_parser("evaluate", parents=[source, common], help="measure a saved model")
    p.set_defaults(run_command=commands["evaluate"])
    p.add_argument("--episodes", type=_COUNT, default=100, metavar="N", help="(default: 100)")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = subparsers.add_parser("record", parents=[source, common], help="film a saved model")
    p.set_defaults(run_command=commands["record"])
    p.add_argument(
        "out", nargs="+", metavar="OUT", help="films, .mp4, .gif or .webm, or a sheet, .png"
    )
    _add_film_options(p)

    p = subparsers.add_parser(
        "doctor",
        help="look over this machine and installation",
        description="Prints versions and devices, and what to do about whatever is missing. "
        "The exit code is 0 if training works, else 1.",
    )
    p.set_defaults(run_command=commands["doctor"])
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser, train


def _add_film_options(record: argparse.ArgumentParser) -> None:
    group = record.add_argument_group("what is played")
    group.add_argument("--episodes", type=_COUNT, default=1, metavar="N", help="(default: 1)")
    group.add_argument(
        "--rank", action="store_true", help="of these the best, the median and the worst"
    )
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--versus", metavar="RUN_OR_MODEL", help="another model on the same episodes, beside it"
    )
    which.add_argument(
        "--snapshots", action="store_true", help="the run's snapshots, one after another"
    )
    group.add_argument(
        "--grid",
        nargs="?",
        type=_COUNT,
        const=True,
        metavar="COLUMNS",
        help="episodes side by side",
    )
    group.add_argument(
        "--in-turn", dest="grid", action="store_false", default=None, help="one after another"
    )
    group = record.add_argument_group("how it looks")
    group.add_argument(
        "--overlay",
        nargs="+",
        default=["caption"],
        choices=(*OVERLAYS, "all", "none"),
        metavar="NAME",
        help=f"{', '.join(OVERLAYS)}, all or none (default: caption)",
    )
    group.add_argument("--action-names", nargs="+", metavar="NAME", help="of the actions")
    group.add_argument("--scale", type=_POSITIVE, default=1.0, metavar="X", help="times as large")
    group.add_argument(
        "--crop", type=_FROM_ZERO, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM")
    )
    group.add_argument("--fps", type=_POSITIVE, metavar="X", help="(default: the environment's)")
    group.add_argument("--speed", type=_POSITIVE, default=1.0, metavar="X", help="times as fast")
    group.add_argument("--max-seconds", type=_POSITIVE, metavar="X", help="cut the film here")


def _add_budget(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("how long")
    group.add_argument("--iterations", type=_COUNT, metavar="N", help="updates, or rounds of them")
    group.add_argument(
        "--env-steps", type=_COUNT, metavar="N", help="no further iteration beyond these"
    )
    group.add_argument(
        "--stop-at", type=_FINITE, metavar="RETURN", help="stop when the mean return reaches it"
    )
    group.add_argument(
        "--validation-freq",
        type=_COUNT,
        metavar="N",
        help="measure the greedy policy every so many iterations, in environments of its own",
    )
    group.add_argument(
        "--validation-episodes", type=_COUNT, default=10, metavar="N", help="(default: 10)"
    )


def _add_agent_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("the algorithm")
    group.add_argument("--gamma", type=_FRACTION, help="discount factor")
    group.add_argument("--learning-rate", type=_POSITIVE, metavar="X", help="of Adam")
    group.add_argument("--num-envs", type=_COUNT, metavar="N", help="environments side by side")
    group.add_argument("--entropy-coef", type=_COEF, metavar="X")
    group.add_argument("--value-coef", type=_COEF, metavar="X")
    group.add_argument("--gae-lambda", type=_FRACTION, metavar="X")
    group.add_argument("--episodes-per-update", type=_COUNT, metavar="N", help="reinforce")
    group.add_argument(
        "--gradient", choices=("fused", "accumulated", "streaming"), help="reinforce"
    )
    group.add_argument("--baseline", choices=("mean", "value"), help="reinforce")
    group.add_argument("--num-steps", type=_COUNT, metavar="N", help="a2c, ppo: of each fragment")
    group.add_argument("--epochs", type=_COUNT, metavar="N", help="ppo")
    group.add_argument("--minibatches", type=_COUNT, metavar="N", help="ppo")
    group.add_argument("--clip-ratio", type=_POSITIVE, metavar="X", help="ppo")
    group.add_argument("--target-kl", type=_POSITIVE, metavar="X", help="ppo")


def _add_dqn_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("dqn")
    group.add_argument("--double", action=_EITHER, help="Double Q-learning")
    group.add_argument("--n-step", type=_COUNT, metavar="N", help="rewards of a transition")
    group.add_argument("--prioritized", action=_EITHER, help="sample by errors")
    group.add_argument("--capacity", type=_COUNT, metavar="N", help="steps that are kept")
    group.add_argument("--batch-size", type=_COUNT, metavar="N", help="steps of an update")
    group.add_argument("--learning-starts", type=_COUNT, metavar="N", help="random steps before")
    group.add_argument("--learn-period", type=_COUNT, metavar="N", help="steps between updates")
    group.add_argument("--updates-per-learn", type=_COUNT, metavar="N", help="updates between them")
    group.add_argument(
        "--target-update-period",
        type=_COUNT,
        metavar="N",
        help="updates between its copies to the target",
    )
    group.add_argument("--tau", type=_FRACTION, metavar="X", help="or soft: its share of the way")
    group.add_argument(
        "--epsilon",
        type=_COEF,
        nargs="+",
        metavar="X",
        help="how often any action is played: a number, or FROM TO STEPS for a line",
    )
    group.add_argument(
        "--explore-steps", type=_COUNT, metavar="N", help="steps that a random action is repeated"
    )
    group.add_argument(
        "--epsilon-per", choices=("step", "episode"), help="what its STEPS count (default: step)"
    )
    group.add_argument("--reward-clip", type=_POSITIVE, metavar="X", help="in what is learned from")
    group.add_argument("--steps-per-iteration", type=_COUNT, metavar="N", help="between two logs")
    group.add_argument("--overlap", action=_EITHER, help="play while the updates run")


def _add_network_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("the network")
    group.add_argument("--hidden", type=_COUNT, nargs="+", metavar="UNITS")
    group.add_argument(
        "--activation", metavar="NAME", help="by Keras's name (default: tanh; dqn: relu)"
    )
    group.add_argument(
        "--normalize",
        action=_EITHER,
        help="standardize observations by running statistics",
    )
    group.add_argument("--dueling", action=_EITHER, help="dqn: a stream each for value and actions")
    group.add_argument("--log-std", type=_FINITE, metavar="X", help="of real actions, at first")
    group.add_argument("--model", metavar="FILE", help="go on from this run or .keras model")
