"""A policy: a Keras model, the head that reads its outputs, and a fast way to act."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip
import tensorflow as tf  # isort: skip

from tfpg.distributions import Distribution
from tfpg.envs import EnvLike, spaces_of
from tfpg.heads import GaussianHead, Head, check_output_shape, head_for, last_activation
from tfpg.mirror import Forward, mirror

# Up to about this many parameters NumPy was never slower than a TensorFlow call on a CPU; see
# benchmarks/acting.py.
_LARGE = 1_000_000


class Decision(NamedTuple):
    """What a policy decided for ``N`` observations."""

    actions: np.ndarray  # [N, ...]  as learned
    env_actions: np.ndarray  # [N, ...]  as the environments want them
    outputs: np.ndarray  # [N, K]  of the model, before a final sigmoid or softmax if in NumPy


class Policy:
    """A Keras model as a policy for one kind of environment.

    Args:
        model: A Keras model, ``observations [B, ...] -> [B, K]``. Built here if it is not.
        env: What it plays in: an environment id, environment, vector environment or callable.
        from_logits: See `head_for`.
        positive_action: See `head_for`.
        acting: How actions are computed: ``"numpy"`` (a forward pass mirrored from the weights),
            ``"tensorflow"`` (a compiled call), or ``"auto"``: NumPy for the models it can mirror
            whose layers are small. All agree to float32 rounding. `acting` says which it is.

    Raises:
        ValueError: The model does not fit the environment, or holds layers that behave
            differently in training (dropout, batch normalization).
        TypeError: ``model`` is not a Keras model.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        >>> policy = Policy(model, "CartPole-v1")
        >>> policy.act(np.zeros((3, 4), "float32")).shape, policy.acting
        ((3,), 'numpy')
    """

    def __init__(
        self,
        model: keras.Model,
        env: EnvLike,
        *,
        from_logits: bool | None = None,
        positive_action: int = 1,
        acting: str = "auto",
    ):
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a keras.Model, and got {type(model).__name__}.")
        if acting not in ("auto", "numpy", "tensorflow"):
            raise ValueError(
                f'acting must be "auto", "numpy" or "tensorflow", and it is {acting!r}.'
            )
        self.model = model
        self.observation_space, self.action_space = spaces_of(env)
        check_layers(model)
        probed = _probe(model, self.observation_space)
        self.head = head_for(
            self.action_space,
            model,
            from_logits=from_logits,
            positive_action=positive_action,
            outputs=check_output_shape(probed.shape),
        )
        if from_logits is None:
            _check_logits(self.head, model, probed)
        # Probabilities lose what a logit far from zero still knows, so NumPy stops before them.
        logits = not self.head.from_logits
        snapshot = None if acting == "tensorflow" else mirror(model, logits=logits)
        if acting == "numpy" and snapshot is None:
            raise ValueError(
                "This model cannot act through NumPy: only stacks of Dense, Activation, Flatten, "
                'Rescaling and Concatenate layers in float32 can. Use acting="auto".'
            )
        if acting == "auto" and model.count_params() > _LARGE:
            snapshot = None
        self.acting = "tensorflow" if snapshot is None else "numpy"
        self._snapshot = snapshot or self._compiled
        self._call: Callable | None = None
        self._call_constants: list[int] = []
        self._acting_head = copy.copy(self.head)
        if snapshot is not None and snapshot.gives_logits:  # type: ignore[attr-defined]
            self._acting_head.from_logits = True

    def distribution(self, observations: Any) -> Distribution:
        """The differentiable action distribution for observations ``[B, ...]``, as tensors."""
        outputs = self.model(observations, training=False)
        return self.head.distribution(tf.cast(outputs, tf.float32))

    def actor(self) -> Callable[[np.ndarray, np.ndarray | None], Decision]:
        """A function that acts with the weights of this moment.

        Returns:
            ``actor(observations [N, ...], noise [N, *noise_shape] or None) -> Decision``. With
            noise it samples, without it takes the mode.

        Raises:
            FloatingPointError: By the actor, when the model's outputs are not finite.

        Example:
            >>> import keras, numpy as np
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            >>> policy = Policy(model, "CartPole-v1")
            >>> decision = policy.actor()(np.zeros((3, 4), "float32"))
            >>> decision.env_actions.shape, decision.outputs.shape
            ((3,), (3, 2))
        """
        forward = self._snapshot()
        head = self._acting_head
        distribution, env_actions = head.distribution, head.env_actions

        def act(observations: np.ndarray, noise: np.ndarray | None = None) -> Decision:
            outputs = forward(observations)
            # A sum is finite unless something in it is not, or overflows: then look closely.
            if not math.isfinite(outputs.sum()) and not np.isfinite(outputs).all():
                raise FloatingPointError(self._describe_non_finite(observations, outputs))
            chosen = distribution(outputs)
            actions = chosen.mode() if noise is None else chosen.sample(noise)
            return Decision(actions, env_actions(actions), outputs)

        return act

    def act(
        self,
        observations: np.ndarray,
        *,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> np.ndarray:
        """Actions for a batch of observations, as the environment wants them.

        Args:
            observations: ``[N, ...]``.
            deterministic: The most probable action; else a sample.
            seed: Of the samples. None: fresh ones.

        Returns:
            ``[N, ...]`` array in the action space's dtype and bounds.

        Raises:
            ValueError: The observations have another shape than the environment's.
        """
        observations = np.asarray(observations)
        shape = self.observation_space.shape or ()
        if observations.shape[1:] != shape or observations.ndim != len(shape) + 1:
            raise ValueError(
                f"Expected observations of shape (N, {', '.join(map(str, shape))}), "
                f"and got {observations.shape}."
            )
        noise = None
        if not deterministic:
            noise = self.head.noise(np.random.default_rng(seed), len(observations))
        return self.actor()(observations, noise).env_actions

    def log_prob(self, outputs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Log-probabilities ``[...]`` of actions under a `Decision`'s outputs ``[..., K]``."""
        return self._acting_head.distribution(outputs).log_prob(actions)

    def _compiled(self) -> Forward:
        model, dtype = self.model, self.observation_space.dtype
        constants = baked_constants(model)
        if self._call is None or self._call_constants != constants:

            @tf.function(input_signature=[observation_spec(self.observation_space)])
            def forward(observations):
                return tf.cast(model(observations, training=False), tf.float32)

            self._call, self._call_constants = forward, constants
        call = self._call
        return lambda observations: call(np.asarray(observations, dtype)).numpy()

    def _describe_non_finite(self, observations: np.ndarray, outputs: np.ndarray) -> str:
        row = int(np.argmin(np.isfinite(outputs).all(axis=-1)))
        values = np.array2string(outputs[row], threshold=6, separator=", ")
        what = f"The model's outputs are not finite: {values} for observation {row}"
        for weight in self.model.weights:
            if not np.isfinite(np.asarray(weight)).all():
                return f"{what}. Its weight {weight.path!r} is not: load an earlier model."
        seen = np.array2string(np.asarray(observations)[row].ravel(), threshold=6, separator=", ")
        return f"{what}, which is {seen}."


