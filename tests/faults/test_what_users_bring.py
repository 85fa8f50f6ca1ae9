"""Environments, models, optimizers and callbacks of one's own, and the surprises they bring."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small import EPISODES, AfterEachIteration, every_checkpoint, flat_weights, small_agent
from toys import Countdown, Walk

import tfpg
from tfpg.core.messages import show
from tfpg.errors import EnvError
from tfpg.models.observations import encode


class FailsToClose(Countdown):
    error = RuntimeError("not connected")

    def close(self):
        raise self.error


class FailsToCloseAll(SyncVectorEnv):
    def __init__(self):
        super().__init__([Countdown] * 2, autoreset_mode=AutoresetMode.DISABLED)

    def close(self, **options):
        raise FailsToClose.error


@pytest.mark.parametrize("error", [RuntimeError("not connected"), OSError(9, "no"), KeyError(3)])
@pytest.mark.parametrize("env", [FailsToClose, lambda: FailsToCloseAll()])
def test_results_survive_an_environment_that_fails_when_it_is_closed(env, error, monkeypatch):
    monkeypatch.setattr(FailsToClose, "error", error)
    agent = small_agent(tfpg.Reinforce, Countdown)
    name = type(error).__name__
    with pytest.warns(UserWarning, match=f"failed when it was closed: {name}: "):
        history = agent.fit(env, 2, seed=0, verbose=0)
    assert history.history["episode_return"] == [3.0, 3.0]
    with pytest.warns(UserWarning, match="Nothing is lost"):
        assert agent.evaluate(env, 2)["episode_return"] == 3.0


class TestSharedEnvironments:
    @pytest.mark.parametrize("workers", [None, 1])
    def test_wrappers_around_one_environment_are_refused(self, workers):
        inner = Countdown()
        with pytest.raises((ValueError, EnvError), match="the same environment twice"):
            tfpg.evaluate(
                lambda x: np.zeros(len(x), int),
                tfpg.envs.make_vec(
                    lambda: gymnasium.wrappers.TimeLimit(inner, 9), 2, workers=workers
                ),
            )

    @pytest.mark.parametrize("wrap", [lambda env: env, gymnasium.wrappers.RecordEpisodeStatistics])
    def test_validation_in_the_training_environment_is_refused(self, wrap):
        env = Countdown()
        with pytest.raises(ValueError, match="validation_envs is the training environment"):
            small_agent(tfpg.Reinforce, env).fit(
                env, 1, verbose=0, validation_envs=lambda: wrap(env), validation_episodes=1
            )

    def test_a_callback_that_plays_in_the_training_environment_is_refused(self, tmp_path):
        env = gymnasium.make("CartPole-v1")
        look = tfpg.callbacks.Diagnostics(tmp_path / "a.png", env, every=1, episodes=2)
        with pytest.raises(ValueError, match="Diagnostics.env is the training environment"):
            small_agent(tfpg.Reinforce).fit(env, 1, callbacks=[look], verbose=0)


class Hooks(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append("epoch")

    def on_test_begin(self, logs=None):
        self.calls.append("test")

    def on_test_batch_begin(self, batch, logs=None):
        self.calls.append(f"batch {batch}")

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(f"end {batch}")

    def on_test_end(self, logs=None):
        self.calls.append(sorted(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append("val_episode_return" in logs)


def test_callbacks_are_called_around_validation_as_keras_calls_them():
    hooks = Hooks()
    small_agent(tfpg.Reinforce, Countdown).fit(
        Countdown, 3, verbose=0, callbacks=[hooks], validation_envs=Countdown, validation_freq=2
    )
    validated = ["test", "batch 0", "end 0", ["episode_length", "episode_return"], True]
    assert hooks.calls == ["epoch", False, "epoch", *validated, "epoch", *validated]


def test_the_averaged_weights_are_validated():
    model = tfpg.networks.mlp("CartPole-v1", hidden=(4,), seed=0)
    model.compile(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5))
    agent, seen = tfpg.Reinforce(model, **EPISODES), []
    trained = AfterEachIteration(lambda: flat_weights(model))
    evaluate = agent.evaluate
    agent.evaluate = lambda *args, **kw: seen.append(flat_weights(model)) or evaluate(*args, **kw)
    agent.fit(
        *("CartPole-v1", 2),
        verbose=0,
        callbacks=[keras.callbacks.SwapEMAWeights(), trained],
        validation_envs="CartPole-v1",
        validation_freq=1,
        validation_episodes=1,
    )
    # The first average is the weights themselves.
    np.testing.assert_allclose(seen[0], trained.values[0])
    assert not np.allclose(seen[1], trained.values[1])


class Warm(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without a config."""

    def __call__(self, step):
        return 1e-3 * keras.ops.minimum(keras.ops.cast(step + 1, "float32") / 10.0, 1.0)


