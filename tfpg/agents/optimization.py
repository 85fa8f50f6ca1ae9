"""The variables that an agent trains, and the optimizers that train them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpg.core.backend import as_tensor, keras, read_variable, scope_of, strategy_of, tf
from tfpg.core.messages import one_line, warn
from tfpg.models.inspection import all_layers, traced_constants
from tfpg.models.policy import Policy
from tfpg.ops.gradients import clip_by_global_norm

# This many consecutive updates with a finite loss and a non-finite gradient end training.
MAX_SKIPPED_UPDATES = 10


class Trainable:
    """The trainable variables of a policy, its head and a second model.

    Each model has its own optimizer. The variables of a head (a free log standard deviation) or of
    an agent get an optimizer like the policy's.

    Args:
        policy: A policy whose model is compiled.
        second: A compiled value model or critic, or None.
        own: Variables of the agent.
        name: The name of the option with the second model, for errors.

    Attributes:
        groups: Pairs of an optimizer and its variables: the policy's, the head's and the agent's,
            the second model's.
        variables: The variables of all groups, in order.

    Raises:
        ValueError: There is nothing to train, the models share weights or an optimizer, or an
            optimizer scales its loss.

    Example:
        >>> import keras, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> model.compile(keras.optimizers.SGD(0.1))
        >>> len(Trainable(tfpg.Policy(model, "CartPole-v1")).variables)
        6
    """

    def __init__(
        self,
        policy: Policy,
        second: keras.Model | None = None,
        own: Sequence[Any] = (),
        name: str = "value_model",
    ):
        model = policy.model
        if not model.trainable_variables:
            raise ValueError("The model has no trainable weights: there is nothing to train.")
        if second is not None:
            _check_separate(model, second, name)
        self.groups = [(model.optimizer, list(model.trainable_variables))]
        self._like_policys: Any = None  # optimizer
        if free := [*policy.head.variables, *own]:
            with scope_of(model.variables):
                self._like_policys = _optimizer_like(model.optimizer)
            self.groups.append((self._like_policys, free))
        if second is not None:
            self.groups.append((second.optimizer, list(second.trainable_variables)))
        for optimizer, variables in self.groups:
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                raise ValueError(
                    "tfpg does not scale losses, so mixed_float16 is not supported: use "
                    "mixed_bfloat16, or compile with auto_scale_loss=False."
                )
            if not optimizer.built:
                with scope_of(variables):
                    optimizer.build(variables)
        self.variables = [v for _, variables in self.groups for v in variables]
        self._skipped = self._skipped_in_a_row = 0  # updates

    def follow_learning_rate(self) -> None:
        """Give the optimizer like the policy's the learning rate that a callback gave that one."""
        optimizer = self.groups[0][0]
        if self._like_policys is not None and not has_schedule(optimizer):
            self._like_policys.learning_rate = float(read_variable(optimizer.learning_rate))

    def apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Apply gradients, one for each variable."""
        apply_gradients(self.groups, gradients)

    def apply_if_finite(self, gradients: Sequence[tf.Tensor], allowed: Any = True) -> tf.Tensor:
        """Apply gradients if all of them are finite.

        Args:
            gradients: One gradient for each variable.
            allowed: Another condition, scalar.

        Returns:
            ``[V]`` bool, for each variable whether its gradient is finite.
        """
        finite = are_finite(gradients)
        apply_where(tf.reduce_all(finite) & allowed, self.groups, gradients)
        return finite

    def finalize(self) -> None:
        """Replace weights with their averages at the end of training, as Keras's ``fit`` does."""
        for optimizer, variables in self.groups:
            optimizer.finalize_variable_values(variables)

    def check(self, finite: np.ndarray, loss: float) -> bool:
        """Count an update that was skipped because a gradient was not finite.

        The first one is a warning.

        Args:
            finite: ``[V]`` bool, for each variable whether its gradient was finite.
            loss: The loss, or its mean over several updates.

        Returns:
            Whether the update was applied.

        Raises:
            FloatingPointError: The loss was not finite either, or `MAX_SKIPPED_UPDATES` updates
                in a row were skipped.
        """
        if finite.all():
            self._skipped_in_a_row = 0
            return True
        self._skipped += 1
        self._skipped_in_a_row += 1
        variable = self.variables[int(np.argmin(finite))].path
        what = f"The gradient of {variable!r} is not finite (loss {loss}). The update was skipped"
        if math.isfinite(loss) and self._skipped_in_a_row < MAX_SKIPPED_UPDATES:
            if self._skipped == 1:
                warn(
                    f"{what}, and training continues. It ends after {MAX_SKIPPED_UPDATES} skipped "
                    "updates in a row. This warning is shown once."
                )
            return False
        raise FloatingPointError(
            f"{what}. Check for non-finite rewards or observations, or use a smaller learning rate."
        )


