"""Policies: a Keras model, the head that reads its outputs, and a fast way to act."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import BLOCK, batch_size, map_arrays
from tfpg.core.backend import check_not_forked, keras, read_variable, scope_of, tf
from tfpg.core.messages import one_line
from tfpg.envs import EnvLike, Spaces, spaces_of
from tfpg.envs.contracts import ACTION_MASK, BEGIN, mask_choices, mask_issues, named_parts
from tfpg.models.heads import NOISE, BernoulliHead, EpsilonGreedyHead, Head, head_for
from tfpg.models.inspection import (
    check_calls,
    check_layers,
    explain_non_finite,
    input_keys,
    input_space,
    noise_layers,
    split_outputs,
    state_shapes,
    traced_constants,
)
from tfpg.models.numpy_forward import Forward, Mirror, mirror
from tfpg.models.observations import (
    Codes,
    check_space,
    encode,
    input_dtype,
    input_shape,
    map_space,
)
from tfpg.ops.distributions import Distribution

if TYPE_CHECKING:
    from tfpg.models.noisy import NoisyNetwork
    from tfpg.models.recurrent import RecurrentActor

# Up to about this many parameters, NumPy was never slower than a TensorFlow call on a CPU; see
# benchmarks/acting.py.
_LARGE = 1_000_000
# Observations evaluated in one call of a value model: thousands of images would fill the memory.
_VALUES_PER_CALL = 4096
_BEFORE, _LAST = slice(None, -1), slice(-1, None)
# Random observations with which a model is called once, to see that it fits.
_PROBES = 16

NO_VALUE = (
    "The model has no value. Give it a second output of shape (batch, 1), as "
    "tfpg.networks.actor_critic does, or pass value_model=tfpg.networks.critic(env)."
)
NO_VALUE_OF_STATES = (
    'A recurrent model needs an output named "value" of shape (batch, 1), as '
    "tfpg.networks.recurrent has, and no value_model."
)

_HEAD_NAMES = "from_logits", "positive_action", "squash", "log_std", "epsilon", "support"
# How models that were trained or loaded act.
_RECEIVED: dict[Any, Policy] = {}
_HEAD_OPTIONS: WeakKeyDictionary[keras.Model, dict[str, Any]] = WeakKeyDictionary()


def head_options_of(model: keras.Model) -> dict[str, Any]:
    """Return the options of the head with which a model was trained, as far as they are known.

    Agents set them, `tfpg.save_model` saves them, and `tfpg.load_model` restores them.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("Pendulum-v1")
        >>> agent = tfpg.Reinforce(model, squash=True)
        >>> head_options_of(model)
        {'squash': True}
    """
    return dict(_HEAD_OPTIONS.get(model, {}))


def set_head_options(model: keras.Model, options: Mapping[str, Any]) -> None:
    """Set the default options of the head with which a model acts."""
    _HEAD_OPTIONS[model] = dict(options)


class Decision(NamedTuple):
    """A policy's decision for ``N`` observations."""

    actions: np.ndarray  #: [N, ...]  in the form used for training
    env_actions: np.ndarray  #: [N, ...]  as the environment expects them
    #: [N, K]  of the model; in NumPy, before a final sigmoid or softmax; -inf for invalid actions
    outputs: np.ndarray
    state: dict[str, np.ndarray] | None = None  #: of a recurrent policy: after this step
    memory: dict[str, np.ndarray] | None = None  #: of a recurrent policy: before this step


