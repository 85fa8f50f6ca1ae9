"""The command ``tfpg train``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tfpg
from tfpg.checkpoints.store import Store
from tfpg.cli import runs
from tfpg.cli.arguments import AGENT_OPTIONS, NETWORK_OPTIONS, parse
from tfpg.cli.startup import check_env, head_options, import_tensorflow, message
from tfpg.core import signals
from tfpg.core.messages import warn
from tfpg.envs import has_own_vectorization, open_vec


def train(args: argparse.Namespace) -> None:
    """``tfpg train ALGORITHM ENV``: makes a run directory with everything about the run."""
    check_env(args.env)
    folder = Path(args.run or f"runs/{args.algorithm}-{args.env.split('/')[-1]}")
    kept = _kept_arguments(folder)
    if kept is not None:
        args.seed = kept["seed"] if args.seed is None else args.seed
        # Those that Gymnasium vectorizes in its own way are others without it.
        free = () if has_own_vectorization(args.env) else ("on_env_error", "workers")
        runs.check_same(folder, _as_json(arguments_of(args)), kept, free)
    _train(args, folder, going_on=kept is not None)


def resume(args: argparse.Namespace) -> None:
    """``tfpg resume RUN``: goes on with a run as if it had not been stopped."""
    folder = Path(args.run)
    if not folder.exists():
        raise FileNotFoundError(f"No run at {args.run!r}: give the folder of one.")
    kept = runs.unfinished(folder)
    if kept is None:
        raise ValueError(f"{args.run!r} is empty: there is nothing to go on with.")
    command = ["train", str(kept["algorithm"]), str(kept["env"])]
    try:
        usual = vars(parse(command, defaultdict(lambda: print)))
    except SystemExit:  # who knows no such command has said why
        raise ValueError(
            f"{args.run}/{runs.CONFIG} is not of a training that this tfpg knows: "
            f"tfpg {' '.join(command)}"
        ) from None
    runs.check_known(kept, usual, f"argument in {args.run}/{runs.CONFIG},")
    check_env(kept["env"])
    _train(argparse.Namespace(**{**usual, **kept, **vars(args)}), folder, going_on=True)


def arguments_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments of ``tfpg train`` say of the training itself."""
    other = ("run", "debug", "verbose", "command", "run_command", "allow_version_skew")
    return {name: value for name, value in vars(args).items() if name not in other}


def _kept_arguments(folder: Path) -> dict[str, Any] | None:
    """Those of the unfinished run in the folder; None where it can become a new one."""
    if folder.is_dir() and (folder / runs.CONFIG).is_file():
        try:
            return runs.unfinished(folder)
        except ValueError as error:
            raise FileExistsError(
                f"{error} Choose another folder for the run, or remove it."
            ) from None
    runs.check_new(folder)
    return None


def _as_json(arguments: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(arguments))


