"""The loop of `Agent.fit`: iterations that are Keras epochs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.agents.functional_training import compiled_iterations, plays_in_tensors
from tfpg.agents.resume import ResumableTraining
from tfpg.agents.warnings import TrainingWarnings
from tfpg.checkpoints.manager import Checkpoints
from tfpg.core.backend import check_not_forked, keras, read_variable
from tfpg.core.messages import show, warn
from tfpg.core.options import options_of
from tfpg.core.seeding import check_seed
from tfpg.core.signals import StopRequest, deferred_signals
from tfpg.envs import EnvLike, check_separate, open_vec
from tfpg.errors import ClusterLostError
from tfpg.models.inspection import non_finite_weight
from tfpg.models.policy import set_head_options
from tfpg.models.saving import save_model
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.functional_rollout import FunctionalCollector
from tfpg.rollouts.remote import RemoteCollector, RemoteEnvs

FOLDER = "non-finite"
ENDLESS = 2**31  # iterations

_LARGEST_DATA = 200_000_000  # bytes
_FINISHING = "\nFinishing the iteration and saving a checkpoint. Ctrl-C again stops at once.\n"


def fit(
    agent: Any,
    envs: EnvLike,
    iterations: int | None,
    *,
    env_steps: int | None,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    seed: int | None,
    initial_iteration: int,
    verbose: int,
    validation_envs: EnvLike | None,
    validation_freq: int,
    validation_env_steps: int | None,
    validation_episodes: int,
    checkpoints: str | os.PathLike | Checkpoints | None,
    workers: Any,
) -> keras.callbacks.History:
    """Train an agent; see `Agent.fit` for the arguments."""
    check_not_forked()
    iterations = iterations or ENDLESS
    with ExitStack() as stack:
        run, stop = _open_checkpoints(stack, checkpoints)
        seed = check_seed(run.seed(seed))
        vector_envs = stack.enter_context(_opened(agent, envs, workers))
        policy = agent.policy_for(vector_envs)
        agent.prepare(policy)
        run.check(agent, vector_envs, seed)
        callback_list = _callback_list(
            agent, callbacks, iterations, env_steps, verbose, vector_envs
        )
        stack.callback(_close_bars, callback_list.callbacks)
        validation = None
        if validation_envs is not None:
            others = stack.enter_context(open_vec(validation_envs, validation_episodes))
            check_separate(vector_envs, others, "validation_envs")
            measure = partial(_validate, agent, others, validation_episodes, seed, callback_list)
            validation = Validation(measure, validation_freq, validation_env_steps)
        callback_list.params["validates"] = validation is not None
        run.prepare(callback_list.callbacks)
        callback_list.on_train_begin()
        # Keras's BackupAndRestore sets the model's initial epoch.
        first = run.first_iteration(getattr(agent.model, "_initial_epoch", 0) or initial_iteration)
        collector = _collector(agent, vector_envs, seed, first)
        agent.begin(collector, policy)
        if run.restore(agent, collector, callback_list.callbacks):
            if verbose and first < iterations:
                show(f"Resuming after iteration {first}, at {agent.env_steps:,} environment steps.")
        else:
            agent.warm_up(collector, policy)
            collector.forget()  # the model did not play those episodes
        _set_start(callback_list, agent, iterations - first, vector_envs.num_envs)
        spec = vector_envs.spec
        callback_list.params["env"] = "" if spec is None else spec.id
        callback_list.params["validation_episodes"] = validation_episodes
        logs = _loop(
            agent, policy, collector, range(first, iterations), callback_list, validation, run, stop
        )
        agent.finish()
        callback_list.on_train_end(logs)
    return agent.model.history


def _opened(agent: Any, envs: EnvLike, workers: Any) -> AbstractContextManager[VectorEnv]:
    """Open the environments to train in, in other processes if there are workers."""
    if workers is None or isinstance(workers, int):
        return open_vec(envs, agent.num_envs, manual_resets=agent.manual_resets, workers=workers)
    from tfpg.rollouts.ray_workers import RayWorkers

    if not isinstance(workers, RayWorkers):
        raise TypeError(
            f"workers must be a number of processes or tfpg.RayWorkers, but it is {workers!r}."
        )
    return workers.open(envs, agent.num_envs)


def _open_checkpoints(
    stack: ExitStack, checkpoints: str | os.PathLike | Checkpoints | None
) -> tuple[ResumableTraining, StopRequest]:
    if checkpoints is None:
        return ResumableTraining(None), StopRequest()
    stop = stack.enter_context(deferred_signals(_FINISHING))
    if not isinstance(checkpoints, Checkpoints):
        checkpoints = Checkpoints(checkpoints)
    return ResumableTraining(stack.enter_context(checkpoints)), stop


def _set_start(callback_list: Any, agent: Any, iterations: int, num_envs: int) -> None:
    """Add to the parameters of callbacks where the run is, and how many steps it is going to make.

    Args:
        callback_list: The callbacks, restored if the run resumes.
        agent: The agent.
        iterations: Number of iterations to make.
        num_envs: Number of environments.
    """
    steps = agent.most_env_steps(iterations, num_envs)
    histories = (x for x in callback_list.callbacks if isinstance(x, keras.callbacks.History))
    callback_list.params |= {
        "env_steps": agent.env_steps,
        "planned_env_steps": None if steps is None else agent.env_steps + steps,
        "updates": getattr(agent, "updates", 0),
        "history": next(histories).history,
    }


def _close_bars(callbacks: Sequence[Any]) -> None:
    from tfpg.callbacks.progress_bar import ProgressBar

    for each in callbacks:
        if isinstance(each, ProgressBar):
            each.close()


def _collector(agent: Any, envs: VectorEnv, seed: int, first: int) -> Collector:
    kind: type[Collector] = Collector
    if plays_in_tensors(agent, envs):
        kind = FunctionalCollector
    elif isinstance(envs, RemoteEnvs):
        kind = RemoteCollector
    episode, fragment = agent.first_numbers(first)
    return kind(envs, seed, episode, fragment, agent.window)


class Validation(NamedTuple):
    """When and how the greedy policy is evaluated during training."""

    measure: Callable[[int], dict[str, float]]  # returns the logs for an iteration
    freq: int  # iterations
    env_steps: int | None  # environment steps, which take precedence

    def is_due(self, iteration: int, before: float, now: float) -> bool:
        """Return whether it is due after an iteration, which began and ended at these steps."""
        if self.env_steps is None:
            return (iteration + 1) % self.freq == 0
        return now // self.env_steps > before // self.env_steps


def _loop(
    agent: Any,
    policy: Any,
    collector: Any,
    iterations: range,
    callback_list: Any,
    validation: Validation | None,
    run: ResumableTraining,
    stop: StopRequest,
) -> dict[str, float]:
    """Collect, update, validate, call callbacks and save, and return the last logs."""
    from tfpg.callbacks.progress_bar import ProgressBar
    from tfpg.callbacks.stopping import StopAtSteps

    trained = int(read_variable(agent.model.optimizer.iterations)) > 0
    auto = ("alpha", "auto")  # target_entropy determines it
    options = [x for x in options_of(type(agent)) if (x, getattr(agent, x)) != auto]
    advice = TrainingWarnings(policy.head, options, trained)
    logs = dict[str, float]()
    # Keras's list of callbacks takes about 0.3 ms per iteration, however little they do.
    own = keras.callbacks.History, ProgressBar, StopAtSteps
    watched = any(type(each) not in own for each in callback_list.callbacks)
    budgets = [each for each in callback_list.callbacks if isinstance(each, StopAtSteps)]
    compiled = compiled_iterations(agent, collector)
    periods = [run.every_iterations, iterations.stop]
    if watched and getattr(agent, "steps_per_execution", None) is None:
        periods.append(1)  # callbacks get the weights of their iteration
    # If the model was not finite from the start, a report could not say why.
    reports = None if non_finite_weight(agent.model) else run.folder
    for iteration in iterations:
        if agent.model.stop_training and not (compiled and compiled.pending):
            break
        before = logs.get("env_steps", agent.env_steps)
        if compiled:
            collector.until = min(_stops(iteration, before, compiled, validation, budgets, periods))
        if watched:
            callback_list.on_epoch_begin(iteration)
            callback_list.on_train_batch_begin(0)
        else:
            for each in callback_list.callbacks:
                each.on_epoch_begin(iteration)
        with report_non_finite(agent, iteration, logs, reports):
            logs = _next_logs(agent, policy, collector, compiled, run, iteration)
        advice.look(logs, collector.take_finished())
        now = logs["env_steps"]
        last = iteration + 1 == iterations.stop or any(each.is_reached(now) for each in budgets)
        if validation and (last or validation.is_due(iteration, before, now)):
            logs |= validation.measure(iteration)
        if watched:
            set_head_options(agent.model, agent.head_options())
            callback_list.on_train_batch_end(0, logs)
            callback_list.on_epoch_end(iteration, logs)
            agent.forget_weights()
        else:
            logs = {name: float(logs[name]) for name in sorted(logs)}
            for each in callback_list.callbacks:
                each.on_epoch_end(iteration, logs)
        if not (compiled and compiled.pending):
            run.save_if_due(iteration, last or agent.model.stop_training or bool(stop))
            stop.raise_if_set()
    return logs


def _next_logs(
    agent: Any, policy: Any, collector: Any, compiled: Any, run: ResumableTraining, iteration: int
) -> dict[str, float]:
    """Collect and update, and return the logs. If the cluster is lost, save a checkpoint."""
    try:
        logs = compiled.next_logs(collector) if compiled else agent.iterate(collector, policy)
    except ClusterLostError:
        # The replay may have steps of this iteration.
        if agent.replay is None and collector.is_known:
            run.save_if_due(iteration - 1, last=True)
        raise
    return logs | agent.episode_logs(collector)


def _stops(
    iteration: int,
    before: float,
    compiled: Any,
    validation: Validation | None,
    budgets: Sequence[Any],
    periods: Sequence[int | None],
) -> Iterator[int]:
    """Yield iterations at which a compiled call must end: then, the model is measured or saved."""
    ends = [each.env_steps - compiled.num_steps for each in budgets]
    if validation and (steps := validation.env_steps):
        ends.append((before // steps + 1) * steps)
    elif validation:
        periods = [*periods, validation.freq]
    for each in periods:
        if each:
            yield (iteration // each + 1) * each
    for end in ends:
        yield iteration + int(end - before) // compiled.num_steps


def _callback_list(
    agent: Any,
    callbacks: Any,
    iterations: int,
    env_steps: int | None,
    verbose: int,
    envs: VectorEnv,
) -> Any:
    """Return Keras's list of all callbacks, with a progress bar and a History."""
    from tfpg.callbacks.progress_bar import ProgressBar
    from tfpg.callbacks.stopping import StopAtSteps

    if callbacks is None:
        callbacks = []
    elif not isinstance(callbacks, (list, tuple)):
        callbacks = [callbacks]
    if env_steps is not None:
        callbacks = [*callbacks, StopAtSteps(env_steps)]
    for each in callbacks:
        for name, value in vars(each).items():
            if isinstance(value, (gymnasium.Env, VectorEnv)):
                check_separate(envs, value, f"{type(each).__name__}.{name}")
    bars = keras.callbacks.ProgbarLogger, ProgressBar
    has_bar = any(isinstance(each, bars) for each in callbacks)
    rates = keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau
    if agent.models[1:] and (which := [each for each in callbacks if isinstance(each, rates)]):
        name = agent.second_model
        other = ", or one model with two outputs" if name == "value_model" else ""
        warn(
            f"{type(which[0]).__name__} changes only the learning rate of the policy. To change "
            f"that of {name} too, use learning rate schedules{other}."
        )
    savers = [each for each in callbacks if isinstance(each, keras.callbacks.ModelCheckpoint)]
    unimportant = "epsilon", "value_scale"
    acts = {name: x for name, x in agent.head_options().items() if name not in unimportant}
    if savers and (lost := [f"{name}={x!r}" for name, x in acts.items()]):
        warn(
            f"The files of ModelCheckpoint do not record {', '.join(lost)}, which acting needs. "
            "Use tfpg.callbacks.KeepBest, or pass it to tfpg.Policy with the loaded model."
        )
    found = _callback_list_class()(
        [*callbacks, *([] if has_bar else [ProgressBar()])],
        add_history=True,
        model=agent.model,
        epochs=iterations,
        steps=1,
        verbose=verbose,
    )
    agent.model.stop_training = False
    agent.model._initial_epoch = None
    return found


