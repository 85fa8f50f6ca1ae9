"""The command line: ``tfpg train``, ``tfpg evaluate`` and ``tfpg record``.

Nothing here imports TensorFlow before the arguments have been checked: help and usage errors
answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tfpg
from tfpg import runs

ALGORITHMS = ("reinforce",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 0, 1 for an error, 2 for a wrong usage.

    Args:
        argv: The arguments. None: those of the process.
    """
    args = _parser().parse_args(argv)
    for name in (signal.SIGTERM, signal.SIGHUP):
        # As an exception, so that films, displays and files are taken down on the way out.
        if signal.getsignal(name) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        args.run_command(args)
    except KeyboardInterrupt:
        print("tfpg: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"tfpg: error: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def train(args: argparse.Namespace) -> None:
    """``tfpg train ALGORITHM ENV``: makes a run directory with everything about the run."""
    from tfpg.files import check_model_file

    _check_env(args.env)
    folder = Path(args.run or f"runs/{args.algorithm}-{args.env.split('/')[-1]}")
    runs.check_new(folder)
    if args.model:
        check_model_file(args.model)
    _import_tensorflow()
    import keras

    from tfpg.agents.reinforce import Reinforce
    from tfpg.callbacks import KeepBest, MetricsLogger
    from tfpg.checkpoint import load_model
    from tfpg.plotting import learning_curve
    from tfpg.seeding import check_seed

    seed = check_seed(args.seed)
    if args.model:
        model = load_model(args.model)
    else:
        model = tfpg.networks.mlp(args.env, args.hidden, args.activation, seed=seed)
    if getattr(model, "optimizer", None) is None:
        model.compile(optimizer=keras.optimizers.Adam(args.learning_rate or 0.01))
    elif args.learning_rate:
        model.optimizer.learning_rate = args.learning_rate
    options = {
        name: getattr(args, name)
        for name in ("gamma", "episodes_per_update", "max_steps", "entropy_coef", "gradient")
        if getattr(args, name) is not None
    }
    agent = Reinforce(model, **options, **_head_options(args))
    agent.policy_for(args.env)
    if args.film:
        _check_film(args.env)

    with runs.new_run(folder) as run:
        network = {"hidden": args.hidden, "activation": args.activation}
        runs.write_config(
            folder,
            algorithm=args.algorithm,
            env=args.env,
            seed=seed,
            iterations=args.iterations,
            network={"model": args.model} if args.model else network,
            optimizer=keras.optimizers.serialize(model.optimizer),
            options={
                "gamma": agent.gamma,
                "episodes_per_update": agent.episodes_per_update,
                "max_steps": agent.max_steps,
                "entropy_coef": agent.entropy_coef,
                "gradient": agent.gradient,
            },
            head=_head_options(args),
        )
        history = agent.fit(
            args.env,
            iterations=args.iterations,
            seed=seed,
            verbose="auto" if args.verbose is None else args.verbose,
            callbacks=[
                run,
                MetricsLogger(folder / runs.METRICS),
                KeepBest(folder / runs.MODEL),
            ],
        )
        agent.save(folder / runs.LAST)
    learning_curve(
        history.history, folder / runs.CURVE, f"{type(agent).__name__} on {args.env}, seed {seed}"
    )
    returns = history.history["episode_return"]
    best = max(range(len(returns)), key=returns.__getitem__)
    print(
        f"Best mean return {returns[best]:.1f}, in iteration {best + 1}; last {returns[-1]:.1f}; "
        f"{agent.env_steps:,} environment steps."
    )
    for what, name in (
        ("best model", runs.MODEL),
        ("last model", runs.LAST),
        ("metrics", runs.METRICS),
        ("learning curve", runs.CURVE),
        ("config", runs.CONFIG),
    ):
        print(f"  {what:15}{folder}/{name}")
    if args.film:
        policy = tfpg.Policy(load_model(folder / runs.MODEL), args.env, **_head_options(args))
        out = folder / runs.FILM
        film = tfpg.record(policy, args.env, out, seed=seed, max_steps=agent.max_steps)
        print(f"  {'film':15}{out}  ({film.frames} frames)")


def evaluate(args: argparse.Namespace) -> None:
    """``tfpg evaluate RUN_OR_MODEL``: return and length over fresh episodes."""
    source = _source(args)
    _import_tensorflow()
    from tfpg.evaluation import evaluate as measure

    policy = _load_policy(source)
    result = measure(
        policy,
        source.env,
        args.episodes,
        seed=args.seed,
        deterministic=not args.stochastic,
        max_steps=args.max_steps or source.max_steps,
    )
    if args.json:
        print(json.dumps({"model": str(source.model), "env": source.env, **result}))
        return
    mode = "sampled" if args.stochastic else "greedy"
    print(
        f"{source.model} on {source.env}, {args.episodes} {mode} episodes, seed {result['seed']}:\n"
        f"  return  {result['episode_return']:.1f} +- {result['episode_return_std']:.1f}"
        f"  (from {min(result['episode_returns']):.1f} to {max(result['episode_returns']):.1f})\n"
        f"  length  {result['episode_length']:.1f}"
    )


def record(args: argparse.Namespace) -> None:
    """``tfpg record RUN_OR_MODEL OUT``: a film of whole episodes."""
    from tfpg.files import check_writable
    from tfpg.rendering.video import check_suffix

    check_writable(check_suffix(args.out))
    source = _source(args)
    _import_tensorflow()
    from tfpg.rendering.episode import record as film_policy

    policy = _load_policy(source)
    film = film_policy(
        policy,
        source.env,
        args.out,
        args.episodes,
        seed=args.seed,
        deterministic=not args.stochastic,
        max_steps=args.max_steps or source.max_steps,
        fps=args.fps,
    )
    returns = ", ".join(f"{x:.1f}" for x in film.episode_returns)
    print(f"{film.path}  ({film.frames} frames, return {returns})")


def _check_film(env_id: str) -> None:
    from tfpg.rendering.episode import rendering

    try:
        with rendering(env_id):
            pass
    except Exception as error:
        raise RuntimeError(
            f"{env_id} cannot be filmed: {_message(error)} (--no-film trains without a film)"
        ) from error


def _source(args: argparse.Namespace) -> runs.Source:
    source = runs.find_model(args.source, args.env, _head_options(args))
    _check_env(source.env)
    return source


def _load_policy(source: runs.Source) -> Any:
    return tfpg.Policy(tfpg.load_model(source.model), source.env, **source.head)


def _head_options(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.positive_action is None else {"positive_action": args.positive_action}


def _check_env(env_id: str) -> None:
    from tfpg.envs import spaces_of

    spaces_of(env_id)


def _import_tensorflow() -> None:
    """Imports it with its start-up messages kept off the terminal, unless it fails to start."""
    try:
        sys.stderr.flush()
        terminal = os.dup(2)
    except (OSError, ValueError, AttributeError):  # closed: there is no terminal to keep clean
        import tensorflow  # noqa: F401

        return
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow as tf

            import tfpg.backend  # noqa: F401

            tf.zeros(())  # the first tensor looks for devices, and says so
        except ImportError:
            raise
        except BaseException:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    expected = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)
    if isinstance(error, expected):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")


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
_GAMMA = _number(float, lambda x: 0 <= x <= 1, "a number in [0, 1]")
_POSITIVE = _number(float, lambda x: 0 < x < float("inf"), "a number above 0")
_COEF = _number(float, lambda x: 0 <= x < float("inf"), "a number of at least 0")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="tfpg", description="Deep reinforcement learning for Keras."
    )
    parser.add_argument("--version", action="version", version=f"tfpg {tfpg.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=_SEED, metavar="N", help="of everything random")
    common.add_argument("--max-steps", type=_COUNT, metavar="N", help="cut episodes here")
    common.add_argument(
        "--positive-action",
        type=int,
        choices=(0, 1),
        help="the action whose probability a one-output model gives (default: 1)",
    )
    common.add_argument("--debug", action="store_true", help="show tracebacks")

    p = commands.add_parser("train", parents=[common], help="train a model, film it, plot it")
    p.set_defaults(run_command=train)
    p.add_argument("algorithm", choices=ALGORITHMS)
    p.add_argument("env", metavar="ENV", help="Gymnasium id, for example CartPole-v1")
    p.add_argument("--iterations", type=_COUNT, default=100, metavar="N", help="(default: 100)")
    p.add_argument("--run", metavar="DIR", help="run directory (default: runs/ALGORITHM-ENV)")
    p.add_argument("--gamma", type=_GAMMA, help="discount factor (default: 0.99)")
    p.add_argument(
        "--episodes-per-update", type=_COUNT, metavar="N", help="episodes a batch (default: 32)"
    )
    p.add_argument("--entropy-coef", type=_COEF, metavar="X", help="(default: 0)")
    p.add_argument("--gradient", choices=("fused", "accumulated"), help="(default: fused)")
    p.add_argument("--learning-rate", type=_POSITIVE, metavar="X", help="of Adam (default: 0.01)")
    p.add_argument("--hidden", type=_COUNT, nargs="+", default=[64, 64], metavar="UNITS")
    p.add_argument("--activation", default="tanh", metavar="NAME", help="(default: tanh)")
    p.add_argument("--model", metavar="FILE", help="go on from this .keras model")
    p.add_argument("--no-film", dest="film", action="store_false", help="do not film the result")
    p.add_argument("--verbose", type=int, choices=(0, 1, 2), help="as in Keras")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("source", metavar="RUN_OR_MODEL", help="a run directory or a .keras file")
    source.add_argument("--env", metavar="ID", help="Gymnasium id (default: the run's)")
    source.add_argument("--stochastic", action="store_true", help="sample the actions")

    p = commands.add_parser("evaluate", parents=[source, common], help="measure a saved model")
    p.set_defaults(run_command=evaluate)
    p.add_argument("--episodes", type=_COUNT, default=100, metavar="N", help="(default: 100)")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = commands.add_parser("record", parents=[source, common], help="film a saved model")
    p.set_defaults(run_command=record)
    p.add_argument("out", metavar="OUT", help="the film, .mp4 or .gif")
    p.add_argument("--episodes", type=_COUNT, default=1, metavar="N", help="(default: 1)")
    p.add_argument("--fps", type=_POSITIVE, metavar="X", help="(default: the environment's)")
    return parser
