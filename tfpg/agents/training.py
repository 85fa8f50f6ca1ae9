"""The loop of `Agent.fit`: iterations that are Keras epochs, and checkpoints after them."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from tfpg.agents.forgetful import Forgetful
from tfpg.agents.non_finite import located
from tfpg.agents.option_checks import check_apart
from tfpg.agents.state import callbacks_state, carriers, prepare_callbacks, set_callbacks_state
from tfpg.agents.warnings import Advice
from tfpg.callbacks.progress_bar import ProgressBar
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Checkpoint
from tfpg.core.backend import keras
from tfpg.core.messages import warn
from tfpg.core.seeding import check_seed
from tfpg.envs import EnvLike, open_vec
from tfpg.models.graph import all_layers
from tfpg.models.requirements import non_finite_weight
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.env_state import running_statistics

if TYPE_CHECKING:
    from tfpg.agents.agent import Agent


class Records(NamedTuple):
    """What is large and only grows, of an agent, as far as it is new."""

    added: Sequence[tuple[int, Any]] = ()  # each with its position
    needed_from: int = 0  # what is before that position is not needed any more
    anew: bool = False  # nothing that was told before is


def fit(
    agent: Agent,
    envs: EnvLike,
    iterations: int,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    seed: int | None,
    initial_iteration: int,
    verbose: int,
    validation_envs: EnvLike | None,
    validation_freq: int,
    validation_episodes: int,
    checkpoints: str | os.PathLike | Checkpoints | None,
) -> keras.callbacks.History:
    """See `Agent.fit`."""
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        checkpoints = Checkpoints(checkpoints)
    agent._verbose = verbose
    with ExitStack() as stack:
        found = None
        if checkpoints is not None:
            stack.callback(checkpoints.close)
            checkpoints.claim()
            found = checkpoints.load()
            checkpoints.prepare()
            stack.callback(setattr, agent, "_computing", agent._computing)
            agent._computing = checkpoints.computing
        seed = check_seed(seed if found is None else _seed_of(found, seed))
        vector_envs = stack.enter_context(open_vec(envs, agent.num_envs, seedable=agent._seedable))
        policy = agent.policy_for(vector_envs)
        agent.build(policy)
        agent.know_variables(checkpoints is not None)
        told = _told(agent, vector_envs, seed)
        if found is not None:
            _check_alike(found, told, "options")
            agent.check_state(found.state["agent"])
            _check_alike(found, told, "made")
        if validation_envs is not None:
            check_apart(envs, validation_envs)
            validation_envs = stack.enter_context(open_vec(validation_envs, validation_episodes))
        callback_list = keras.callbacks.CallbackList(
            [*_as_list(callbacks), *_progress_bar(callbacks)],
            add_history=True,
            model=agent.model,
            epochs=iterations,
            steps=1,
            verbose=verbose,
            validates=validation_envs is not None,
        )
        callback_list.params["head"] = agent.head_options()
        agent.model.stop_training = False
        agent.model._initial_epoch = None
        logs: dict[str, float] = {}
        # Of a model that is not finite as it is given there is nothing to tell.
        bundles = None
        if checkpoints is not None and non_finite_weight(agent.model) is None:
            bundles = checkpoints.folder
        if found is not None:
            prepare_callbacks(callback_list.callbacks, found.state["callbacks"])
        callback_list.on_train_begin()
        carried = carriers(callback_list.callbacks)
        forgetful = Forgetful(carried)
        forgotten: dict[int, list[str]] = {}
        if found is not None:
            forgotten.update(found.manifest.get("forgotten", []))
        # Where Keras's BackupAndRestore says to go on.
        first = getattr(agent.model, "_initial_epoch", None) or initial_iteration
        if found is not None:
            first = found.manifest["iteration"]
        collector = agent.collector(vector_envs, seed, first)
        if found is not None:
            assert checkpoints is not None
            set_callbacks_state(callback_list.callbacks, found.state["callbacks"])
            for i, attributes in forgotten.items():
                warn(
                    f"The callback {type(carried[i]).__name__} begins anew in "
                    f"{', '.join(attributes)}: give it get_state() and set_state(state)."
                )
            _go_on(agent, collector, found, checkpoints)
            if verbose and first < iterations:
                print(f"Going on after iteration {first} of {iterations}.", flush=True)
        else:
            if checkpoints is not None:
                collector.follow()
                _warn_of_statistics(vector_envs)
            agent.warm_up(collector, policy)
            collector.forget()  # the model did not play them
        callback_list.params["env_steps"] = agent.env_steps
        callback_list.params["updates"] = getattr(agent, "updates", 0)
        advice = Advice(policy.head)
        for iteration in range(first, iterations):
            if agent.model.stop_training:
                break
            callback_list.on_epoch_begin(iteration)
            callback_list.on_train_batch_begin(0)
            with located(agent, iteration, logs, bundles):
                logs = agent.iterate(collector, policy) | agent.episode_logs(collector)
            advice.look(logs, collector.take_finished())
            last = iteration + 1 == iterations
            if validation_envs is not None and (last or (iteration + 1) % validation_freq == 0):
                result = agent.evaluate(validation_envs, validation_episodes, seed=seed + iteration)
                names = ("episode_return", "episode_length")
                logs |= {f"val_{name}": result[name] for name in names}
            callback_list.on_train_batch_end(0, logs)
            callback_list.params["head"] = agent.head_options()
            callback_list.on_epoch_end(iteration, logs)
            last = last or agent.model.stop_training
            if checkpoints is not None and checkpoints.due(iteration, last):
                state = {
                    "agent": agent.get_state(),
                    "collector": collector.get_state(),
                    "callbacks": callbacks_state(callback_list.callbacks),
                }
                told |= {"iteration": iteration + 1, "env_steps": agent.env_steps}
                told["stopped"] = bool(agent.model.stop_training)
                forgotten |= forgetful.changed(carried)
                if forgotten:
                    told["forgotten"] = sorted(forgotten.items())
                checkpoints.save(agent.env_steps, state, dict(told), *agent.new_records())
                if checkpoints.stopping():
                    checkpoints.stop()
        agent._trainable.finalize()
        callback_list.on_train_end(logs)
        if checkpoints is not None:
            checkpoints.flush()
    return agent.model.history


def _go_on(agent: Agent, collector: Collector, found: Checkpoint, checkpoints: Checkpoints) -> None:
    agent.set_state(found.state["agent"], checkpoints.log())
    anew = collector.set_state(found.state["collector"])
    if anew.any():
        warn(
            f"The episodes of {int(anew.sum())} of {len(anew)} environments begin anew: the same "
            "actions did not bring them to where they were, so this goes on otherwise than an "
            "uninterrupted training would."
        )
        agent.begin_anew(anew)
    agent.model.stop_training = found.manifest["stopped"]


def _warn_of_statistics(envs: Any) -> None:
    names = running_statistics(envs)
    if names:
        warn(
            f"{' and '.join(names)}: running statistics of a wrapper are in no checkpoint, so what "
            "goes on after a stop is another training. A network's normalize=True and an agent's "
            "reward_scale='auto' are kept."
        )


def _told(agent: Agent, envs: Any, seed: int) -> dict[str, Any]:
    """What a checkpoint says of the training it is of."""
    played_as = ("from_logits", "positive_action", "squash")
    head = {name: x for name, x in agent._policy_options.items() if name in played_as}
    return {
        "agent": type(agent).__name__,
        "observation_space": str(envs.single_observation_space),
        "action_space": str(envs.single_action_space),
        "seed": seed,
        "options": {**agent.get_config(), **head, "num_envs": envs.num_envs},
        "made": _made_of(agent),
    }


def _made_of(agent: Agent) -> dict[str, Any]:
    """What an agent's optimizers and layers are, in few words: no names, and no learning rates."""
    found: dict[str, Any] = {}
    value_model = getattr(agent, "value_model", None)
    for what, model in (("", agent.model), ("value ", value_model)):
        if model is None:
            continue
        config = _config_of(model.optimizer)
        if not isinstance(config.get("learning_rate"), dict):  # which callbacks change
            config.pop("learning_rate", None)
        found[f"{what}optimizer"] = type(model.optimizer).__name__
        found |= {f"{what}optimizer {key}": x for key, x in config.items()}
        for i, layer in enumerate(all_layers(model)):
            # What layers of one's own tell of themselves may be another thing every time.
            if type(layer).__module__.startswith("keras.") and not hasattr(layer, "layers"):
                crc = zlib.crc32(json.dumps(_config_of(layer), sort_keys=True).encode())
                found[f"{what}layer {i}"] = f"{type(layer).__name__} ({crc:08x})"
    return found


