"""The arguments of ``tfpg train``, in groups. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse

from tfpg.cli.argument_types import COEF, COUNT, EITHER, FINITE, FRACTION, POSITIVE


def add_budget(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("how long")
    group.add_argument("--iterations", type=COUNT, metavar="N", help="updates, or rounds of them")
    group.add_argument(
        "--env-steps", type=COUNT, metavar="N", help="no further iteration beyond these"
    )
    group.add_argument(
        "--stop-at", type=FINITE, metavar="RETURN", help="stop when the mean return reaches it"
    )
    group.add_argument(
        "--validation-freq",
        type=COUNT,
        metavar="N",
        help="measure the greedy policy every so many iterations, in environments of its own",
    )
    group.add_argument(
        "--validation-episodes", type=COUNT, default=10, metavar="N", help="(default: 10)"
    )


def add_agent_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("the algorithm")
    group.add_argument("--gamma", type=FRACTION, help="discount factor")
    group.add_argument("--learning-rate", type=POSITIVE, metavar="X", help="of Adam")
    group.add_argument("--num-envs", type=COUNT, metavar="N", help="environments side by side")
    group.add_argument(
        "--workers", type=COUNT, metavar="K", help="processes that share the environments out"
    )
    group.add_argument(
        "--worker-timeout",
        type=POSITIVE,
        metavar="SECONDS",
        help="one that gives no answer for so long is killed",
    )
    group.add_argument(
        "--on-env-error",
        choices=("raise", "restart", "drop"),
        default="raise",
        help="what becomes of an episode whose environment fails (default: raise)",
    )
    group.add_argument("--entropy-coef", type=COEF, metavar="X")
    group.add_argument("--value-coef", type=COEF, metavar="X")
    group.add_argument("--gae-lambda", type=FRACTION, metavar="X")
    group.add_argument("--episodes-per-update", type=COUNT, metavar="N", help="reinforce")
    group.add_argument("--gradient", choices=("fused", "accumulated"), help="reinforce")
    group.add_argument("--baseline", choices=("mean", "value"), help="reinforce")
    group.add_argument("--num-steps", type=COUNT, metavar="N", help="a2c, ppo: of each fragment")
    group.add_argument("--epochs", type=COUNT, metavar="N", help="ppo")
    group.add_argument("--minibatches", type=COUNT, metavar="N", help="ppo")
    group.add_argument("--clip-ratio", type=POSITIVE, metavar="X", help="ppo")
    group.add_argument("--target-kl", type=POSITIVE, metavar="X", help="ppo")


def add_dqn_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("dqn")
    group.add_argument("--double", action=EITHER, help="Double Q-learning")
    group.add_argument("--n-step", type=COUNT, metavar="N", help="rewards of a transition")
    group.add_argument("--prioritized", action=EITHER, help="sample by errors")
    group.add_argument("--capacity", type=COUNT, metavar="N", help="steps that are kept")
    group.add_argument("--batch-size", type=COUNT, metavar="N", help="steps of an update")
    group.add_argument("--learning-starts", type=COUNT, metavar="N", help="random steps before")
    group.add_argument("--learn-period", type=COUNT, metavar="N", help="steps between updates")
    group.add_argument("--updates-per-learn", type=COUNT, metavar="N", help="updates between them")
    group.add_argument(
        "--target-update-period",
        type=COUNT,
        metavar="N",
        help="updates between its copies to the target",
    )
    group.add_argument("--tau", type=FRACTION, metavar="X", help="or soft: its share of the way")
    group.add_argument(
        "--epsilon",
        type=COEF,
        nargs="+",
        metavar="X",
        help="how often any action is played: a number, or FROM TO STEPS for a line",
    )
    group.add_argument(
        "--explore-steps", type=COUNT, metavar="N", help="steps that a random action is repeated"
    )
    group.add_argument(
        "--epsilon-per", choices=("step", "episode"), help="what its STEPS count (default: step)"
    )
    group.add_argument("--reward-clip", type=POSITIVE, metavar="X", help="in what is learned from")
    group.add_argument("--steps-per-iteration", type=COUNT, metavar="N", help="between two logs")
    group.add_argument("--overlap", action=EITHER, help="play while the updates run")


def add_network_options(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("the network")
    group.add_argument("--hidden", type=COUNT, nargs="+", metavar="UNITS")
    group.add_argument(
        "--activation", metavar="NAME", help="by Keras's name (default: tanh; dqn: relu)"
    )
    group.add_argument(
        "--normalize",
        action=EITHER,
        help="standardize observations by running statistics",
    )
    group.add_argument("--dueling", action=EITHER, help="dqn: a stream each for value and actions")
    group.add_argument("--log-std", type=FINITE, metavar="X", help="of real actions, at first")
    group.add_argument("--model", metavar="FILE", help="go on from this run or .keras model")
