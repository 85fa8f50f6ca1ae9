"""Exporting a policy to a file that acts without tfpg, once the file is known to act alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import tf
from tfpg.core.files import atomic_folder, atomic_write
from tfpg.core.messages import number, one_line
from tfpg.core.options import check_names, checked, count, positive
from tfpg.core.seeding import check_seed, evaluation_rng
from tfpg.envs import EnvLike
from tfpg.models.policy import Decision, Policy, as_policy
from tfpg.models.saving import load_model
from tfpg.rollouts.evaluation import open_envs
from tfpg.rollouts.loop import play_episodes
from tfpg.sharing.programs import (
    NOISE,
    SUFFIXES,
    code,
    require_packages,
    trace,
    write_and_play,
)
from tfpg.sharing.runs import find_model

_ENVS = 8  # of the rollout


class Exported(NamedTuple):
    """A program that `export` wrote. None in a shape is the size of the batch.

    Attributes:
        path: The file, or the folder of a SavedModel.
        format: ``"onnx"``, ``"litert"`` or ``"saved_model"``.
        inputs: The dtype and shape of each input by its name.
        output: The dtype and shape of the output, ``action``.
        noise: The method of a NumPy generator that draws the input ``noise``, such as
            ``"gumbel"``; for a noisy network, ``"random and standard_normal"``. None: there is no
            noise, or its distribution is not one of tfpg's.
        bytes: The size of the file or folder.
        steps: The number of observations on which the actions were compared.
        difference: The largest difference between an action and that of the policy.
        code: Python code that plays an observation.
    """

    path: Path
    format: str
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    output: tuple[str, tuple[int | None, ...]]
    noise: str | None
    bytes: int
    steps: int
    difference: float
    code: str


def export(
    policy: Any,
    path: str | os.PathLike,
    env: EnvLike | None = None,
    *,
    format: str | None = None,
    sampled: bool = False,
    steps: int = 1000,
    seed: int | None = None,
    tolerance: float = 1e-5,
) -> Exported:
    """Export a policy to a file that acts without tfpg.

    `tfpg.sharing.programs` describes the formats. The file is written only if it acts like the
    policy: the policy plays ``steps`` steps in the environment, the runtime of the format computes
    the actions for the same observations, and they must agree.

    - A discrete action must be equal, or one that the policy would take if one of its model's
      outputs changed by ``tolerance`` times the largest output: then the two are equally good.
    - A continuous action may differ by ``tolerance`` times the largest action in that dimension,
      or, if it is squashed, times the width of the bounds.

    Args:
        policy: A run folder, a ``.keras`` file, a Keras model, an agent, or a `Policy`.
        path: The file to write; for a SavedModel, the folder. An earlier export is replaced.
        env: The environment. None: the run's. For a `Policy` it may be left out; then the
            observations are samples of their space.
        format: ``"onnx"``, ``"litert"`` or ``"saved_model"``. None: by the suffix of ``path``,
            which is ``.onnx``, ``.tflite`` or none.
        sampled: Whether actions are sampled from an input ``noise``, rather than the most probable
            ones.
        steps: The number of observations on which the actions are compared.
        seed: The seed of the rollout and of the noise. None: a random seed.
        tolerance: The relative tolerance of the comparison.

    Returns:
        The inputs, the output and the size of the file, and code that plays it; see `Exported`.

    Raises:
        ValueError: The format does not support the model, or the file does not act like it.
        ImportError: A package that the format needs is missing.
        FileNotFoundError, NotADirectoryError, PermissionError: The file cannot be written.
        FileExistsError: The folder of a SavedModel holds something else.

    Example:
        >>> import keras, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export(model, f"{folder}/policy.tflite", "CartPole-v1", steps=10)
        >>> exported.inputs, exported.output
        ({'observation': ('float32', (None, 4))}, ('int64', (None,)))
    """
    path, seed = Path(path), check_seed(seed)
    steps, tolerance = checked("steps", steps, count), checked("tolerance", tolerance, positive)
    format = _format_of(path, format)
    require_packages(format)
    policy, env = _policy_in(policy, env)
    writing = (
        atomic_folder(path, "saved_model.pb") if format == "saved_model" else atomic_write(path)
    )
    with _full_precision(), writing as temporary:
        program = trace(policy, sampled)
        noise = policy.head.noise(np.random.default_rng(seed), steps) if sampled else None
        observations = _observations(policy, env, steps, seed, sampled)
        decision = policy.actor()(observations, noise)
        inputs = {
            name: observations if key is None else observations[key]
            for name, key in program.keys.items()
        }
        inputs.update({NOISE: noise} if sampled else {})
        actions = write_and_play(program, temporary, format, inputs)
        difference = _compare(policy, decision, noise, actions, tolerance)
    files = (each for each in (path, *path.rglob("*")) if each.is_file())
    return Exported(
        path,
        format,
        {name: (spec.dtype.name, tuple(spec.shape)) for name, spec in program.inputs.items()},
        (actions.dtype.name, (None, *actions.shape[1:])),
        program.drawn_by,
        sum(each.stat().st_size for each in files),
        steps,
        difference,
        code(program, path, format),
    )


def _format_of(path: Path, format: str | None) -> str:
    if format is None:
        format = next((name for name in SUFFIXES if path.suffix == SUFFIXES[name]), path.suffix)
    check_names([format], SUFFIXES, "format")
    return format


def _policy_in(policy: Any, env: EnvLike | None) -> tuple[Policy, EnvLike | None]:
    if isinstance(policy, (str, os.PathLike)):
        # An environment without an id needs no other: only its spaces matter.
        name = env if env is None or isinstance(env, str) else "another"
        source = find_model(policy, name)
        env = source.env if env is None else env
        policy = Policy(load_model(source.model), env, **source.head)
    elif env is not None:
        policy = as_policy(policy, env)
    elif not isinstance(policy, Policy):
        raise ValueError('The environment is not known: pass env="CartPole-v1", for example.')
    return policy.without_value(), env


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute without TF32, with which TensorFlow multiplies on GPUs, and the runtimes do not."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _observations(policy: Policy, env: EnvLike | None, steps: int, seed: int, sampled: bool) -> Any:
    """Observations ``[steps, ...]`` of a rollout, or, without an environment, of their space."""
    if env is None:
        batch = batch_space(policy.observation_space, steps)
        batch.seed(seed)
        return batch.sample()
    rows: list[Any] = []
    head, missing, first = policy.head if sampled else None, steps, 0
    with open_envs(env, _ENVS) as envs:
        while missing > 0:
            rngs = [evaluation_rng(seed, first + n) for n in range(envs.num_envs)]
            for step in play_episodes(envs, policy.actor(), rngs, head=head):
                rows.append(map_arrays(lambda x, real=step.real: x[real], step.observations))
                missing -= int(step.real.sum())
                if missing <= 0:
                    break
            first += envs.num_envs
    return map_arrays(lambda *parts: np.concatenate(parts)[:steps], *rows)


def _compare(
    policy: Policy, decision: Decision, noise: Any, actions: np.ndarray, tolerance: float
) -> float:
    """Return the largest difference between the policy's actions and those of the program.

    Raises:
        ValueError: They do not agree.
    """
    expected = decision.env_actions
    if (actions.dtype, actions.shape) != (expected.dtype, expected.shape):
        raise ValueError(
            f"The exported policy returns {actions.dtype} actions of shape {actions.shape}, but "
            f"the policy returns {expected.dtype} actions of shape {expected.shape}."
        )
    difference = np.abs(actions.astype(np.float64) - expected)
    if expected.dtype.kind == "f":
        scale = np.abs(expected).max(axis=0)
        if getattr(policy.head, "squash", False):
            space = cast(spaces.Box, policy.action_space)
            scale = np.maximum(scale, space.high - space.low)
        agree = difference <= max(tolerance, np.finfo(expected.dtype).eps) * scale
    else:
        agree = difference == 0
        rows = np.flatnonzero(~agree.reshape(len(agree), -1).all(axis=1))
        for near in _nearby_actions(policy, decision.outputs, noise, rows, tolerance):
            agree[rows] |= actions[rows] == near
    wrong = np.flatnonzero(~agree.reshape(len(agree), -1).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"The exported policy takes another action for {wrong.size:,} of {len(actions):,} "
            f"observations: {one_line(actions[wrong[0]])} instead of "
            f"{one_line(expected[wrong[0]])}, with a difference of up to "
            f"{number(difference.max())}. If its layers are random, it cannot be exported; for "
            "rounding errors, raise the tolerance."
        )
    return float(difference.max())


def _nearby_actions(
    policy: Policy, outputs: np.ndarray, noise: Any, rows: np.ndarray, tolerance: float
) -> Iterator[np.ndarray]:
    """The actions in some rows, for each output a little smaller and a little larger."""
    step = tolerance * np.abs(outputs, where=np.isfinite(outputs), out=np.zeros_like(outputs)).max()
    for k in range(outputs.shape[1] if rows.size else 0):
        for shift in (-step, step):
            moved = outputs[rows]
            moved[:, k] += shift
            distribution = policy.distribution_of(moved)
            taken = distribution.mode() if noise is None else distribution.sample(noise[rows])
            yield policy.head.env_actions(taken)
