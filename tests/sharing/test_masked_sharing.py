"""What is made of a policy with masks: exports, saved models, videos, runs of the command line."""

import keras
import numpy as np
import pytest
from gymnasium import spaces
from marks import slow_but
from masked import Pairs, reporting
from small import DISTRIBUTIONAL, small_agent

import tfpg
from tfpg.cli.main import main
from tfpg.models.policy import Policy
from tfpg.video.explain import RunningRange, action_bars, value_function

FORMATS = {"onnx": "policy.onnx", "litert": "policy.tflite", "saved_model": "policy"}
KINDS = {  # the outputs of the model, and options of the policy
    "categorical": (5, {}),
    "q-values": (5, {"epsilon": 0.5}),
    "atoms": (15, {"epsilon": 0.5, "support": (-2.0, 5.0)}),
}


def policy_of(kind):
    outputs, options = KINDS[kind]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs)])
    space = spaces.Dict(
        observation=spaces.Box(-9, 9, (3,), np.float32),
        action_mask=spaces.Box(0, 1, (5,), np.int8),
    )
    return Policy(model, (space, spaces.Discrete(5)), **options)


@pytest.mark.parametrize(
    ("kind", "format"),
    slow_but(
        [("categorical", "onnx"), ("q-values", "litert"), ("atoms", "saved_model")],
        [(kind, format) for kind in KINDS for format in FORMATS],
    ),
)
@pytest.mark.parametrize("sampled", [False, True])
def test_an_export_takes_the_mask_and_plays_valid_actions(tmp_path, kind, format, sampled):
    pytest.importorskip({"onnx": "onnxruntime", "litert": "ai_edge_litert"}.get(format, "keras"))
    policy, path = policy_of(kind), tmp_path / FORMATS[format]
    exported = tfpg.export(policy, path, steps=200, sampled=sampled, seed=0)
    assert {"observation", "action_mask"} <= set(exported.inputs)
    if format != "onnx":
        return
    import onnxruntime

    rng, session = np.random.default_rng(0), onnxruntime.InferenceSession(str(path))
    masks = ((rng.random((500, 5)) < 0.3) | (np.arange(5) == rng.integers(5, size=(500, 1)))) * 1
    inputs = {
        "observation": rng.normal(size=(500, 3)).astype("float32"),
        "action_mask": masks.astype(np.int8),
    }
    if sampled:
        inputs["noise"] = policy.head.noise(rng, 500)
    (actions,) = session.run(["action"], inputs)
    assert np.take_along_axis(masks, actions[:, None], axis=1).all()


@pytest.mark.parametrize("algorithm", [tfpg.PPO, tfpg.DQN, *DISTRIBUTIONAL])
def test_a_saved_model_plays_valid_actions(tmp_path, algorithm):
    made = []

    def build():
        made.append(reporting("infos"))
        return made[-1]

    agent = small_agent(algorithm, build)
    agent.fit(build, 1, seed=0, verbose=0)
    path = agent.save(tmp_path / "model.keras")
    expected = agent.evaluate(build, episodes=10, seed=3)["episode_return"]
    loaded = algorithm.load(path)
    assert loaded.evaluate(build, episodes=10, seed=3)["episode_return"] == expected
    assert Policy(tfpg.load_model(path), build).head.masks
    assert keras.models.load_model(path).input_shape == (None, 12)
    assert sum(env.unwrapped.invalid for env in made) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_bars_of_invalid_actions_are_empty(kind):
    policy = policy_of(kind)
    observation = {
        "observation": np.ones((1, 3), np.float32),
        "action_mask": np.array([[0, 1, 0, 1, 0]], np.int8),
    }
    decision = policy.actor()(observation)
    bars = action_bars(policy, decision, list("abcde"), RunningRange())
    assert [bar.length for bar in bars[::2]] == [0.0] * 3
    text = "0.00" if kind == "categorical" else "-inf"
    assert [bar.text for bar in bars[::2]] == [text] * 3
    assert sum(bar.chosen for bar in bars[1::2]) == 1
    if kind != "categorical":
        assert np.isfinite(value_function(policy)(observation, decision))


def test_several_choices_are_explained():
    env = Pairs()
    env.reset(seed=0)
    policy = Policy(tfpg.networks.mlp(Pairs, seed=0), Pairs)
    observation = {"observation": np.array([[6, 1]]), "action_mask": np.array([[0, 0, 1, 1, 0, 0]])}
    bars = action_bars(policy, policy.actor()(observation), ["one", "two"], RunningRange())
    assert [(bar.label, bar.text) for bar in bars] == [("one: 2", "1.00"), ("two: 0", "1.00")]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_run_in_taxi(tmp_path, algorithm):
    run = tmp_path / "run"
    options = ["--env-steps", "3000", "--seed", "1", "--run", str(run)]
    assert main(["train", algorithm, "Taxi-v4", *options]) == 0
    rows = (run / "metrics.csv").read_text().splitlines()
    assert "nan" not in rows[-1]
    assert main(["evaluate", str(run), "--episodes", "5", "--seed", "2"]) == 0
    options = ["--max-steps", "20", "--overlay", "all"]
    assert main(["record", str(run), str(tmp_path / "taxi.gif"), *options]) == 0
    assert (tmp_path / "taxi.gif").exists()