def _train(args: argparse.Namespace, folder: Path, going_on: bool) -> None:
    from tfpg.agents import presets

    head: dict[str, Any] = {}
    given = args.model
    if args.model:
        source = runs.find_model(args.model, args.env)
        args.model, head = str(source.model), source.head
        head.pop("epsilon", None)  # of playing; training has a schedule
    head |= head_options(args)
    import_tensorflow()
    from tfpg.callbacks.best import KeepBest
    from tfpg.callbacks.metrics import MetricsLogger
    from tfpg.callbacks.plots import learning_curve
    from tfpg.callbacks.stopping import StopAtReturn, StopAtSteps
    from tfpg.callbacks.videos import RecordVideo, Snapshots
    from tfpg.checkpoints.manager import Checkpoints
    from tfpg.core.backend import keras
    from tfpg.core.seeding import check_seed
    from tfpg.models.saving import load_model

    seed = args.seed = check_seed(args.seed)
    preset, name = _preset(args)
    iterations = args.iterations or presets.iterations_of(preset)
    skew = args.allow_version_skew
    model = load_model(args.model, allow_version_skew=skew) if args.model else None
    agent = presets.make_agent(
        args.algorithm,
        args.env,
        preset,
        seed,
        iterations=iterations,
        model=model,
        learning_rate=args.learning_rate,
        **head,
    )
    agent.policy_for(args.env)
    if args.film or args.film_at:
        _check_film(args.env)

    def saved() -> bool:
        return bool(Store(folder / runs.CHECKPOINTS).steps())

    arguments = {**arguments_of(args), "model": given}
    goes_on = runs.going_on(folder, arguments=arguments) if going_on else None
    with goes_on or runs.new_run(folder) as run:
        head = agent.head_options()
        if not going_on:
            runs.write_config(
                folder,
                algorithm=args.algorithm,
                env=args.env,
                seed=seed,
                preset=name,
                iterations=iterations,
                env_steps=None if args.iterations else preset.env_steps,
                network={"model": args.model} if args.model else _network(preset),
                critic=preset.critic if getattr(agent, "value_model", None) else None,
                optimizer=keras.optimizers.serialize(agent.model.optimizer),
                options=agent.get_config(),
                head=head,
                arguments=arguments,
            )
        checkpoints = Checkpoints(
            folder / runs.CHECKPOINTS,
            args.checkpoint_every,
            allow_version_skew=args.allow_version_skew,
        )
        if going_on and not saved():
            warn(
                f"There is no checkpoint in {str(checkpoints.folder)!r}: training starts from "
                "scratch."
            )
        keep = KeepBest(folder / runs.MODEL)
        callbacks = [run, MetricsLogger(folder / runs.METRICS), keep]
        if args.snapshots:
            callbacks.append(Snapshots(folder / runs.SNAPSHOTS, args.snapshots))
        if args.film_at:
            out, options = folder / runs.FILMS, {"seed": seed, "max_steps": agent.max_steps}
            callbacks.append(RecordVideo(out, args.env, args.film_at, **options))
        if not args.iterations:
            callbacks.append(StopAtSteps(preset.env_steps))
        if args.stop_at is not None:
            callbacks.append(StopAtReturn(args.stop_at))
        try:
            with _envs(args, agent) as envs:
                history = agent.fit(
                    envs,
                    iterations=iterations,
                    seed=seed,
                    verbose="auto" if args.verbose is None else args.verbose,
                    callbacks=callbacks,
                    validation_envs=args.env if args.validation_freq else None,
                    validation_freq=args.validation_freq or 1,
                    validation_episodes=args.validation_episodes,
                    checkpoints=checkpoints,
                )
        except (KeyboardInterrupt, signals.Terminated):
            if saved():
                text = f"\nStopped after iteration {run.iterations} of {iterations}."
                print(f"{text} To resume: tfpg resume {folder}", file=sys.stderr, flush=True)
            raise
        except Exception:
            if run.iterations and saved():
                text = f"\nThe last checkpoint is saved. To resume from it: tfpg resume {folder}"
                print(text, file=sys.stderr, flush=True)
            raise
        finally:
            keep.write()
        agent.save(folder / runs.LAST)
        if not keep.path.exists():  # no mean return was known
            agent.save(folder / runs.MODEL)
        head = agent.head_options()
        runs.update_config(folder, head=head)  # a free log-std has been learned
    learning_curve(
        history.history, folder / runs.CURVE, f"{type(agent).__name__} on {args.env}, seed {seed}"
    )
    _tell(folder, history.history, agent.env_steps)
    if args.film:
        policy = tfpg.Policy(load_model(folder / runs.MODEL), args.env, **head)
        out = folder / runs.FILM
        film = tfpg.record(policy, args.env, out, seed=seed, max_steps=agent.max_steps)
        print(f"  {'film':15}{out}  ({film.frames} frames)")
    runs.update_config(folder, finished=True)