@cache
def _callback_list_class() -> type[keras.callbacks.CallbackList]:
    class CallbackList(keras.callbacks.CallbackList):
        """A `ModelCheckpoint` waits for the logs that the name of its file needs."""

        callbacks: list[Any]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            with self._ready(logs):
                super().on_train_batch_end(batch, logs)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with self._ready(logs):
                super().on_epoch_end(epoch, logs)

        @contextmanager
        def _ready(self, logs: Any) -> Iterator[None]:
            everything, waiting = self.callbacks, dict[int, str]()
            for each in everything:
                if isinstance(each, keras.callbacks.ModelCheckpoint):
                    missing = _placeholders(each.filepath) - {"epoch", "batch"} - set(logs or {})
                    waiting.update({id(each): name for name in missing})
            for name in waiting.values():
                warn(f"ModelCheckpoint waits for {name!r}, which its file name needs.")
            self.callbacks = [each for each in everything if id(each) not in waiting]
            try:
                yield
            finally:
                self.callbacks = everything

    return CallbackList


def _placeholders(text: Any) -> set[str]:
    """The names in a format string."""
    return {re.split(r"[.\[]", name)[0] for _, name, *_ in Formatter().parse(str(text)) if name}


def _validate(
    agent: Any, envs: VectorEnv, episodes: int, seed: int, callback_list: Any, iteration: int
) -> dict[str, float]:
    """Measure the greedy policy, with Keras's hooks around it."""
    callback_list.on_test_begin()
    callback_list.on_test_batch_begin(0)
    result = agent.evaluate(envs, episodes, seed=seed + iteration)
    logs = {name: result[name] for name in ("episode_return", "episode_length")}
    callback_list.on_test_batch_end(0, logs)
    callback_list.on_test_end(logs)
    found = {f"val_{name}": value for name, value in logs.items()}
    return {**found, "val_env_steps": agent.env_steps}