def is_policy_like(policy: Any) -> bool:
    """Whether `as_policy` takes it: a Keras model, an agent or a `Policy`."""
    return isinstance(policy, (Policy, keras.Model)) or hasattr(policy, "policy_for")


def as_policy(policy: Any, env: EnvLike) -> Policy:
    """A `Policy` for ``env`` from a policy, an agent or a Keras model.

    Raises:
        TypeError: It is none of these.
        ValueError: It does not fit the environment.
    """
    if isinstance(policy, Policy):
        observation_space, action_space = spaces_of(env)
        if (policy.observation_space.shape, policy.action_space) != (
            observation_space.shape,
            action_space,
        ):
            raise ValueError(
                f"The policy is for {policy.observation_space} and {policy.action_space}, and the "
                f"environment has {observation_space} and {action_space}."
            )
        return policy
    if isinstance(policy, keras.Model):
        return Policy(policy, env)
    if hasattr(policy, "policy_for"):
        return policy.policy_for(env)
    raise TypeError(
        f"Expected a Keras model, an agent or a tfpg.Policy, and got {type(policy).__name__}."
    )


def check_layers(model: keras.Model) -> None:
    """Raises for layers that make the probability of an action depend on the rest of the batch.

    Raises:
        ValueError: The model holds dropout or noise layers, trainable batch normalization, or
            activity regularizers.

    Example:
        >>> import keras
        >>> check_layers(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    """
    layers = keras.layers
    random = (
        *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D),
        *(layers.SpatialDropout3D, layers.AlphaDropout, layers.GaussianDropout),
        layers.GaussianNoise,
    )
    for layer in _all_layers(model):
        if isinstance(layer, random) and getattr(layer, "rate", True):
            reason = "makes the probability of the same action another one in training"
        elif isinstance(layer, layers.BatchNormalization) and layer.trainable:
            reason = "makes every probability depend on the rest of the batch (freeze it instead)"
        elif getattr(layer, "activity_regularizer", None) is not None:
            reason = "has an activity regularizer, whose value depends on the batch"
        else:
            continue
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) {reason}, and a policy gradient needs "
            "it fixed. Take it out of the model."
        )