class Peaked(keras.optimizers.SGD):
    """An optimizer whose constructor takes no learning rate."""

    def __init__(self, peak, **options):
        super().__init__(learning_rate=peak, **options)


@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.Adam(Warm()), lambda: Peaked(0.01)])
@pytest.mark.filterwarnings("ignore:Peaked cannot be made again")
def test_a_free_log_std_is_trained_next_to_any_optimizer(optimizer):
    space = spaces.Box(-1, 1, (2,), np.float32)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile(optimizer())
    agent = tfpg.Reinforce(model, **EPISODES)
    agent.fit(lambda: Walk(space), 2, seed=0, verbose=0)
    assert agent.policy.head.variables[0].numpy().any()


class TestOtherRuns:
    def fit(self, folder, env, rate=0.01, iterations=2):
        model = tfpg.networks.mlp("Acrobot-v1", hidden=(4,), seed=0)
        model.compile(keras.optimizers.Adam(rate))
        agent = tfpg.Reinforce(model, episodes_per_update=2, max_steps=20)
        agent.fit(env, iterations, seed=1, verbose=0, checkpoints=every_checkpoint(folder))

    @pytest.mark.parametrize("rate", [0.1, 0.0099, 1e-5])
    def test_another_learning_rate_is_refused(self, tmp_path, rate):
        self.fit(tmp_path, "Acrobot-v1")
        message = rf"has learning_rate \[0.01\], but here it is \[{rate}\]"
        with pytest.raises(ValueError, match=message):
            self.fit(tmp_path, "Acrobot-v1", rate=rate, iterations=3)
        self.fit(tmp_path, "Acrobot-v1", iterations=3)

    def test_another_learning_rate_of_the_value_model_is_refused(self, tmp_path):
        for rate in (0.02, 0.02, 0.03):
            model, value = (
                make("CartPole-v1", hidden=(4,), seed=0)
                for make in (tfpg.networks.mlp, tfpg.networks.critic)
            )
            value.compile(keras.optimizers.Adam(rate))
            agent = small_agent(tfpg.PPO, model=model, value_model=value)
            options = {"seed": 1, "verbose": 0, "checkpoints": every_checkpoint(tmp_path)}
            if rate == 0.03:
                with pytest.raises(ValueError, match="has learning_rate .*0.02.* it is .*0.03"):
                    agent.fit("CartPole-v1", 2, **options)
            else:
                agent.fit("CartPole-v1", 1, **options)

    def test_a_learning_rate_that_a_callback_changed_is_not_another_one(self, tmp_path):
        agent = small_agent(tfpg.Reinforce)
        for iterations in (2, 3):
            agent.fit(
                *("CartPole-v1", iterations),
                seed=1,
                verbose=0,
                callbacks=[keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2)],
                checkpoints=every_checkpoint(tmp_path),
            )

    @pytest.mark.parametrize(
        ("other", "difference"),
        [
            (lambda: gymnasium.make("Acrobot-v1", max_episode_steps=60), "time limit 60"),
            (lambda: gymnasium.make("Acrobot-v1", render_mode="rgb_array"), None),
        ],
    )
    def test_an_environment_with_another_limit_is_refused(self, tmp_path, other, difference):
        self.fit(tmp_path, "Acrobot-v1")
        if difference is None:
            self.fit(tmp_path, other, iterations=3)
            return
        with pytest.raises(ValueError, match=f"environment Acrobot-v1, .* is .*{difference}"):
            self.fit(tmp_path, other, iterations=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("low", [0, 3])
def test_codes_are_looked_up_in_an_embedding(dtype, low):
    space = spaces.Box(low, 9, (3,), dtype)
    inputs = keras.Input((3,), dtype=np.dtype(dtype).name)
    x = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(inputs))
    env = Countdown()
    env.observation_space = space
    policy = tfpg.Policy(keras.Model(inputs, keras.layers.Dense(2)(x)), env)
    assert policy.act(np.full((2, 3), 9, dtype)).shape == (2,)


