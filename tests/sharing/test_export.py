"""Exported policies act like the originals, in the runtimes that people play them with."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from kinds import HEADS, SPACES, model_of, sample
from marks import slow_but
from small import small_agent
from stub_env import OBSERVATIONS, stub_env
from toys import Walk

import tfpg
from tfpg.models.policy import Policy

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[export]'")
pytest.importorskip("tf2onnx", reason="pip install -e '.[export]'")
litert = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")

layers = keras.layers
FORMATS = {"onnx": "policy.onnx", "litert": "policy.tflite", "saved_model": "policy"}
every_format = pytest.mark.parametrize("format", FORMATS)


def played(path, inputs):
    """The actions of an exported file, from the runtime of its format."""
    path = Path(path)
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path))
        assert {each.name for each in session.get_inputs()} == set(inputs)
        return session.run(["action"], inputs)[0]
    if path.suffix == ".tflite":
        return litert.Interpreter(str(path)).get_signature_runner()(**inputs)["action"]
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(**{k: tf.constant(x) for k, x in inputs.items()})["action"].numpy()


def check(policy, folder, format, sampled, count):
    """Export a policy, and compare its actions for random observations with the file's."""
    path = folder / FORMATS[format]
    exported = tfpg.export(policy, path, steps=50, sampled=sampled, seed=0)
    space = policy.observation_space
    x = sample(space, count, seed=1)
    inputs = dict(x) if isinstance(space, spaces.Dict) else {"observation": x}
    noise = policy.head.noise(np.random.default_rng(2), count) if sampled else None
    if sampled:
        inputs["noise"] = noise
    actions, expected = played(path, inputs), policy.actor()(x, noise).env_actions
    assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
    assert exported.output == (expected.dtype.name, (None, *expected.shape[1:]))
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)
    else:  # a tie is broken by rounding errors
        assert (actions != expected).reshape(count, -1).any(axis=1).mean() <= 2e-4
    assert all(policy.action_space.contains(action) for action in actions[:100])
    one = played(path, {name: x[:1] for name, x in inputs.items()})
    np.testing.assert_allclose(one, actions[:1], rtol=1e-5, atol=1e-5)


def policy_of(name):
    space, outputs, activation, options, _ = HEADS[name]
    keras.utils.set_random_seed(1)
    return Policy(model_of(outputs, activation), stub_env(space), **options)


FAST_HEADS = [
    *[("bernoulli sigmoid", "onnx", True), ("choices", "onnx", False), ("q-values", "onnx", True)],
    *[("gaussian squashed", "onnx", True), ("gaussian integers", "litert", False)],
    *[("bits", "saved_model", True), ("gaussian 2d", "saved_model", False)],
]
FILES = ["onnx", "litert"]


@pytest.mark.parametrize(
    ("name", "format", "sampled"),
    slow_but(
        FAST_HEADS,
        dict.fromkeys([*FAST_HEADS, *itertools.product(HEADS, FILES, (False, True))]),
    ),
)
def test_every_head_acts_alike(name, format, sampled, tmp_path):
    fast = (name, format, sampled) in FAST_HEADS
    check(policy_of(name), tmp_path, format, sampled, 1000 if fast else 10_000)


FAST_SPACES = [("dict", "onnx"), ("camera", "saved_model"), ("multi-discrete", "litert")]


@pytest.mark.parametrize(
    ("name", "format"),
    slow_but(FAST_SPACES, dict.fromkeys([*FAST_SPACES, *itertools.product(SPACES, FILES)])),
)
def test_every_kind_of_observation_acts_alike(name, format, tmp_path):
    env = stub_env(spaces.Discrete(3), SPACES[name])
    model = tfpg.networks.mlp(env, hidden=(8,), normalize=True, seed=1)
    for layer in model.layers:  # statistics as after training
        if isinstance(layer, layers.BatchNormalization):
            rng = np.random.default_rng(0)
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    count = 1000 if (name, format) in FAST_SPACES else 10_000
    check(Policy(model, env), tmp_path, format, True, count)


def embedding(env):
    return tfpg.networks.mlp(env, hidden=(8,), seed=1)


def with_adapted_normalization(env):
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 3)))
    return keras.Sequential([keras.Input((3,)), normalization, layers.Dense(3)])


def dueling(env):
    return tfpg.networks.dueling(env, seed=1)


def distributional(env):
    return tfpg.networks.dueling(env, atoms=7, seed=1)


def nature_cnn(env):
    return tfpg.networks.nature_cnn(env, seed=1)


