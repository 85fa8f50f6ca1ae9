"""The command line: ``tfpg train``, ``resume``, ``evaluate``, ``record``, ``check``, ``doctor``.

Nothing here imports TensorFlow before the arguments have been checked: help and usage errors
answer at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tfpg
from tfpg.cli import runs
from tfpg.cli.arguments import parse
from tfpg.cli.check import check
from tfpg.cli.startup import carried_out, check_env, head_options, import_tensorflow
from tfpg.cli.train import resume, train
from tfpg.cli.verify_resume import verify_resume
from tfpg.core import signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, and returns its exit code.

    0; 1 for an error; 2 for a wrong usage; 3 where a number is none (NaN or infinity); 130 and 143
    where somebody wanted it to stop.

    Args:
        argv: The arguments. None: those of the process.
    """
    commands = {
        "train": train,
        "resume": resume,
        "verify-resume": verify_resume,
        "evaluate": evaluate,
        "record": record,
        "check": check,
        "doctor": doctor,
    }
    args = parse(argv, commands)
    signals.raise_on_signals()
    return carried_out(args.run_command, args)


def evaluate(args: argparse.Namespace) -> None:
    """``tfpg evaluate RUN_OR_MODEL``: return and length over fresh episodes."""
    source = _source(args)
    import_tensorflow()
    from tfpg.rollouts.evaluation import evaluate as measure

    policy = _load_policy(source, args)
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
    from tfpg.core.files import check_writable
    from tfpg.envs import same_env
    from tfpg.video.writer import check_suffix

    for out in args.out:
        check_writable(check_suffix(out))
    source = _source(args)
    models, grid = {"": source}, args.grid
    if args.versus:
        own = runs.env_of(args.versus)
        if own is not None and not same_env(own, source.env):
            raise ValueError(
                f"{args.versus!r} was trained in {own}, and this film is of {source.env}."
            )
        other = runs.find_model(args.versus, source.env, _played_as(args))
        names = _names(args.source, args.versus)
        models = dict(zip(names, (source, other), strict=True))
    elif args.snapshots:
        kept = runs.snapshots(args.source)
        models = {title: source._replace(model=path) for title, path in kept.items()}
        grid = bool(grid) and grid
    import_tensorflow()
    from tfpg.video.record import record as film_policy

    policies = {title: _load_policy(each, args) for title, each in models.items()}
    film = film_policy(
        policies if len(policies) > 1 else next(iter(policies.values())),
        source.env,
        args.out,
        args.episodes,
        seed=args.seed,
        deterministic=not args.stochastic,
        max_steps=args.max_steps or source.max_steps,
        fps=args.fps,
        speed=args.speed,
        max_seconds=args.max_seconds,
        overlay=() if "none" in args.overlay else args.overlay,
        action_names=args.action_names,
        scale=args.scale,
        crop=args.crop,
        grid=grid,
        rank=args.rank,
    )
    returns = ", ".join(f"{x:.1f}" for x in film.episode_returns)
    for path in film.paths:
        print(f"{path}  ({film.frames} frames, return {returns})")


def _names(one: str, other: str) -> tuple[str, str]:
    """What to call two runs or models in a film: as short as tells them apart."""
    short = Path(one).stem, Path(other).stem
    if short[0] != short[1]:
        return short
    return (one, other) if one != other else (one, f"{other} again")


def doctor(args: argparse.Namespace) -> int:
    """``tfpg doctor``: what this machine and installation are; 1 if training does not work."""
    from tfpg.checks.doctor import probe, table

    facts = probe()
    print(json.dumps(facts) if args.json else table(facts))
    return 0 if facts["works"] else 1


def _source(args: argparse.Namespace) -> runs.Source:
    source = runs.find_model(args.source, args.env, _played_as(args))
    check_env(source.env)
    return source


def _load_policy(source: runs.Source, args: argparse.Namespace) -> Any:
    from tfpg.envs import spaces_of

    model = tfpg.load_model(source.model, allow_version_skew=args.allow_version_skew)
    try:
        return tfpg.Policy(model, source.env, **source.head)
    except ValueError as error:
        if source.trained_in in (None, source.env):
            raise
        spaces = [" and ".join(map(str, spaces_of(x))) for x in (source.trained_in, source.env)]
        raise ValueError(
            f"{error} It was trained in {source.trained_in}, of {spaces[0]}; {source.env} is of "
            f"{spaces[1]}."
        ) from error


def _played_as(args: argparse.Namespace) -> dict[str, Any]:
    epsilon = {} if args.epsilon is None else {"epsilon": args.epsilon}
    return {**head_options(args), **epsilon}
