"""A policy: a Keras model, the head that reads its outputs, and a fast way to act."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import batch_size, map_arrays
from tfpg.core.backend import keras, tf
from tfpg.envs import EnvLike, spaces_of
from tfpg.models.graph import split_outputs
from tfpg.models.heads import check_output_shape, head_for
from tfpg.models.numpy_forward import Forward, mirror
from tfpg.models.observations import check_space, encode, input_dtype, input_shape, select
from tfpg.models.requirements import (
    baked_constants,
    check_inputs,
    check_layers,
    check_logits,
    input_keys,
    non_finite_outputs,
    one_line,
)
from tfpg.ops.distributions import Distribution

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
        model: A Keras model, ``inputs [B, ...] -> [B, K]``, and a value ``[B, 1]`` if it has a
            second output. Built here if it is not. `tfpg.models.observations` describes its inputs.
        env: What it plays in: an environment id, environment, vector environment or callable.
        from_logits: See `head_for`.
        positive_action: See `head_for`.
        squash: See `head_for`.
        log_std: See `head_for`.
        epsilon: See `head_for`.
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
        squash: bool = False,
        log_std: float | Sequence[float] = 0.0,
        epsilon: float | None = None,
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
        check_space(self.observation_space)
        self._keys = self.model_keys = input_keys(model, self.observation_space)
        probed, value = split_outputs(self.called_by(model))
        probed = np.asarray(tf.cast(probed, tf.float32))
        self.has_value = value is not None
        if value is not None and tuple(value.shape[1:]) != (1,):
            raise ValueError(
                f"The model's second output is the value, of shape (batch, 1), and it has shape "
                f"{(None, *value.shape[1:])}."
            )
        self.head = head_for(
            self.action_space,
            model,
            from_logits=from_logits,
            positive_action=positive_action,
            squash=squash,
            log_std=log_std,
            epsilon=epsilon,
            outputs=check_output_shape(probed.shape),
        )
        if from_logits is None:
            check_logits(self.head, model, probed)
        # Probabilities lose what a logit far from zero still knows, so NumPy stops before them.
        logits = not self.head.from_logits
        snapshot = None if acting == "tensorflow" else mirror(model, logits=logits)
        if acting == "numpy" and snapshot is None:
            raise ValueError(
                "This model cannot act through NumPy: only Dense, Activation, Flatten, Rescaling, "
                "Concatenate, frozen BatchNormalization and a few keras.ops in float32 can. Use "
                'acting="auto".'
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

    def frozen(self) -> Policy:
        """This policy as it is now, whatever becomes of the model; for acting in NumPy."""
        frozen, forward = copy.copy(self), self._snapshot()
        frozen._snapshot = lambda: forward
        return frozen

    def share_head_variables(self, other: Policy) -> None:
        """Uses the weights that another policy's head keeps beside the same model."""
        if [v.shape for v in self.head.variables] == [v.shape for v in other.head.variables]:
            for head in (self.head, self._acting_head):
                head.share_variables(other.head)

    def also_encode(self, keys: list[str]) -> None:
        """Encodes these keys of a `Dict` too, for a critic that sees more than the policy."""
        if self._keys is not None and not set(keys) <= set(self._keys):
            space = cast(Any, self.observation_space)
            self._keys = [key for key in space if key in {*keys, *self._keys}]
            self._call = None

    def encode(self, observations: Any) -> Any:
        """Model inputs for observations as the environment gives them; see `encode`."""
        return encode(self.observation_space, observations, self._keys)

    def distribution(self, inputs: Any) -> Distribution:
        """The differentiable action distribution for encoded observations, as tensors."""
        return self.distribution_and_value(inputs)[0]

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor | None]:
        """The action distribution and the model's value ``[B]``, or None where it has none."""
        inputs = select(inputs, self.model_keys)
        outputs, value = split_outputs(self.model(inputs, training=False))
        if value is not None:
            value = tf.cast(value, tf.float32)[:, 0]
        return self.head.distribution(tf.cast(outputs, tf.float32)), value

    @property
    def input_spec(self) -> Any:
        """The signature of a batch of model inputs, with an open first dimension."""
        space = self.observation_space
        if not isinstance(space, spaces.Dict):
            return tf.TensorSpec([None, *input_shape(space)], tf.as_dtype(input_dtype(space)))
        return {
            key: tf.TensorSpec([None, *input_shape(space[key])], input_dtype(space[key]))
            for key in self._keys or space
        }

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
        forward, encode = self._snapshot(), self.encode
        encoded = not isinstance(self.observation_space, spaces.Box)
        head = self._acting_head.snapshot()
        distribution, env_actions = head.distribution, head.env_actions

        def act(observations: Any, noise: np.ndarray | None = None) -> Decision:
            if noise is not None and head.at_random:
                outputs = np.zeros((len(noise), head.outputs), np.float32)
            else:
                outputs = forward(encode(observations) if encoded else observations)
            # A sum is finite unless something in it is not, or overflows: then look closely.
            if not math.isfinite(outputs.sum()) and not np.isfinite(outputs).all():
                raise FloatingPointError(non_finite_outputs(self.model, observations, outputs))
            chosen = distribution(outputs)
            actions = chosen.mode() if noise is None else chosen.sample(noise)
            return Decision(actions, env_actions(actions), outputs)

        return act

    def act(
        self,
        observations: Any,
        *,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> np.ndarray:
        """Actions for a batch of observations, as the environment wants them.

        Args:
            observations: ``[N, ...]``, a dict of such arrays where the environment's are dicts.
            deterministic: The most probable action; else a sample.
            seed: Of the samples. None: fresh ones.

        Returns:
            ``[N, ...]`` array in the action space's dtype and bounds.

        Raises:
            ValueError: The observations have another shape than the environment's.
        """
        observations = self._checked(observations)
        noise = None
        if not deterministic:
            noise = self.head.noise(np.random.default_rng(seed), batch_size(observations))
        return self.actor()(observations, noise).env_actions

    def distribution_of(self, outputs: np.ndarray) -> Distribution:
        """The distribution that the outputs ``[..., K]`` of a `Decision` stand for."""
        return self._acting_head.snapshot().distribution(outputs)

    def _compiled(self) -> Forward:
        model, spec, keys = self.model, self.input_spec, self.model_keys
        constants = baked_constants(model)
        if self._call is None or self._call_constants != constants:

            @tf.function(input_signature=[spec], autograph=False)
            def forward(inputs):
                outputs = model(select(inputs, keys), training=False)
                return tf.cast(split_outputs(outputs)[0], tf.float32)

            self._call, self._call_constants = forward, constants
        call = self._call

        def typed(x: Any, s: tf.TensorSpec) -> np.ndarray:
            return np.asarray(x, s.dtype.as_numpy_dtype)

        return lambda inputs: call(map_arrays(typed, inputs, spec)).numpy()

    def called_by(self, model: keras.Model) -> Any:
        """What a model makes of random observations; builds it.

        Raises:
            ValueError: It cannot be called on them.
        """
        space = cast(Any, self.observation_space)
        keys = input_keys(model, space)
        check_inputs(model, space, keys)
        rng = np.random.default_rng(0)

        def rows(part: Any) -> np.ndarray:
            return rng.normal(size=(16, *input_shape(part))).astype(input_dtype(part))

        is_dict = isinstance(space, spaces.Dict)
        names = keys or list(space) if is_dict else ()
        inputs = {key: rows(space[key]) for key in names} if is_dict else rows(space)
        try:
            return model(inputs, training=False)
        except Exception as error:
            raise ValueError(
                f"The model cannot be called on inputs of shape {_shapes(inputs)}: "
                f"{one_line(error)}"
            ) from error

    def _checked(self, observations: Any) -> Any:
        space = self.observation_space
        parts = space if isinstance(space, spaces.Dict) else {None: space}
        if isinstance(space, spaces.Dict) and (
            not isinstance(observations, dict) or not set(parts) <= set(observations)
        ):
            raise ValueError(f"Expected observations in a dict with the keys {list(parts)}.")
        observations = map_arrays(np.asarray, observations)
        for key, part in parts.items():
            shape, x = part.shape or (), observations if key is None else observations[key]
            if x.shape[1:] != shape or x.ndim != len(shape) + 1:
                raise ValueError(
                    f"Expected observations{f' {key!r}' if key else ''} of shape "
                    f"(N, {', '.join(map(str, shape))}), and got {x.shape}; one is x[None]."
                )
        return observations


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
        shapes = _space_shapes(policy.observation_space), _space_shapes(observation_space)
        if shapes[0] != shapes[1] or policy.action_space != action_space:
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


def _space_shapes(space: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _space_shapes(part) for key, part in space.items()}
    return type(space), input_shape(space)


def _shapes(inputs: Any) -> Any:
    return map_arrays(lambda x: (1, *x.shape[1:]), inputs)