def _probe(model: keras.Model, space: gymnasium.Space) -> np.ndarray:
    """Calls the model on random observations, which builds it, and returns its outputs."""
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"Observations must be a Box, and these are {space}: wrap the environment, for "
            "example in gymnasium.wrappers.FlattenObservation."
        )
    shape = getattr(model, "input_shape", None) if model.built else None
    if shape is not None and (isinstance(shape, (list, dict)) or not _fits(space.shape, shape[1:])):
        raise ValueError(
            f"The model takes inputs of shape {_one_line(shape)}, and the observations have "
            f"shape {space.shape}: build it with keras.Input({space.shape})."
        )
    try:
        rows = np.random.default_rng(0).normal(size=(16, *space.shape)).astype(space.dtype)
        outputs = model(rows, training=False)
    except Exception as error:
        raise ValueError(
            f"The model cannot be called on observations of shape {(1, *space.shape)}: "
            f"{_one_line(error)}"
        ) from error
    if isinstance(outputs, (list, tuple, dict)):
        raise ValueError(f"A policy model has one output, and this one has {len(outputs)}.")
    return np.asarray(tf.cast(outputs, tf.float32))


def _check_logits(head: Head, model: keras.Model, outputs: np.ndarray) -> None:
    """Raises where outputs that would be read as logits look like probabilities."""
    if isinstance(head, GaussianHead) or not head.from_logits:
        return
    if last_activation(model) == "linear" or not outputs.any():
        return
    bounded = (outputs >= 0).all() and (outputs <= 1).all()
    if bounded and (head.outputs == 1 or np.allclose(outputs.sum(axis=-1), 1, atol=1e-3)):
        raise ValueError(
            "The model's outputs look like probabilities, and its last operation does not say: "
            "from_logits=False if they are, from_logits=True if they are logits."
        )


def baked_constants(model: keras.Model) -> list[int]:
    """What a compiled call keeps as it was when traced: the statistics of Normalization layers.

    Two lists differ if such a layer was adapted in between; what was compiled is stale then.
    """
    layers = [model, *_all_layers(model)]
    return [id(x.mean) for x in layers if isinstance(x, keras.layers.Normalization)]


def observation_spec(space: gymnasium.Space) -> tf.TensorSpec:
    """The signature of a batch of observations, ``[None, *shape]`` in the space's dtype."""
    return tf.TensorSpec([None, *(space.shape or ())], tf.as_dtype(space.dtype))


def _fits(shape: tuple, expected: tuple) -> bool:
    return len(shape) == len(expected) and all(
        e is None or s == e for s, e in zip(shape, expected, strict=True)
    )


def _one_line(x: Any) -> str:
    return " ".join(str(x).split())[:300]


def _all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