@contextmanager
def report_non_finite(
    agent: Any, iteration: int, logs: dict[str, float], folder: Path | None
) -> Iterator[None]:
    """Add to a `FloatingPointError` where it happened, and save the data that reproduces it.

    The data is saved in a folder ``non-finite`` with ``model.keras`` as it was before the update,
    ``data.npz`` with the data of the update (the fields of a `Trajectory` or of `Transitions`) and
    ``about.json``. The error has its path as ``error.bundle``.

    Args:
        agent: The agent that is trained.
        iteration: The iteration, counted from 0.
        logs: Logs of the iteration before.
        folder: Folder for the ``non-finite`` folder. None: save nothing.
    """
    try:
        yield
    except FloatingPointError as error:
        where = f"This happened in iteration {iteration + 1}, after {agent.env_steps:,} steps"
        if "grad_norm" in logs:
            where += f"; the gradient norm of the iteration before was {logs['grad_norm']:.4g}"
        saved = ""
        if folder is not None:
            bundle = Path(folder) / FOLDER
            try:
                _save(agent, iteration, logs, error, bundle)
            except OSError:
                shutil.rmtree(bundle, ignore_errors=True)
            else:
                error.bundle = bundle  # type: ignore[attr-defined]
                saved = f"\nThe model and the data of the update are in {str(bundle)!r}."
        error.args = (f"{error} {where}.{saved}", *error.args[1:])
        raise


def _save(
    agent: Any, iteration: int, logs: dict[str, float], error: Exception, folder: Path
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_model(agent.model, folder / "model.keras")
    arrays = dict(_arrays("", getattr(error, "data", None)))
    if sum(x.nbytes for x in arrays.values()) <= _LARGEST_DATA:
        np.savez_compressed(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    about = {
        "error": str(error),
        "iteration": iteration,
        "env_steps": agent.env_steps,
        "agent": type(agent).__name__,
        "options": agent.get_config(),
        "logs_before": logs,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2, default=float) + "\n")


def _arrays(name: str, data: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of nested named tuples and dicts, with their names."""
    named = data._asdict() if hasattr(data, "_asdict") else data
    if isinstance(named, dict):
        for key, value in named.items():
            yield from _arrays(f"{name}.{key}" if name else key, value)
    elif named is not None and name:
        yield name, np.asarray(named)