@contextmanager
def _envs(args: argparse.Namespace, agent: Any) -> Iterator[Any]:
    """What is trained in: the id, or supervised environments of it where that is asked for."""
    if args.workers is None and args.on_env_error == "raise":
        yield args.env
        return
    with open_vec(
        args.env,
        agent.num_envs,
        seedable=True,
        workers=args.workers,
        timeout=args.worker_timeout,
        on_env_error=args.on_env_error,
    ) as envs:
        yield envs


def _preset(args: argparse.Namespace) -> tuple[Any, str | None]:
    """The preset with what the arguments say over it, and its name if it was measured."""
    from tfpg import schedules
    from tfpg.agents import presets

    preset = presets.find(args.algorithm, args.env)
    measured = (args.algorithm, args.env) in presets.PRESETS
    said = {o: getattr(args, o) for o in AGENT_OPTIONS if getattr(args, o) is not None}
    network = {o: getattr(args, o) for o in NETWORK_OPTIONS if getattr(args, o) is not None}
    preset = preset._replace(
        options={**preset.options, **said}, network={**preset.network, **network}
    )
    if args.epsilon is not None:
        epsilon = args.epsilon[0] if len(args.epsilon) == 1 else schedules.linear(*args.epsilon)
        preset = preset._replace(options={**preset.options, "epsilon": epsilon})
    if args.dueling is not None and preset.architecture in (None, "mlp", "dueling"):
        preset = preset._replace(architecture="dueling" if args.dueling else "mlp")
    elif args.dueling is not None:
        preset = preset._replace(network={**preset.network, "dueling": args.dueling})
    if preset.architecture == "nature_cnn":
        preset = preset._replace(network=_of_cnn(preset.network))
    if args.model and args.algorithm == "dqn":  # it has explored, and need not again
        options = dict(preset.options)
        if args.epsilon is None:
            options["epsilon"] = options["epsilon"](schedules.IN_THE_END)
        if args.learning_starts is None:
            options["learning_starts"] = options["batch_size"]
        preset = preset._replace(options=options)
    if args.env_steps:
        preset = presets.with_budget(preset, args.env_steps)
    if args.learning_rate:
        preset = preset._replace(learning_rate=args.learning_rate)
    return preset, f"{args.algorithm}/{args.env}" if measured else None


def _of_cnn(network: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments say of a network, as `tfpg.networks.nature_cnn` takes it."""
    for option in ("activation", "normalize"):
        if option in network:
            raise ValueError(
                f"--{option} is for dense networks, and Atari games get a nature_cnn: leave it out."
            )
    if "hidden" not in network:
        return dict(network)
    if len(network["hidden"]) != 1:
        raise ValueError(
            "--hidden takes one number for a nature_cnn, the units of its dense layer, and got "
            f"{len(network['hidden'])}."
        )
    return {**network, "hidden": network["hidden"][0]}


def _network(preset: Any) -> dict[str, Any]:
    kind = {"architecture": preset.architecture} if preset.architecture else {}
    return {**kind, **preset.network}


def _tell(folder: Path, history: dict[str, list[float]], env_steps: int) -> None:
    returns = history.get("episode_return", [])
    if returns:
        best = max(range(len(returns)), key=lambda i: (returns[i], i))
        iteration = best + 1 + len(history["env_steps"]) - len(returns)
        print(
            f"Best mean return {returns[best]:.1f}, in iteration {iteration}; last "
            f"{returns[-1]:.1f}; {env_steps:,} environment steps."
        )
    else:
        print(f"No mean return: too few episodes ended in {env_steps:,} environment steps.")
    for what, name in (
        ("best model", runs.MODEL),
        ("last model", runs.LAST),
        ("metrics", runs.METRICS),
        ("learning curve", runs.CURVE),
        ("config", runs.CONFIG),
    ):
        print(f"  {what:15}{folder}/{name}")


def _check_film(env_id: str) -> None:
    from tfpg.video.render_env import open_render_env

    try:
        with open_render_env(env_id):
            pass
    except Exception as error:
        raise RuntimeError(
            f"{env_id} cannot be filmed: {message(error)} (--no-film trains without a film)"
        ) from error