@pytest.mark.parametrize(
    ("space", "make", "options"),
    [
        (OBSERVATIONS, with_adapted_normalization, {}),
        (OBSERVATIONS, dueling, {"epsilon": 0.2}),
        (OBSERVATIONS, distributional, {"epsilon": 0.2, "support": (-3.0, 5.0)}),
        (OBSERVATIONS, distributional, {"epsilon": 0.2, "support": "quantiles"}),
        (spaces.Discrete(5000, start=-7), embedding, {}),
        pytest.param(
            *(spaces.Box(0, 255, (4, 84, 84), np.uint8), nature_cnn, {"epsilon": 0.2}),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.parametrize("format", FILES)
def test_layers_with_constants_images_and_codes_act_alike(space, make, options, format, tmp_path):
    env = stub_env(spaces.Discrete(3), space)
    check(Policy(make(env), env, **options), tmp_path, format, True, 300)


@every_format
def test_squashed_actions_reach_their_bounds_exactly(format, tmp_path):
    space = spaces.Box(np.array([-0.1, 3]), np.array([0.3, 7]), dtype=np.float64)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.set_weights([np.full((3, 2), 99.0), np.zeros(2)])
    policy = Policy(model, stub_env(space), squash=True)
    tfpg.export(policy, tmp_path / FORMATS[format], steps=20)
    x = np.array([[1, 1, 1], [-1, -1, -1]], np.float32)
    actions = played(tmp_path / FORMATS[format], {"observation": x})
    np.testing.assert_array_equal(actions, policy.act(x))
    np.testing.assert_allclose(actions, [space.high, space.low], rtol=1e-7)
    assert all(space.contains(action) for action in actions)


KEYS = [
    *[("robot/arm", "robot.leg"), ("a b", "a_b", "A_B"), ("dense", "dense_1", "log_std")],
    *[("", "é"), ("noise", "action"), ("_x", "1")],
]


@pytest.mark.parametrize("format", slow_but(["onnx"], FORMATS))
@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_any_text_may_be_a_key(keys, format, tmp_path):
    space = spaces.Dict(dict.fromkeys(keys, OBSERVATIONS))
    env = stub_env(spaces.Box(-1, 1, (2,)), space)
    policy = Policy(tfpg.networks.mlp(env, hidden=(4,), seed=0), env)
    exported = tfpg.export(policy, tmp_path / FORMATS[format], steps=5, sampled=True)
    assert len(exported.inputs) == len(keys) + 1
    variables = {"observation": {key: OBSERVATIONS.sample() for key in keys}}
    exec(exported.code, variables)
    assert policy.action_space.contains(variables["action"])


def test_an_agent_is_exported_without_what_only_its_value_model_observes(tmp_path):
    space = spaces.Dict(seen=OBSERVATIONS, secret=OBSERVATIONS)
    env = stub_env(spaces.Discrete(2), space)

    def model(keys, outputs):
        inputs = {key: keras.Input((3,), name=key) for key in keys}
        return keras.Model(inputs, layers.Dense(outputs)(sum(inputs.values())))

    policy = Policy(model(["seen"], 2), env, value_model=model(["seen", "secret"], 1))
    exported = tfpg.export(policy, tmp_path / "policy.onnx")
    assert list(exported.inputs) == ["seen"]
    x = sample(space, 9)
    actions = played(exported.path, {"seen": x["seen"]})
    np.testing.assert_array_equal(actions, policy.act(x))
    assert policy.values(x).shape == (9,)


@pytest.mark.parametrize("algorithm", [tfpg.Reinforce, tfpg.DQN, tfpg.Rainbow])
def test_a_trained_agent_is_exported_with_its_environment(algorithm, tmp_path):
    agent = small_agent(algorithm)
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    exported = tfpg.export(agent, tmp_path / "policy.onnx", "CartPole-v1", sampled=True, seed=1)
    drawn_by = {tfpg.Reinforce: "gumbel", tfpg.DQN: "random"}
    assert exported.noise == drawn_by.get(algorithm, "random and standard_normal")
    assert exported.steps == 1000
    x = sample(agent.policy.observation_space, 50)
    noise = agent.policy.head.noise(np.random.default_rng(0), 50)
    actions = played(exported.path, {"observation": x, "noise": noise})
    np.testing.assert_array_equal(actions, agent.policy.actor()(x, noise).env_actions)
    variables = {"observation": x[0]}
    exec(exported.code, variables)
    assert variables["action"] in (0, 1)


def test_a_free_standard_deviation_is_in_the_file(tmp_path):
    env = Walk(spaces.Box(-9, 9, (2,)))
    agent = small_agent(tfpg.Reinforce, env, model_of(2))
    agent.fit(env, 1, seed=0, verbose=0)
    head = agent.policy.head
    head.variables[0].assign([-3.0, 1.0])
    exported = tfpg.export(agent, tmp_path / "policy.onnx", env, sampled=True)
    x, noise = np.zeros((4, 3), "float32"), np.ones((4, 2), "float32")
    actions = played(exported.path, {"observation": x, "noise": noise})
    mode = agent.policy.act(x)
    np.testing.assert_allclose(actions - mode, np.exp([[-3.0, 1.0]] * 4), rtol=1e-4)


@every_format
def test_the_printed_code_plays_an_observation(format, tmp_path):
    policy = Policy(tfpg.networks.mlp("CartPole-v1", seed=0), "CartPole-v1")
    for sampled in (False, True):
        exported = tfpg.export(policy, tmp_path / FORMATS[format], steps=5, sampled=sampled)
        variables = {"observation": np.zeros(4, np.float32)}
        exec(exported.code, variables)
        assert variables["action"] in (0, 1)
        assert exported.bytes > 500


# What cannot be exported.


class CallsPython(layers.Layer):
    def call(self, x):
        y = tf.numpy_function(lambda array: 2 * array, [x], tf.float32)
        y.set_shape(x.shape)
        return y


class InverseErrorFunction(layers.Layer):
    def call(self, x):
        return tf.math.erfinv(0.9 * tf.tanh(x))


class Noisy(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def recurrent():
    return keras.Sequential([layers.Reshape((3, 1)), layers.LSTM(4)])


def policy_with(layer):
    stack = [keras.Input((3,)), layer, layers.Dense(3)]
    return Policy(keras.Sequential(stack), stub_env(spaces.Discrete(3)))


@pytest.mark.parametrize(
    ("layer", "formats", "message"),
    [
        (CallsPython, FORMATS, r"a layer calls Python code \(tf.py_function or tf.numpy_function"),
        (
            InverseErrorFunction,
            ["onnx", "litert"],
            "cannot be exported to the format .*: there is no equivalent of Erfinv. Try another",
        ),
        (
            Noisy,
            FORMATS,
            r"takes another action for \d+ of 1,000 observations: \d instead of \d, .* random",
        ),
        (recurrent, ["litert"], "there is no equivalent of TensorListReserve"),
    ],
)
def test_what_cannot_be_exported_is_an_error_and_leaves_nothing_behind(
    layer, formats, message, tmp_path
):
    policy = policy_with(layer())
    for format in formats:
        path = tmp_path / FORMATS[format]
        with pytest.raises(ValueError, match=message):
            tfpg.export(policy, path)
        assert not list(tmp_path.iterdir())


@every_format
def test_a_failed_export_keeps_the_earlier_one(format, tmp_path):
    path = tmp_path / FORMATS[format]
    good, bad = policy_of("categorical"), policy_with(Noisy())
    tfpg.export(good, path, steps=5)
    x = sample(OBSERVATIONS, 30)
    before = played(path, {"observation": x})
    with pytest.raises(ValueError, match="takes another action"):
        tfpg.export(bad, path)
    np.testing.assert_array_equal(played(path, {"observation": x}), before)
    tfpg.export(policy_of("categorical softmax"), path, steps=5)
    assert (played(path, {"observation": x}) != before).any()
    assert list(tmp_path.iterdir()) == [path]


def test_ties_may_be_broken_by_rounding_errors_but_not_by_more(tmp_path):
    """Two equal Q-values, computed in different orders."""
    x = keras.Input((64,))
    permutation = np.random.default_rng(0).permutation(64)
    hidden = [layers.Dense(64, use_bias=False, name=f"p{i}")(x) for i in range(2)]
    model = keras.Model(x, layers.Concatenate()([layers.Dense(1)(h) for h in hidden]))
    weights = np.random.default_rng(1).normal(size=(64, 1))
    eye = np.eye(64)
    model.set_weights(
        [eye, eye[:, permutation], weights, np.zeros(1), weights[permutation], np.zeros(1)]
    )
    env = stub_env(spaces.Discrete(2), spaces.Box(-1e3, 1e3, (64,)))
    policy = Policy(model, env, epsilon=0.0)
    path = tmp_path / "policy.tflite"
    tfpg.export(policy, path, seed=0)
    with pytest.raises(ValueError, match="raise the tolerance"):
        tfpg.export(policy, path, seed=0, tolerance=1e-12)


def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"needs the package tf2onnx.*pip install -e '.\[export"):
        tfpg.export(policy_of("bits"), tmp_path / "policy.onnx")
    tfpg.export(policy_of("bits"), tmp_path / "policy.tflite", steps=5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"path": "policy.pt"},
            ValueError,
            "Unknown format '.pt'. Available: onnx, litert, ",
        ),
        ({"format": "onyx"}, ValueError, "Unknown format 'onyx'. Did you mean 'onnx'"),
        ({"path": "nowhere/policy.onnx"}, FileNotFoundError, "mkdir -p"),
        ({"path": "policy", "format": "saved_model"}, FileExistsError, "holds something else"),
        ({"steps": 0}, ValueError, "steps must be"),
        ({"tolerance": 0}, ValueError, "tolerance must be"),
        ({"policy": model_of(1)}, ValueError, 'pass env="CartPole-v1", for example'),
        ({"policy": "nowhere"}, FileNotFoundError, "No run or model at 'nowhere'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("policy").mkdir()
    Path("policy/notes.txt").write_text("Keep me.")
    arguments = {"policy": policy_of("bernoulli"), "path": "policy.onnx", **arguments}
    with pytest.raises(error, match=message):
        tfpg.export(**arguments)
    assert [p.name for p in tmp_path.rglob("*")] == ["policy", "notes.txt"]


# In processes of their own, as a user runs them.


def run(*args, cwd):
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def tfpg_command(*args, cwd):
    done = run(sys.executable, "-m", "tfpg", *args, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


LIGHT = "\nimport sys\nassert not {'tensorflow', 'keras', 'tfpg'} & set(sys.modules)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small run."""
    folder = tmp_path_factory.mktemp("export")
    args = ["--iterations", "1", "--seed", "1", "--no-video", "--run", "run"]
    tfpg_command("train", "dqn", "CartPole-v1", *args, cwd=folder)
    return folder


COMMANDS = [
    ((), "policy.onnx"),
    (("--sampled",), "policy.onnx"),
    (("--format", "litert"), "policy.tflite"),
    (("--format", "saved_model"), "policy_saved_model"),
    (("--out", "mine.tflite"), "../mine.tflite"),
]


@pytest.mark.parametrize(("options", "name"), slow_but(COMMANDS[:1], COMMANDS))
def test_the_command_writes_a_file_that_plays_without_tensorflow(options, name, folder):
    out = tfpg_command("export", "run", *options, cwd=folder)
    assert (folder / "run" / name).exists()
    first, *rest = out.splitlines()
    assert first.startswith(options[-1] if "--out" in options else f"run/{name}")
    assert "equal actions for 1,000 observations" in first
    assert "  input   observation  float32 [N, 4]" in rest
    assert "  output  action       int64 [N]" in rest
    assert ("  input   noise        float32 [N, 2]" in rest) == ("--sampled" in options)
    code = out[out.index("To play it:\n") + len("To play it:\n") :]
    light = "" if "saved_model" in options else LIGHT
    code = f"import numpy\nobservation = numpy.zeros(4, 'float32')\n{code}\nprint(action){light}"
    done = run(sys.executable, "-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in "01"


@pytest.mark.slow
def test_a_model_file_is_exported_next_to_itself(folder):
    assert tfpg_command("export", "run/last.keras", cwd=folder).startswith("run/last.onnx  (")


def test_a_model_file_is_exported_for_an_environment_without_an_id(folder, tmp_path):
    alone = tmp_path / "alone.keras"
    alone.write_bytes((folder / "run/model.keras").read_bytes())
    make = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
    assert tfpg.export(alone, tmp_path / "p.tflite", make, steps=8).path.exists()


def test_python_exports_a_run_like_the_command(folder, tmp_path):
    exported = tfpg.export(folder / "run", tmp_path / "policy.onnx", steps=20)
    assert exported.inputs == {"observation": ("float32", (None, 4))}
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    model = tfpg.load_model(folder / "run/model.keras")
    actions = played(exported.path, {"observation": x})
    np.testing.assert_array_equal(actions, np.argmax(model(x), axis=-1))


@pytest.mark.slow
def test_the_example_of_the_page_plays_without_tensorflow(tmp_path):
    page = (Path(__file__).parents[2] / "docs/sharing.md").read_text()
    train, play = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-2:]
    train = re.sub(r"iterations=\d+", "iterations=2", train)
    for code in (train, play + LIGHT):
        done = run(sys.executable, "-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 8