class Actor:
    """A function ``actor(observations [N, ...], noise [N, *noise_shape] or None) -> Decision``.

    It samples with noise, and takes the mode without. It can be pickled if it acts in NumPy.

    Args:
        forward: Maps model inputs ``[N, ...]`` to outputs ``[N, K]``.
        head: Reads the outputs. Its variables are arrays.
        encode: Maps observations to model inputs. None: they are the same.
        model: The model, to explain outputs that are not finite. It is not pickled.
        states: The shapes of the states of a recurrent policy. ``forward`` returns the states
            after the outputs, in further columns.

    Example:
        >>> import keras, pickle, tfpg
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> actor = pickle.loads(pickle.dumps(tfpg.Policy(model, "CartPole-v1").actor()))
        >>> decision = actor(np.zeros((3, 4), "float32"))
        >>> decision.env_actions.shape, decision.outputs.shape
        ((3,), (3, 2))
    """

    def __init__(
        self,
        forward: Callable[[Any], np.ndarray],
        head: Head,
        encode: Callable[[Any], Any] | None = None,
        model: keras.Model | None = None,
        states: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.head, self.states = head, states or {}
        self._forward, self._encode, self._model = forward, encode, model

    def __reduce__(self) -> Any:
        return Actor, (self._forward, self.head, self._encode, None, self.states)

    def for_envs(self, count: int) -> Actor | RecurrentActor:
        """Return an actor that keeps the states of ``count`` environments if it is recurrent."""
        if not self.states:
            return self
        from tfpg.models.recurrent import RecurrentActor

        return RecurrentActor(self, count)

    def __call__(self, observations: Any, noise: np.ndarray | None = None) -> Decision:
        """Act.

        Raises:
            FloatingPointError: The model's outputs are not finite.
        """
        head = self.head
        _check_states(self.states, observations)
        if noise is not None and head.at_random:
            outputs = np.zeros((len(noise), head.outputs), np.float32)
        else:
            inputs = observations if self._encode is None else self._encode(observations)
            outputs = self._forward(head.with_noise(inputs, noise))
        # The sum of the squares is finite unless an output is not, or it overflows.
        if not math.isfinite(np.vdot(outputs, outputs)) and not np.isfinite(outputs).all():
            raise FloatingPointError(explain_non_finite(self._model, observations, outputs))
        state = None
        if self.states:
            outputs, state = self._split(outputs)
        if head.masks:
            outputs = cast(Any, head).masked(outputs, observations[ACTION_MASK])
        distribution = head.distribution(outputs)
        actions = distribution.mode() if noise is None else distribution.sample(noise)
        return Decision(actions, head.env_actions(actions), outputs, state)

    def _split(self, columns: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The outputs and the states of a recurrent model."""
        states, end = {}, self.head.outputs
        for name, shape in self.states.items():
            first, end = end, end + math.prod(shape)
            states[name] = columns[:, first:end].reshape(len(columns), *shape)
        return columns[:, : self.head.outputs], states

    def distribution_of(self, outputs: np.ndarray) -> Distribution:
        """Return the distribution for the outputs ``[..., K]`` of a `Decision`."""
        return self.head.distribution(outputs)

    def of_part(self, first: int, total: int) -> Actor:
        """Return an actor for some of the environments that act together.

        Its decisions are bit-identical to those of this actor for all of them. It pads its inputs,
        because the last bit of a matrix product can depend on the number and position of the rows.

        Args:
            first: The index of the first environment of the part.
            total: The total number of environments.
        """
        before = first % BLOCK if total > BLOCK else first
        forward = self._forward

        def forward_of_part(inputs: Any) -> np.ndarray:
            count = batch_size(inputs)
            rows = total if total <= BLOCK else before + count + -(before + count) % BLOCK

            def padded(x: Any) -> np.ndarray:
                out = np.zeros((rows, *x.shape[1:]), x.dtype)
                out[before : before + count] = x
                return out

            if rows != count:
                inputs = map_arrays(padded, inputs)
            return forward(inputs)[before : before + count]

        part = copy.copy(self)
        part._forward = forward_of_part
        return part


class PortableForward:
    """A compiled forward pass with fixed weights, which can be pickled.

    Args:
        config: The model's config, as JSON.
        spaces: The observation and action space.
        head: Options of the head that reads the outputs.
        weights: The model's weights.
    """

    def __init__(
        self, config: str, spaces: Spaces, head: dict[str, Any], weights: list[np.ndarray]
    ):
        self._arguments = config, spaces, head, weights
        self._call: Forward | None = None

    def __reduce__(self) -> Any:
        return PortableForward, self._arguments

    def __call__(self, inputs: Any) -> np.ndarray:
        """Return the outputs ``[N, K]``."""
        if self._call is None:
            config, spaces, head, weights = self._arguments
            policy = _received_policy(config, spaces, head)
            policy.model.set_weights(weights)
            self._call = policy._compiled_forward()
        return self._call(inputs)


def _received_policy(config: str, spaces: Spaces, head: dict[str, Any]) -> Policy:
    """The policy that another process sends repeatedly, with new weights."""
    key = config, str(spaces), str(head)
    if key not in _RECEIVED:
        _RECEIVED.clear()
        model: Any = keras.saving.deserialize_keras_object(json.loads(config), safe_mode=False)
        _RECEIVED[key] = Policy(model, spaces, acting="tensorflow", **head)
    return _RECEIVED[key]


class Policy:
    """A Keras model as a policy for one kind of environment.

    Args:
        model: A Keras model, ``inputs [B, ...] -> [B, K]``, with an optional second output, the
            value ``[B, 1]``. It is built here if needed. See `tfpg.models.observations` for its
            inputs and `tfpg.models.heads` for its outputs.
        env: The environment that it acts in: an id, environment, vector environment, or callable
            that makes one; or its ``(observation_space, action_space)``.
        value_model: A Keras model ``inputs [B, ...] -> [B, 1]`` for the values, if ``model`` has no
            second output.
        from_logits: This and the next five are explained in `tfpg.models.heads.head_for`. None: as
            the model was trained, if that is known (see `head_options_of`), or else the default.
        positive_action: See ``from_logits``.
        squash: See ``from_logits``.
        log_std: See ``from_logits``.
        epsilon: See ``from_logits``.
        support: See ``from_logits``.
        value_scale: What to multiply the values by for them to be in units of the rewards, because
            the value function was trained on scaled rewards. None: as for ``from_logits``, or 1.
        acting: How actions are computed: ``"numpy"`` (a copy of the forward pass),
            ``"tensorflow"`` (a compiled call), or ``"auto"``: NumPy for models it supports, unless
            they are large. All agree up to float32 rounding.

    Attributes:
        head: The `tfpg.models.heads.Head` that reads the model's outputs.
        value_scale: See ``value_scale`` above.
        acting: ``"numpy"`` or ``"tensorflow"``.
        has_value: Whether there are values besides Q-values, from the model or the value model.
        states: The shapes of the states of a recurrent model, which are a part of the policy's
            observations; see `tfpg.models.recurrent`.
        env_spaces: The observation and action space of the environment.

    Raises:
        ValueError: The model does not fit the environment, or has layers that behave differently
            in training (dropout, batch normalization).
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
        env: EnvLike | Spaces,
        *,
        value_model: keras.Model | None = None,
        from_logits: bool | None = None,
        positive_action: int | None = None,
        squash: bool | None = None,
        log_std: float | Sequence[float] | None = None,
        epsilon: float | None = None,
        support: str | Sequence[float] | None = None,
        value_scale: float | None = None,
        acting: str = "auto",
    ):
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a keras.Model, but got {type(model).__name__}.")
        if acting not in ("auto", "numpy", "tensorflow"):
            raise ValueError(f'acting must be "auto", "numpy", or "tensorflow", not {acting!r}.')
        check_not_forked()
        self.model = model
        self.value_model = value_model
        self.env_spaces = self.observation_space, self.action_space = spaces_of(env)
        self.states = state_shapes(model)
        if self.states:
            from tfpg.models.recurrent import with_states

            self.observation_space = with_states(self.observation_space, self.states)
        options = from_logits, positive_action, squash, log_std, epsilon, support
        named = zip(_HEAD_NAMES, options, strict=True)
        given = {name: value for name, value in named if value is not None}
        known = {**head_options_of(model), **given}
        known_scale = known.pop("value_scale", 1.0)
        noise = noise_layers(model) if known.get("epsilon") is not None else []
        check_layers(model, noise)
        self._noisy: NoisyNetwork | None = None
        if noise:  # few models have any, and PPO does not load it
            from tfpg.models.noisy import NoisyNetwork

            self._noisy = NoisyNetwork(model)
        check_space(self.observation_space)
        self._input_space = input_space(model, self.observation_space)
        self._keys, example = self._probe(model, noise)
        if self._noisy is not None and isinstance(self._keys, str):
            self._noisy.names = [self._keys]
        self._value_keys: str | list[str] | None = None
        self._more_keys: set[str] = set()
        outputs, value = split_outputs(example, self.states)
        _check_output_shapes(outputs, value)
        self.has_value = value is not None or value_model is not None
        if value_model is not None:
            self._add_value_model(value_model, value is not None)
        self.value_scale = known_scale if value_scale is None else value_scale
        with scope_of(model.variables):
            self.head = self._head_for(np.asarray(tf.cast(outputs, tf.float32)), known)
        self._mirror = self._mirror_for(acting)
        self.acting = "numpy" if self._mirror else "tensorflow"
        self._forward: Forward | None = None  # with weights from an earlier time
        self._compiled: tuple[Any, Callable] | None = None
        self._compiled_value: Callable | None = None

    def frozen(self) -> Policy:
        """Return this policy with its current weights, if it acts in NumPy."""
        frozen = copy.copy(self)
        if self._mirror is not None:
            frozen._forward = self._mirror.snapshot()
        return frozen

    def without_value(self) -> Policy:
        """Return this policy without its value model, whose observations it does not need."""
        if self.value_model is None:
            return self
        other = copy.copy(self)
        other.value_model, other.has_value, other._value_keys = None, False, None
        other._compiled = other._compiled_value = None
        return other

    def share_head_variables(self, other: Policy) -> None:
        """Use the head's weights of another policy of the same model, if they fit."""
        if [v.shape for v in self.head.variables] == [v.shape for v in other.head.variables]:
            self.head.variables = other.head.variables

    def encode(self, observations: Any) -> Any:
        """Return the model inputs for observations as the environment returns them."""
        _check_states(self.states, observations)
        return self._encoding(self._encoded_keys)(observations)

    def include(self, keys: Collection[str]) -> None:
        """Keep these keys of a `Dict` in encoded observations, too, for another model.

        Raises:
            ValueError: Observations do not have them.
        """
        space = self.observation_space
        known = list(space) if isinstance(space, spaces.Dict) else []
        if missing := [key for key in keys if key not in known]:
            raise ValueError(f"Observations have no key {missing[0]!r}. Their keys are {known}.")
        self._more_keys |= set(keys)

    @property
    def input_spec(self) -> Any:
        """The `tf.TensorSpec` of a batch of model inputs, or a dict of them."""
        return self._spec_of(self._encoded_keys)

    def outputs(self, inputs: Any) -> tf.Tensor:
        """Return the model's policy outputs ``[B, K]`` for encoded observations, in float32."""
        return self._call(inputs)[0]

    def distribution(self, inputs: Any) -> Distribution:
        """Return the differentiable action distribution for encoded observations, as tensors."""
        return self.head.distribution(self.outputs(inputs))

    def distribution_and_value(
        self, inputs: Any, length: int | tf.Tensor | None = None
    ) -> tuple[Distribution, tf.Tensor | None]:
        """Return the action distribution and the value ``[B]``, or None if there is no value.

        Args:
            inputs: Encoded observations.
            length: For a recurrent model, the length of the sequences that they consist of. None:
                single steps, with their own states.
        """
        if length is not None:
            from tfpg.models.recurrent import unrolled

            def step(inputs: Any) -> Any:
                outputs, value, states = self._call_model(inputs)
                return [outputs] if value is None else [outputs, value], states

            results = unrolled(step, inputs, list(self.states), length)
            outputs, value = self._masked(results[0], inputs), results[-1] if results[1:] else None
        else:
            outputs, value = self._call(inputs)
        if self.value_model is not None:
            value = self.value(inputs)
        return self.head.distribution(outputs), value

    def value(self, inputs: Any) -> tf.Tensor:
        """Return the value ``[B]`` of encoded observations, as a differentiable tensor.

        For a Q-network, it is the largest Q-value.
        """
        self.require_value()
        if isinstance(self.head, EpsilonGreedyHead):
            return tf.reduce_max(self.head.q_values(self.outputs(inputs)), axis=-1)
        if self.value_model is None:
            return self._call(inputs)[1]
        outputs = self.value_model(_select(inputs, self._value_keys), training=False)
        return tf.cast(outputs, tf.float32)[:, 0]

    def rollout_values(self, inputs: Any) -> tf.Tensor:
        """Return the values ``[T, N]`` of encoded observations ``[T, N, ...]``, as tensors."""
        self.require_value()
        steps, count = keras.tree.flatten(inputs)[0].shape[:2]

        def flat(x: tf.Tensor) -> tf.Tensor:
            return tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]])

        if steps * count <= _VALUES_PER_CALL:
            # A loss needs all rows but the last one, too, and XLA computes them once.
            parts = (map_arrays(lambda x, r=r: flat(x[r]), inputs) for r in (_BEFORE, _LAST))
            values = tf.concat([self.value(part) for part in parts], axis=0)
            return tf.reshape(values, [steps, count])
        slices = -(-steps * count // _VALUES_PER_CALL)
        indices = tf.minimum(tf.range(slices * _VALUES_PER_CALL), steps * count - 1)
        rows = map_arrays(flat, inputs)
        values = tf.map_fn(
            lambda part: self.value(map_arrays(lambda x: tf.gather(x, part), rows)),
            tf.reshape(indices, [slices, _VALUES_PER_CALL]),
            fn_output_signature=tf.float32,
        )
        return tf.reshape(tf.reshape(values, [-1])[: steps * count], [steps, count])

    def values(self, observations: Any) -> np.ndarray:
        """Return the values ``[...]`` of observations ``[..., *shape]`` from the environment.

        Raises:
            ValueError: There is no value.

        Example:
            >>> import tfpg
            >>> policy = Policy(tfpg.networks.actor_critic("CartPole-v1"), "CartPole-v1")
            >>> policy.values(np.zeros((5, 3, 4), "float32")).shape
            (5, 3)
        """
        self.require_value()
        inputs, spec = self.encode(observations), self.input_spec
        if self._compiled_value is None:
            self._compiled_value = tf.function(self.value, input_signature=[spec], autograph=False)
        first, first_spec = (keras.tree.flatten(x)[0] for x in (inputs, spec))
        batch = np.shape(first)[: np.ndim(first) - len(first_spec.shape) + 1]
        rows = map_arrays(_as_rows, inputs, spec)
        values = np.empty(math.prod(batch), np.float32)
        for i in range(0, len(values), _VALUES_PER_CALL):
            part = slice(i, i + _VALUES_PER_CALL)
            values[part] = self._compiled_value(map_arrays(lambda x, part=part: x[part], rows))
        return values.reshape(batch)

    def require_value(self) -> None:
        """Raise a `ValueError` if there is no value."""
        if not (self.has_value or isinstance(self.head, EpsilonGreedyHead)):
            raise ValueError(NO_VALUE_OF_STATES if self.states else NO_VALUE)

    @property
    def acting_variables(self) -> list[keras.Variable]:
        """The variables that a policy reads to act in NumPy; none if it acts in TensorFlow."""
        return [] if self._mirror is None else [*self._mirror.variables, *self.head.variables]

    def actor(self, weights: Sequence[np.ndarray] | None = None) -> Actor:
        """Return a function that acts with the current weights.

        Args:
            weights: The values of `acting_variables`, if they are known. None: read them.

        Example:
            >>> import keras, numpy as np
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            >>> policy = Policy(model, "CartPole-v1")
            >>> decision = policy.actor()(np.zeros((3, 4), "float32"))
            >>> decision.env_actions.shape, decision.outputs.shape
            ((3,), (3, 2))
        """
        read, forward = read_variable, self._forward
        if weights is not None and self._mirror:
            known = {id(v): x for v, x in zip(self.acting_variables, weights, strict=True)}
            read = lambda variable: known[id(variable)]  # noqa: E731
        if forward is None:
            forward = self._mirror.snapshot(read) if self._mirror else self._compiled_forward()
        unchanged = isinstance(self.observation_space, spaces.Box) and self._noisy is None
        encoding = None if unchanged else self._encoding(_listed(self._keys))
        return Actor(forward, self._acting_head(read), encoding, self.model, self.states)

    def portable_actor(self, weights: Sequence[np.ndarray] | None = None) -> Actor:
        """Return the actor in a form that can be pickled, also if it acts in TensorFlow.

        Args:
            weights: See `actor`.

        Raises:
            TypeError: The model has no config, from which another process could make it.
        """
        actor = self.without_value().actor(weights)
        if self._mirror is None:
            try:
                config = json.dumps(keras.saving.serialize_keras_object(self.model))
            except (NotImplementedError, TypeError) as error:
                raise TypeError(
                    "The model cannot be sent to another process, because it has no config: "
                    f"{one_line(error)}. Give its class get_config()."
                ) from error
            head: dict[str, Any] = {"from_logits": self.head.from_logits}
            if isinstance(self.head, EpsilonGreedyHead):
                head = {"epsilon": 0.0, "support": self.head.support}  # which epsilon is no matter
            actor._forward = PortableForward(
                config, self.env_spaces, head, self.model.get_weights()
            )
        return actor

    def act(
        self,
        observations: Any,
        *,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> np.ndarray:
        """Return actions for a batch of observations, as the environment expects them.

        Args:
            observations: ``[N, ...]``, or a dict of such arrays if the environment's are dicts.
            deterministic: Take the most probable action rather than a sample.
            seed: Seed of the samples. None: a random seed.

        Returns:
            Array ``[N, ...]`` in the dtype and bounds of the action space.

        Raises:
            ValueError: The observations do not have the shape of the environment's.
        """
        _check_states(self.states, observations)
        observations = self._checked(observations)
        noise = None
        if not deterministic:
            noise = self.head.noise(np.random.default_rng(seed), batch_size(observations))
        return self.actor()(observations, noise).env_actions

    def distribution_of(self, outputs: np.ndarray) -> Distribution:
        """Return the distribution for the outputs ``[..., K]`` of a `Decision`."""
        return self._acting_head().distribution(outputs)

    def _acting_head(self, read: Callable[[Any], np.ndarray] = read_variable) -> Head:
        head = self.head.snapshot(read)
        if self._mirror is not None and self._mirror.gives_logits:
            head.from_logits = True
        return head

    @property
    def _encoded_keys(self) -> list[str] | None:
        """The keys of a `Dict` observation that its inputs hold. None: all, or it is no `Dict`."""
        if self._keys is None:
            return None
        used = {*(_listed(self._keys) or ()), *[ACTION_MASK] * self.head.masks, *self._more_keys}
        if self.states:
            used.add(BEGIN)
        if self.value_model is not None:
            used |= {*(_listed(self._value_keys) or cast(Any, self.observation_space))}
        return [key for key in cast(Any, self.observation_space) if key in used]

    def _call(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The policy's outputs ``[B, K]`` and the model's own value ``[B]`` or None."""
        outputs, value, _ = self._call_model(inputs)
        return self._masked(outputs, inputs), value

    def _masked(self, outputs: tf.Tensor, inputs: Any) -> tf.Tensor:
        if self.head.masks:
            outputs = cast(Any, self.head).masked(outputs, inputs[ACTION_MASK])
        return outputs

    def _call_model(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor | None, dict[str, tf.Tensor]]:
        """The model's outputs ``[B, K]``, its value ``[B]`` or None, and its next states."""
        if self._noisy is not None and NOISE in inputs:
            return tf.cast(self._noisy(inputs), tf.float32), None, {}
        name = self._input_name
        inputs = _select(inputs, self._keys) if name is None else inputs[name]
        results = self.model(inputs, training=False)
        outputs, value = split_outputs(results, self.states)
        if value is not None:
            value = tf.cast(value, tf.float32)[:, 0]
        states = {state: tf.cast(results[state], tf.float32) for state in self.states}
        return tf.cast(outputs, tf.float32), value, states

    def _compiled_forward(self) -> Forward:
        """A function of the inputs that the model takes, which the `Actor` masks."""
        spec = self._spec_of(_listed(self._keys))
        constants = traced_constants(self.model)
        if self._noisy is not None:
            spec = {**spec, NOISE: tf.TensorSpec([None, self._noisy.size])}
        if self._compiled is None or self._compiled[0] != constants:

            def forward(inputs: Any) -> tf.Tensor:
                outputs, _, states = self._call_model(inputs)
                if not states:
                    return outputs
                sizes = [math.prod(shape) for shape in self.states.values()]
                pairs = zip(states.values(), sizes, strict=True)
                flat = [tf.reshape(x, [tf.shape(x)[0], size]) for x, size in pairs]
                return tf.concat([outputs, *flat], axis=-1)

            call = tf.function(forward, input_signature=[spec], autograph=False)
            self._compiled = constants, call
        call = self._compiled[1]
        return lambda inputs: call(map_arrays(_as_rows, inputs, spec)).numpy()

    def _probe(
        self, model: keras.Model, noise: Sequence[keras.layers.Layer] = ()
    ) -> tuple[str | list[str] | None, Any]:
        """The keys that a model takes, and its outputs for random observations; builds it."""
        keys = input_keys(model, self._input_space)

        def rows(part: gymnasium.Space) -> np.ndarray:
            part = copy.deepcopy(part)  # whose generator the environment may use
            part.seed(0)
            samples = np.stack([part.sample() for _ in range(_PROBES)])
            encoded = samples if isinstance(part, Codes) else encode(part, samples)
            return encoded.astype(input_dtype(part))

        inputs = map_space(rows, self._input_space, keys)
        try:
            outputs = model(inputs, training=False)
        except Exception as error:
            shapes = map_arrays(lambda x: (1, *x.shape[1:]), inputs)
            raise ValueError(
                f"The model cannot be called on inputs of shape {shapes}: {one_line(error)}"
            ) from error
        check_calls(model, inputs, noise)
        return keys, outputs

    def _encoding(self, keys: list[str] | None) -> Callable[[Any], Any]:
        """The function from observations to model inputs, which can be pickled."""
        if self._input_name is not None:
            return partial(_encode_as, self._input_name, self._input_space)
        return partial(encode, self._input_space, keys=keys)

    def _spec_of(self, keys: list[str] | None) -> Any:
        specs = map_space(_spec, self._input_space, keys)
        return specs if self._input_name is None else {self._input_name: specs}

    @property
    def _input_name(self) -> str | None:
        """The name of the model's only input, if there is noise next to it."""
        if self._noisy is None or isinstance(self._input_space, spaces.Dict):
            return None
        return self._noisy.names[0]

    def _mirror_for(self, acting: str) -> Mirror | None:
        """The forward pass in NumPy, if the policy acts in NumPy."""
        is_large = self.model.count_params() > _LARGE
        if acting == "tensorflow" or (acting == "auto" and is_large):
            return None
        noise = self._noisy.noise if self._noisy else []
        # A logit far from zero holds more than its probability, so NumPy stops before that.
        found = mirror(self.model, logits=not self.head.from_logits, noise=noise)
        if acting == "numpy" and found is None:
            raise ValueError(
                "This model cannot act in NumPy, which supports Dense, Activation, Flatten, "
                "Rescaling, Concatenate, LayerNormalization, frozen BatchNormalization, GRUCell, "
                'LSTMCell, and a few keras.ops in float32. Use acting="auto".'
            )
        if found is not None and isinstance(self._keys, str):
            names = (x if x == NOISE else self._keys for x in found.sources)
            found = found._replace(sources=dict(zip(names, found.sources.values(), strict=True)))
        return found

    def _head_for(self, outputs: np.ndarray, options: dict[str, Any]) -> Head:
        noise = self._noisy.size if self._noisy else 0
        head = head_for(self.action_space, self.model, outputs, model_noise=noise, **options)
        head.masks = mask_choices(self.observation_space, self.action_space) is not None
        if head.masks and isinstance(head, BernoulliHead):
            raise ValueError(
                "A model with a single output cannot have its actions masked. Give it two outputs, "
                "the logits of both actions."
            )
        return head

    def _add_value_model(self, value_model: keras.Model, has_own: bool) -> None:
        if has_own:
            raise ValueError("The model has a value output, so it does not need a value_model.")
        if self.states:
            raise ValueError(NO_VALUE_OF_STATES)
        theirs = input_space(value_model, self.observation_space)
        taken: list[Any] = _listed(input_keys(value_model, theirs)) or [None]
        for key in taken:
            mine, other = ((x if key is None else x[key]) for x in (self._input_space, theirs))
            if isinstance(mine, Codes) != isinstance(other, Codes):
                raise ValueError(
                    "The model and the value_model must take Discrete observations in the same "
                    "form: both as integers, or both as one-hot vectors."
                )
        self._value_keys, values = self._probe(value_model)
        if len(values.shape) != 2 or values.shape[1] != 1:
            raise ValueError(
                "A value_model's output must have shape (batch, 1), but it has shape "
                f"{(None, *values.shape[1:])}."
            )

    def _checked(self, observations: Any) -> Any:
        """The observations as arrays, after a check of their shapes."""
        shapes = map_space(lambda part: part.shape or (), self.observation_space)
        if isinstance(shapes, dict):
            observations = named_parts(observations)
            if not isinstance(observations, dict) or not set(shapes) <= set(observations):
                raise ValueError(f"Expected observations in a dict with the keys {list(shapes)}.")

        def checked(shape: tuple[int, ...], x: Any) -> np.ndarray:
            x = np.asarray(x)
            if x.shape[1:] != shape or x.ndim != len(shape) + 1:
                raise ValueError(
                    f"Expected observations of shape (N, {', '.join(map(str, shape))}), but got "
                    f"{x.shape}. For a single observation, pass x[None]."
                )
            return x

        observations = map_arrays(checked, shapes, observations)
        if self.head.masks:
            self._check_masks(observations[ACTION_MASK])
        return observations

    def _check_masks(self, masks: np.ndarray) -> None:
        choices = cast(Any, mask_choices(self.observation_space, self.action_space))
        for n, mask in enumerate(masks):
            for issue in mask_issues(choices, mask):
                raise ValueError(f"The action mask of observation {n} is invalid: {issue.detail}.")


def _check_output_shapes(outputs: Any, value: Any) -> None:
    if len(outputs.shape) != 2:
        raise ValueError(
            "A policy model's output must have shape (batch, K), but it has shape "
            f"{(None, *outputs.shape[1:])}."
        )
    if value is not None and tuple(value.shape[1:]) != (1,):
        raise ValueError(
            "The model's second output is the value and must have shape (batch, 1), but it has "
            f"shape {(None, *value.shape[1:])}."
        )


def is_policy_like(policy: Any) -> bool:
    """Whether `as_policy` accepts it: a Keras model, an agent, or a `Policy`."""
    return isinstance(policy, (Policy, keras.Model)) or hasattr(policy, "policy_for")


def as_policy(policy: Any, env: EnvLike) -> Policy:
    """Return a `Policy` for ``env`` from a policy, an agent, or a Keras model.

    Raises:
        TypeError: It is none of these.
        ValueError: It does not fit the environment.
    """
    if isinstance(policy, Policy):
        (known, actions), (space, action_space) = policy.env_spaces, spaces_of(env)
        mine, given = (
            map_space(lambda part: (type(part), input_shape(part)), each) for each in (known, space)
        )
        if mine != given or actions != action_space:
            raise ValueError(
                f"The policy is for {known} and {actions}, but the environment has {space} and "
                f"{action_space}."
            )
        return policy
    if isinstance(policy, keras.Model):
        return Policy(policy, env)
    if hasattr(policy, "policy_for"):
        return policy.policy_for(env)
    raise TypeError(
        f"Expected a Keras model, an agent, or a tfpg.Policy, but got {type(policy).__name__}."
    )


def _select(inputs: Any, keys: str | Sequence[str] | None) -> Any:
    if isinstance(keys, str):
        return inputs[keys]
    return inputs if keys is None else {key: inputs[key] for key in keys}


def _encode_as(name: str, space: gymnasium.Space, observations: Any) -> dict[str, Any]:
    return {name: encode(space, observations)}


def _check_states(states: Any, observations: Any) -> None:
    """Raise if a policy has states and the observations do not hold them."""
    if states and not (isinstance(observations, dict) and BEGIN in observations):
        raise ValueError(
            "A recurrent policy needs its state with each observation. For N environments, use "
            "act = policy.actor().for_envs(N), then act(observations)."
        )


def _listed(keys: str | list[str] | None) -> list[str] | None:
    return [keys] if isinstance(keys, str) else keys


def _spec(space: gymnasium.Space) -> tf.TensorSpec:
    return tf.TensorSpec([None, *input_shape(space)], input_dtype(space))


def _as_rows(x: Any, spec: tf.TensorSpec) -> np.ndarray:
    """``[..., *shape]`` as ``[B, *shape]`` of the spec's dtype."""
    x = np.asarray(x, spec.dtype.as_numpy_dtype)
    return x.reshape(math.prod(x.shape[: x.ndim - len(spec.shape) + 1]), *spec.shape[1:])