def _config_of(made: Any) -> dict[str, Any]:
    """The config of a layer or an optimizer without names, as JSON gives it back.

    Empty where it has none, as many a schedule or layer of one's own.
    """
    try:
        return json.loads(
            json.dumps(_as_json(made.get_config()), default=lambda x: type(x).__name__)
        )
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return {}


def _check_alike(found: Checkpoint, told: dict[str, Any], part: str) -> None:
    """Raises where a checkpoint is of another training."""
    there, here = ({**x, **x.get(part, {})} for x in (found.manifest, told))
    for name in ("agent", "observation_space", "action_space", *told[part]):
        # As JSON makes it of what is here: tuples are lists.
        a, b = _as_json(there.get(name)), _as_json(here[name])
        if a != b:
            words = name if part == "made" else name.replace("_", " ")
            raise ValueError(
                f"The checkpoint {str(found.path)!r} has {words} {a}, and here it is {b}: make it "
                "alike, or choose another folder."
            )


def _as_json(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(" at 0x[0-9a-f]+", "", value)  # of a function, elsewhere in every process
    if isinstance(value, (list, tuple)):
        return [_as_json(x) for x in value]
    if isinstance(value, dict):
        return {k: _as_json(x) for k, x in value.items() if k != "name"}
    return value


def _seed_of(found: Checkpoint, seed: int | None) -> int:
    kept = found.manifest["seed"]
    if seed is not None and seed != kept:
        raise ValueError(
            f"The checkpoint {str(found.path)!r} is of seed {kept}, and this is {seed}: leave the "
            "seed out, or choose another folder."
        )
    return int(kept)


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _progress_bar(callbacks: Any) -> list[ProgressBar]:
    given = any(isinstance(c, keras.callbacks.ProgbarLogger) for c in _as_list(callbacks))
    return [] if given else [ProgressBar()]
