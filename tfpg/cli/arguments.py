"""The arguments of the command line. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import tfpg
from tfpg.agents import ALGORITHMS
from tfpg.agents import POLICY_GRADIENT as _POLICY_GRADIENT
from tfpg.agents import Q_LEARNING as _DQN
from tfpg.cli.argument_types import COEF, COUNT, EITHER, FRACTION, FROM_ZERO, POSITIVE, SEED, Parser
from tfpg.cli.train_arguments import (
    add_agent_options,
    add_budget,
    add_dqn_options,
    add_network_options,
)
from tfpg.video import OVERLAYS

# Options of the agents by the algorithms that have them; None: all.
_ACTOR_CRITIC = ("a2c", "ppo")
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
    if args.command == "verify-resume":
        if args.env in ALGORITHMS:  # as tfpg train takes them
            args.env, args.algorithm = args.algorithm, args.env
        if args.algorithm not in ALGORITHMS:
            wanted = f"an environment and one of {', '.join(ALGORITHMS)}"
            parser.error(f"wanted: {wanted}; got {args.env!r} and {args.algorithm!r}")
    if args.command == "train":
        for option, algorithms in (AGENT_OPTIONS | _OTHER_OPTIONS).items():
            known = algorithms or ALGORITHMS
            if getattr(args, option) is not None and args.algorithm not in known:
                train.error(f"--{option.replace('_', '-')} is for {' and '.join(known)}")
        if args.worker_timeout and not args.workers:
            train.error("--worker-timeout is for --workers: without them nothing can be killed")
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


def _parser(commands: dict[str, Callable]) -> tuple[argparse.ArgumentParser, Any]:
    parser: argparse.ArgumentParser = Parser(
        prog="tfpg", description="Deep reinforcement learning for Keras."
    )
    parser.add_argument("--version", action="version", version=f"tfpg {tfpg.__version__}")
    subparsers = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=SEED, metavar="N", help="of everything random")
    common.add_argument("--max-steps", type=COUNT, metavar="N", help="cut episodes here")
    common.add_argument(
        "--positive-action",
        type=int,
        choices=(0, 1),
        help="the action whose probability a one-output model gives (default: 1)",
    )
    common.add_argument(
        "--squash",
        action=EITHER,
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
    add_budget(train)
    add_agent_options(train)
    add_dqn_options(train)
    add_network_options(train)
    train.add_argument("--no-film", dest="film", action="store_false", help="no film of the result")
    train.add_argument(
        "--film-at",
        type=FROM_ZERO,
        nargs="+",
        metavar="N",
        help="also film after so many iterations (0: before the first), into DIR/films",
    )
    train.add_argument(
        "--snapshots",
        type=FROM_ZERO,
        nargs="+",
        metavar="N",
        help="keep the model after so many iterations, for tfpg record --snapshots",
    )
    train.add_argument(
        "--checkpoint-every",
        type=COEF,
        default=10.0,
        metavar="SECONDS",
        help="seconds from one checkpoint to the next; 0: after each iteration (default: 10)",
    )
    train.add_argument("--verbose", type=int, choices=(0, 1, 2), help="as in Keras")
    train.set_defaults(allow_version_skew=False)

    p = subparsers.add_parser(
        "resume",
        help="go on with a training that was stopped",
        description="Goes on with a run where its newest whole checkpoint was written, as if it "
        "had not been stopped. The same train command does so too.",
    )
    p.set_defaults(run_command=commands["resume"])
    p.add_argument("run", metavar="RUN", help="a run directory")
    p.add_argument(
        "--allow-version-skew",
        action="store_true",
        help="try it with other versions than those that wrote it",
    )
    p.add_argument("--verbose", type=int, choices=(0, 1, 2), help="as in Keras")
    p.add_argument("--debug", action="store_true", help="show tracebacks")

    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("--json", action="store_true", help="print one JSON object")

    p = subparsers.add_parser(
        "verify-resume",
        parents=[told],
        help="kill a training, go on with it, and compare",
        description="Trains twice, killing the process of one of them, and compares everything "
        "that the two have come to. The exit code is 0 if nothing differs, else 1.",
    )
    p.set_defaults(run_command=commands["verify-resume"])
    p.add_argument("env", metavar="ENV", help="Gymnasium id")
    p.add_argument("algorithm", metavar="ALGORITHM", help=f"or before ENV: {', '.join(ALGORITHMS)}")
    p.add_argument("--iterations", type=COUNT, default=8, metavar="N", help="(default: 8)")
    p.add_argument("--kills", type=COUNT, default=2, metavar="N", help="(default: 2)")
    p.add_argument("--seed", type=SEED, metavar="N", help="(default: 0)")
    p.add_argument("--debug", action="store_true", help="show tracebacks")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("source", metavar="RUN_OR_MODEL", help="a run directory or a .keras file")
    source.add_argument("--env", metavar="ID", help="Gymnasium id (default: the run's)")
    source.add_argument("--stochastic", action="store_true", help="sample the actions")
    source.add_argument(
        "--epsilon",
        type=FRACTION,
        metavar="X",
        help="the model is a Q-network, and --stochastic plays any action so often",
    )

    p = subparsers.add_parser(
        "evaluate", parents=[source, common, told], help="measure a saved model"
    )
    p.set_defaults(run_command=commands["evaluate"])
    p.add_argument("--episodes", type=COUNT, default=100, metavar="N", help="(default: 100)")

    p = subparsers.add_parser("record", parents=[source, common], help="film a saved model")
    p.set_defaults(run_command=commands["record"])
    p.add_argument(
        "out", nargs="+", metavar="OUT", help="films, .mp4, .gif or .webm, or a sheet, .png"
    )
    _add_film_options(p)

    p = subparsers.add_parser(
        "check",
        parents=[told],
        help="look over an environment",
        description="Plays at random in an environment and tells what is wrong with it. The exit "
        "code is 0 if there is no problem, else 1.",
    )
    p.set_defaults(run_command=commands["check"])
    p.add_argument("env", metavar="ENV", help="Gymnasium id, or module:id")
    p.add_argument("--steps", type=COUNT, default=1000, metavar="N", help="(default: 1000)")
    p.add_argument("--seed", type=SEED, default=0, metavar="N", help="(default: 0)")
    p.add_argument("--seconds", type=POSITIVE, default=10.0, metavar="X", help="(default: 10)")
    p.add_argument("--debug", action="store_true", help="show tracebacks")

    p = subparsers.add_parser(
        "doctor",
        parents=[told],
        help="look over this machine and installation",
        description="Prints versions and devices, and what to do about whatever is missing. "
        "The exit code is 0 if training works, else 1.",
    )
    p.set_defaults(run_command=commands["doctor"])
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser, train


def _add_film_options(record: argparse.ArgumentParser) -> None:
    group = record.add_argument_group("what is played")
    group.add_argument("--episodes", type=COUNT, default=1, metavar="N", help="(default: 1)")
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
        type=COUNT,
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
    group.add_argument("--scale", type=POSITIVE, default=1.0, metavar="X", help="times as large")
    group.add_argument(
        "--crop", type=FROM_ZERO, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM")
    )
    group.add_argument("--fps", type=POSITIVE, metavar="X", help="(default: the environment's)")
    group.add_argument("--speed", type=POSITIVE, default=1.0, metavar="X", help="times as fast")
    group.add_argument("--max-seconds", type=POSITIVE, metavar="X", help="cut the film here")