def _check_separate(model: keras.Model, second: keras.Model, name: str) -> None:
    shared = {id(v) for v in model.weights} & {id(v) for v in second.weights}
    if shared:
        weight = next(v.path for v in model.weights if id(v) in shared)
        other = ", or make one model with two outputs" if name == "value_model" else ""
        raise ValueError(
            f"The policy and the {name} share the weight {weight!r}, which both would train: give "
            f"each its own{other}."
        )
    if second.optimizer is model.optimizer:
        raise ValueError(
            f"The policy and the {name} were compiled with the same optimizer object: compile each "
            "with its own optimizer."
        )


def _optimizer_like(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Make another optimizer with the same settings, or else Adam with the same learning rate.

    It does not decay weights.
    """
    rate = (
        optimizer._learning_rate
        if has_schedule(optimizer)
        else float(read_variable(optimizer.learning_rate))
    )
    before = optimizer._learning_rate
    try:
        # A schedule of your own need not have a config, and is used as it is.
        optimizer._learning_rate = 0.0
        config = {**optimizer.get_config(), "learning_rate": rate}
        if config.get("weight_decay"):  # it would pull a log_std toward 0
            config["weight_decay"] = 0.0
        return type(optimizer)(**config)
    except Exception:
        warn(
            f"{type(optimizer).__name__} cannot be made again from its get_config(), so Adam "
            "trains the variables outside the models, with the same learning rate."
        )
        return keras.optimizers.Adam(rate)
    finally:
        optimizer._learning_rate = before


def has_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer's learning rate is a schedule, and not a number.

    Example:
        >>> has_schedule(keras.optimizers.Adam(1e-3))
        False
    """
    schedule = keras.optimizers.schedules.LearningRateSchedule
    return isinstance(optimizer._learning_rate, schedule)  # the property evaluates it


def compiled(function: Callable, jit_compile: bool = False, signature: Any = None) -> Callable:
    """Compile a function of tensors without AutoGraph.

    Args:
        function: A function of tensors. Loops and branches on tensors are `tf.while_loop` and
            `tf.cond`.
        jit_compile: Whether to compile with XLA.
        signature: The `tf.TensorSpec` of each argument. None: one trace for each new signature.

    Example:
        >>> compiled(lambda x: x + 1)(tf.constant(1)).numpy()
        np.int32(2)
    """
    call = tf.function(
        function, input_signature=signature, jit_compile=jit_compile, autograph=False
    )
    # TensorFlow mistakes agents that are made in a loop for one function that is traced each time.
    call._omit_frequent_tracing_warning = True
    return call


class CompiledUpdate:
    """The updates of models in one compiled call: arrays in, a dict of arrays out.

    A TensorFlow call takes at least a tenth of a millisecond, however little it computes, and
    reading a variable takes a tenth of that, so all results are returned in a single array.

    It is compiled with XLA if that is faster and possible. XLA slows down convolutions on a CPU. It
    cannot compile some operations, or layers whose ``supports_jit`` is false. If it fails,
    ``"auto"`` warns and compiles without XLA; True raises.

    Args:
        function: A function of tensors, or of named tuples or dicts of them, that updates the
            models. It returns a dict of tensors (numbers of up to 24 bits, or flags), and nested
            tensors to keep for the next call, or None.
        jit_compile: Whether to use XLA, or ``"auto"``.
        models: The models.
        signature: The `tf.TensorSpec` of each argument, nested like the arguments, to compile the
            function only once. None: it is compiled once for each shape.

    Example:
        >>> def add(x, y):
        ...     return {"sum": x + y, "both": tf.stack([x, y])}, None
        >>> CompiledUpdate(add, False, [])(np.array(1.0), np.array(2.0))
        ({'sum': 3.0, 'both': array([1., 2.], dtype=float32)}, None)
    """

    def __init__(
        self,
        function: Callable,
        jit_compile: bool | str,
        models: Sequence[keras.Model],
        signature: Any = None,
    ):
        layers = [layer for model in models for layer in all_layers(model)]
        convolves = any(isinstance(layer, _convolutions()) for layer in layers)
        unsupported = [x.name for x in layers if not getattr(x, "supports_jit", True)]
        auto = jit_compile == "auto"
        too_slow = convolves and not tf.config.list_logical_devices("GPU")
        if auto and unsupported and not too_slow:
            warn(
                f"XLA cannot compile the layer {unsupported[0]!r}: the updates are slower without "
                "it."
            )
        self._function = function
        self._signature = signature
        self._jit = bool(jit_compile) and not (auto and (unsupported or too_slow))
        if strategy_of(v for model in models for v in model.trainable_variables) is not None:
            self._jit = False  # XLA compiles for one device
        self._may_fail = auto
        self._calls: dict[Any, tuple[Callable, Layout]] = {}

    def __call__(self, *arguments: Any) -> tuple[dict[str, Any], Any]:
        """Run the updates, and compile them if the shapes of the arguments are new.

        Args:
            arguments: Arrays or tensors, named tuples or dicts of them, or None.

        Returns:
            A dict of floats and arrays, and nested tensors.

        Raises:
            ValueError: XLA was requested, but cannot compile the function.
        """
        flat = tf.nest.flatten(arguments)
        key = None
        if self._signature is None:
            key = tuple([None if x is None else (x.shape, x.dtype) for x in flat])
        tensors = [as_tensor(x) if isinstance(x, np.ndarray) else x for x in flat if x is not None]
        if key in self._calls:
            call, layout = self._calls[key]
            return layout.unpacked(call(*tensors))
        return self._first_call(key, arguments, tensors)

    def _first_call(self, key: Any, arguments: Any, tensors: list) -> tuple[dict[str, Any], Any]:
        layout = Layout()

        def function(*tensors: Any) -> list[tf.Tensor]:
            given = iter(tensors)
            flat = [None if x is None else next(given) for x in tf.nest.flatten(arguments)]
            return layout.packed(*self._function(*tf.nest.pack_sequence_as(arguments, flat)))

        def compile_and_run(jit: bool) -> tuple[dict[str, Any], Any]:
            traced: Any = compiled(function, jit_compile=jit)
            specs = tensors if self._signature is None else tf.nest.flatten(self._signature)
            concrete = traced.get_concrete_function(*specs)
            call = _called_directly(concrete)
            results = layout.unpacked(call(*tensors))
            self._calls[key] = call, layout
            return results

        try:
            return compile_and_run(self._jit)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not self._jit:
                raise
            reason = f"XLA cannot compile the updates ({one_line(error.message, 200)})"
            if not self._may_fail:
                raise ValueError(f'{reason}: use jit_compile="auto" or False.') from error
            results = compile_and_run(jit=False)  # which fails again if the error was another one
            self._jit = False
            warn(f"{reason}: they are slower without it.")
            return results


def _called_directly(concrete: Any) -> Callable:
    """Return a function that calls a concrete function with tensors, and returns a list of them.

    Matching the arguments to the signature would take a fifth of a small update's time.
    """
    try:
        call, captured = concrete._inference_function.call_flat, concrete.captured_inputs
    except AttributeError:  # not a part of TensorFlow's public interface
        return concrete
    # The function is kept, because its variables and graph live as long as it does.
    return lambda *tensors, function=concrete: call(*tensors, *captured)


class Layout:
    """The positions of a compiled call's results in the array that holds them.

    Example:
        >>> layout = Layout()
        >>> (packed,) = layout.packed({"x": tf.constant([1.0, 2.0]), "y": tf.constant(True)}, None)
        >>> layout.unpacked_row(packed.numpy())
        {'y': 1.0, 'x': array([1., 2.], dtype=float32)}
    """

    def __init__(self) -> None:
        self._scalars: list[str] = []
        self._arrays: dict[str, tuple[slice, Any]] = {}
        self._kept: Any = None

    def packed(self, results: dict[str, tf.Tensor], kept: Any) -> list[tf.Tensor]:
        """Return the results as one float32 vector, followed by the tensors to keep."""
        self._kept = tf.nest.map_structure(lambda x: None, kept)
        self._scalars = [name for name, x in results.items() if x.shape.rank == 0]
        end = len(self._scalars)
        for name, x in results.items():
            if x.shape.rank:
                start, end = end, end + x.shape.num_elements()
                self._arrays[name] = slice(start, end), tuple(x.shape)
        ordered = [results[name] for name in (*self._scalars, *self._arrays)]
        flat = [tf.reshape(tf.cast(x, tf.float32), [-1]) for x in ordered]
        return [tf.concat(flat, axis=0), *(x for x in tf.nest.flatten(kept) if x is not None)]

    def unpacked(self, outputs: list[tf.Tensor]) -> tuple[dict[str, Any], Any]:
        """Return the results, and the tensors to keep."""
        found = self.unpacked_row(outputs[0].numpy())
        if len(outputs) == 1:
            return found, None
        return found, tf.nest.pack_sequence_as(self._kept, outputs[1:])

    def unpacked_row(self, packed: np.ndarray) -> dict[str, Any]:
        """Return the results as floats and arrays."""
        count = len(self._scalars)
        found = dict(zip(self._scalars, packed[:count].tolist(), strict=True))
        for name, (place, shape) in self._arrays.items():
            found[name] = packed[place].reshape(shape)
        return found


def _convolutions() -> tuple[type, ...]:
    layers = keras.layers
    return (
        *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
        *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        *(layers.SeparableConv1D, layers.SeparableConv2D),
    )


def compiled_in(model: keras.Model | None) -> Any:
    """The parts of a model that a compiled update contains: if they change, it is outdated."""
    if model is None:
        return None
    trained = [id(v) for v in model.trainable_variables]
    return model.optimizer, trained, traced_constants(model)


def are_finite(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """``[V]`` bool, for each gradient whether all its numbers are finite."""
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    return tf.stack(finite) if finite else tf.ones([0], tf.bool)


def apply_where(
    condition: tf.Tensor,
    groups: Sequence[tuple[Any, Sequence[Any]]],
    gradients: Sequence[tf.Tensor],
) -> None:
    """Apply the gradients of groups of (optimizer, variables) if a scalar condition holds."""

    def step() -> tf.Tensor:
        apply_gradients(groups, gradients)
        return tf.constant(True)

    tf.cond(condition, step, lambda: tf.constant(False))


def apply_gradients(
    groups: Sequence[tuple[Any, Sequence[Any]]], gradients: Sequence[tf.Tensor]
) -> None:
    """Apply the gradients of groups of (optimizer, variables), one group after another."""
    start = 0
    for optimizer, variables in groups:
        own = gradients[start : start + len(variables)]
        start += len(variables)
        clipnorm = None if optimizer.clipnorm else optimizer.global_clipnorm
        if not clipnorm or optimizer.gradient_accumulation_steps:
            _apply(optimizer, own, variables)
            continue
        # Keras's own clipping takes a sixth of an update's time; see `sum_of_squares`.
        own = clip_by_global_norm(own, clipnorm)
        optimizer.global_clipnorm = None
        try:
            _apply(optimizer, own, variables)
        finally:
            optimizer.global_clipnorm = clipnorm


def _apply(optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
    """Apply gradients, on each device if the variables are on several."""
    strategy = strategy_of(variables)
    if strategy is None:
        # Keras would sum the gradients over a single device, by an operation that makes TensorFlow
        # keep the graph until the process ends: about 10 MB for each agent.
        optimizer._all_reduce_sum_gradients = list
        try:
            optimizer.apply(gradients, variables)
        finally:
            del optimizer._all_reduce_sum_gradients
        return

    def apply_on_device(*gradients: tf.Tensor) -> None:
        first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
        # Keras adds the gradients of all devices, and these are sums already.
        optimizer.apply([tf.where(first, g, tf.zeros_like(g)) for g in gradients], variables)

    strategy.run(apply_on_device, args=tuple(gradients))