def test_large_discrete_observations_take_no_table():
    encoded = encode(spaces.Discrete(10**7), np.array([3]))
    assert (encoded.shape, encoded.sum(), encoded[0, 3]) == ((1, 10**7), 1, 1)


@pytest.mark.parametrize("high", [9, 100, 255])
def test_small_integers_are_scaled_by_their_own_bound(high):
    space = spaces.Box(0, high, (4, 4), np.uint8)
    model = tfpg.networks.mlp((space, spaces.Discrete(2)))
    scaled = keras.Model(model.inputs, model.layers[1].output)
    assert float(np.max(scaled(np.full((1, 4, 4), high, np.uint8)))) == pytest.approx(1.0)


PRINTS = """
import os, sys
sys.path.insert(0, {tests!r})
import gymnasium, toys
class Prints(toys.Countdown):
    def reset(self, **options):
        print("a banner"); os.write(1, b"a native banner\\n")
        return super().reset(**options)
gymnasium.register("Prints-v0", Prints)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "m.keras", "--env", "prints:Prints-v0", "--episodes", "2"],
        ["check", "prints:Prints-v0", "--steps", "20"],
        ["evaluate", "m.keras", "--env", "prints:Prints-v0", "--stochastic"],
    ],
)
def test_json_is_alone_on_the_standard_output(tmp_path, command):
    (tmp_path / "prints.py").write_text(PRINTS.format(tests=str(Path(__file__).parents[1])))
    tfpg.networks.mlp(Countdown, hidden=(4,)).save(tmp_path / "m.keras")
    done = subprocess.run(
        [sys.executable, "-m", "tfpg", *command, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["ok"] if command[0] == "check" else found["episode_return"] == 3.0
    assert "a native banner" in done.stderr


class Adds(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.sum(x))
        return x


class AddsInside(keras.layers.Layer):
    """Has a layer that adds a loss."""

    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([Adds()])

    def call(self, x):
        return self.inner(x)


class Noisy(keras.layers.Layer):
    def call(self, x, training=False):
        return x + 1.0 if training else x


class Counts(keras.layers.Layer):
    """Counts its calls in training in a weight that is not trained."""

    def build(self, shape):
        self.calls = self.add_weight((), "zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Adds, "calls add_loss"),
        (AddsInside, "calls add_loss"),
        (lambda: keras.Sequential([Adds(), Adds()]), "calls add_loss"),
        (Noisy, "returns different outputs"),
        (Counts, "changes '.*calls"),
        (lambda: keras.layers.TimeDistributed(keras.layers.Dropout(0.9)), "different outputs"),
        (lambda: keras.layers.LSTM(3, dropout=0.9, return_sequences=True), "different outputs"),
    ],
)
def test_layers_that_no_agent_can_train_as_they_acted_are_refused(layer, message):
    inputs = keras.Input((4,))
    x = keras.layers.Reshape((2, 2))(inputs)
    x = keras.layers.Flatten()(layer()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    before = model.get_weights()
    for agent in (tfpg.Reinforce(model, **EPISODES), tfpg.DQN(model)):
        with pytest.raises(ValueError, match=message):
            agent.fit("CartPole-v1", 1, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Random(keras.layers.Layer):
    """Random in every call, by a generator of its own or that of Keras."""

    def __init__(self, seed=None, **options):
        super().__init__(**options)
        self.generator = None if seed is None else keras.random.SeedGenerator(seed)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)


@pytest.mark.parametrize("seed", [None, 7])
def test_layers_that_are_random_when_they_act_too_are_accepted(seed):
    model = keras.Sequential([keras.Input((4,)), Random(seed), keras.layers.Dense(2)])
    tfpg.Reinforce(model, **EPISODES).fit("CartPole-v1", 1, seed=0, verbose=0)


def test_regularizers_and_frozen_batch_normalization_are_accepted():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(trainable=False),
            keras.layers.Dense(2, bias_regularizer="l1"),
        ]
    )
    tfpg.Reinforce(model, **EPISODES).fit("CartPole-v1", 1, seed=0, verbose=0)


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("registers_here.py", "registers_here"),
        ("package_here/__init__.py", "package_here"),
        ("other_package/envs.py", "other_package.envs"),
    ],
)
def test_a_module_in_the_current_folder_registers_its_environment(
    tmp_path, monkeypatch, file, module
):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(
        "import gymnasium\n"
        "entry = 'gymnasium.envs.classic_control:CartPoleEnv'\n"
        f"gymnasium.register('{module.title().replace('.', '')}-v0', entry)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    env_id = f"{module}:{module.title().replace('.', '')}-v0"
    assert tfpg.envs.spaces_of(env_id)[0].shape == (4,)


@pytest.mark.parametrize(
    "change",
    [
        "os.environ.pop('HOME', None); pwd.getpwuid = unknown",
        "os.environ['HOME'] = '/nonexistent'",
        "os.environ['HOME'] = os.devnull",
    ],
)
def test_a_home_folder_is_not_needed(change):
    code = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        f"{change}\n"
        "import tfpg\n"
        "model = tfpg.networks.mlp('CartPole-v1', hidden=(4,))\n"
        "tfpg.Reinforce(model, max_steps=9).fit('CartPole-v1', 1, verbose=0)\n"
    )
    environ = {name: x for name, x in os.environ.items() if not name.startswith(("KERAS", "MPL"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class OnTheHost(keras.layers.Layer):
    """Calls NumPy, which XLA cannot compile."""

    def __init__(self, supports_jit=True, **options):
        super().__init__(**options)
        self.supports_jit = supports_jit

    def call(self, x):
        # A gradient goes through the layer after it only.
        return tf.ensure_shape(tf.numpy_function(lambda a: np.sort(a, -1), [x], x.dtype), x.shape)

    def compute_output_shape(self, shape):
        return shape


class Spells(keras.layers.Layer):
    """Uses strings, for which XLA has no operations."""

    def call(self, x):
        return x + 0.1 * tf.cast(tf.strings.length(tf.strings.as_string(x)), x.dtype)

    def compute_output_shape(self, shape):
        return shape


def with_layer(layer, algorithm):
    inputs = keras.Input((4,))
    x = layer(keras.layers.Dense(4)(inputs) if isinstance(layer, Spells) else inputs)
    outputs = [keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)]
    return keras.Model(inputs, outputs[0] if algorithm is tfpg.DQN else outputs)


@pytest.mark.parametrize("algorithm", [tfpg.A2C, tfpg.PPO, tfpg.DQN])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: OnTheHost(supports_jit=False, name="sorted"), "cannot compile the layer 'sorted'"),
        (OnTheHost, "XLA cannot compile the updates .*: they are slower without it"),
        (Spells, "XLA cannot compile the updates .*: they are slower without it"),
    ],
)
def test_layers_that_xla_cannot_compile_are_trained_without_it(algorithm, layer, message):
    agents = [
        small_agent(algorithm, model=with_layer(layer(), algorithm), jit_compile=jit)
        for jit in ("auto", False)
    ]
    agents[1].model.set_weights(agents[0].model.get_weights())
    with pytest.warns(UserWarning, match=message) as caught:
        agents[0].fit("CartPole-v1", 2, seed=0, verbose=0)
    assert len([x for x in caught if "XLA" in str(x.message)]) == 1
    agents[1].fit("CartPole-v1", 2, seed=0, verbose=0)
    np.testing.assert_array_equal(*(flat_weights(agent.model) for agent in agents))


def test_xla_that_was_asked_for_and_fails_is_an_error_of_one_line():
    agent = small_agent(tfpg.PPO, model=with_layer(OnTheHost(), tfpg.PPO), jit_compile=True)
    with pytest.raises(ValueError, match=r'use jit_compile="auto" or False\.$') as caught:
        agent.fit("CartPole-v1", 1, verbose=0)
    assert len(str(caught.value).splitlines()) == 1


FULL = Path("/dev/full")
TRAIN = ["train", "reinforce", "CartPole-v1", "--iterations", "2", "--episodes-per-update", "2"]
TRAIN += ["--max-steps", "20", "--seed", "1", "--no-video"]


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
class TestFullDiskUnderTheOutput:
    def command(self, *args, **options):
        return subprocess.run(
            [sys.executable, "-m", "tfpg", *args],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **options,
        )

    def test_training_continues(self, tmp_path):
        with FULL.open("w") as full:
            done = self.command(*TRAIN, "--run", "r", cwd=tmp_path, stdout=full)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "r/learning_curve.png").exists()

    def test_fit_continues(self, tmp_path):
        code = (
            "import tfpg\n"
            "model = tfpg.networks.mlp('CartPole-v1')\n"
            "agents = tfpg.Reinforce(model, max_steps=9), tfpg.DQN(model, learning_starts=64)\n"
            "for agent in agents:\n"
            "    agent.fit('CartPole-v1', 2, verbose=2)\n"
            "tfpg.save_model(model, 'model.keras')\n"
        )
        with FULL.open("w") as full:
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=full, check=False)
        assert (tmp_path / "model.keras").exists()

    def test_a_result_that_cannot_be_printed_is_an_error(self):
        with FULL.open("w") as full:
            done = self.command("doctor", "--json", stdout=full)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("tfpg: error: ")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_the_output_cannot_encode_are_escaped(tmp_path, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "tfpg", *TRAIN, "--run", "日本"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5\\u672c/model.keras" in done.stdout
    assert (tmp_path / "日本/model.keras").exists()


def test_lines_of_fit_are_escaped_too():
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding="latin-1", write_through=True)
    show("π → ∞", file)
    assert buffer.getvalue() == b"\\u03c0 \\u2192 \\u221e\n"


FORK = """
import multiprocessing, tfpg
from tfpg.models import networks
model = networks.cnn("ALE/Pong-v5") if {large} else networks.mlp("CartPole-v1", seed=0)
tfpg.Reinforce(networks.mlp("CartPole-v1"), max_steps=9).fit("CartPole-v1", 1, verbose=0)
child = multiprocessing.get_context("fork").Process(target=lambda: {work})
child.start()
child.join(30)
print("exit code", child.exitcode)
child.kill()
"""


@pytest.mark.parametrize(
    "work",
    [
        'tfpg.Reinforce(model, max_steps=9).fit("CartPole-v1", 1, verbose=0)',
        'networks.actor_critic("CartPole-v1")',
        'tfpg.evaluate(model, "ALE/Pong-v5", 1, max_steps=9)',
    ],
)
def test_a_forked_process_says_why_it_cannot_use_tensorflow(work):
    code = FORK.format(work=work, large="Pong" in work)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "exit code 1" in done.stdout
    assert "it was forked after TensorFlow was used" in done.stderr
    assert 'get_context("spawn")' in done.stderr
