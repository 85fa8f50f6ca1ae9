"""Observations of each kind become model inputs, and errors say what does not fit."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from kinds import CAMERA, MIXED, SPACES, sample
from stub_env import stub_env

import tfpg
from tfpg.core.arrays import map_arrays
from tfpg.models.observations import encode, input_dtype, input_shape
from tfpg.models.policy import Policy

layers = keras.layers


class TestEncode:
    def test_discrete_is_one_hot_from_its_start(self):
        out = encode(spaces.Discrete(3, start=4), np.array([[4, 6], [5, 5]]))
        assert out.dtype == np.float32
        assert out.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]

    def test_multi_discrete_is_concatenated_one_hots(self):
        out = encode(spaces.MultiDiscrete([3, 2]), np.array([[2, 0]]))
        assert out.tolist() == [[0, 0, 1, 1, 0]]

    def test_images_are_not_copied_or_cast(self):
        image = sample(CAMERA, 2)
        assert encode(CAMERA, image) is image
        assert input_dtype(CAMERA) == np.uint8

    def test_only_the_requested_keys_of_a_dict_are_encoded(self):
        out = encode(MIXED, sample(MIXED, 4), ["room", "keys"])
        assert {key: x.shape for key, x in out.items()} == {"room": (4, 4), "keys": (4, 3)}

    @pytest.mark.parametrize("value", [-1, 3])
    def test_integers_outside_the_space_are_refused(self, value):
        with pytest.raises(ValueError, match=f"expected integers from 0 to 2, but got {value}"):
            encode(spaces.Discrete(3), np.array([value]))

    @pytest.mark.parametrize("name", SPACES)
    def test_tensors_are_encoded_like_arrays(self, name):
        space, x = SPACES[name], sample(SPACES[name], 7)
        encoded = encode(space, map_arrays(tf.constant, x))
        expected = encode(space, x)
        for got, wanted in zip(
            keras.tree.flatten(encoded), keras.tree.flatten(expected), strict=True
        ):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)

    @pytest.mark.parametrize("name", [name for name in SPACES if name != "dict"])
    def test_the_shape_is_the_input_shape(self, name):
        space = SPACES[name]
        assert encode(space, sample(space, 7)).shape == (7, *input_shape(space))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_networks_act_on_every_kind_alike_in_numpy_and_tensorflow(name, normalize, tmp_path):
    env = stub_env(spaces.Discrete(3), SPACES[name])
    model = tfpg.networks.mlp(env, hidden=(8,), normalize=normalize, seed=1)
    x = sample(SPACES[name], 9)
    fast, slow = (Policy(model, env, acting=a).actor()(x) for a in ("numpy", "tensorflow"))
    np.testing.assert_allclose(fast.outputs, slow.outputs, atol=1e-5)
    assert Policy(model, env).act(x).shape == (9,)
    model.save(tmp_path / "model.keras")
    again = Policy(keras.saving.load_model(tmp_path / "model.keras"), env)
    assert again.acting == "numpy"
    np.testing.assert_array_equal(again.actor()(x).outputs, fast.outputs)


class TestDict:
    def env(self):
        return stub_env(
            spaces.Discrete(2),
            spaces.Dict({"a": SPACES["box"], "b": SPACES["box"]}),
        )

    def model(self, names=("a", "b"), shape=(3,), as_dict=False):
        inputs = {name: keras.Input(shape, name=name) for name in names}
        x = layers.Concatenate()([layers.Flatten()(x) for x in inputs.values()])
        return keras.Model(inputs if as_dict else list(inputs.values()), layers.Dense(2)(x))

    @pytest.mark.parametrize("as_dict", [False, True])
    def test_inputs_are_matched_by_name_in_any_order(self, as_dict):
        model = self.model(("b", "a"), as_dict=as_dict)
        kernel, bias = model.get_weights()
        a, b = np.ones((1, 3), "float32"), np.full((1, 3), 2, "float32")
        expected = np.concatenate([b, a], -1) @ kernel + bias
        for acting in ("numpy", "tensorflow"):
            policy = Policy(model, self.env(), acting=acting)
            outputs = policy.actor()({"a": a, "b": b}).outputs
            np.testing.assert_allclose(outputs, expected, rtol=1e-5)

    def test_a_model_may_ignore_a_key(self):
        x = keras.Input((3,), name="b")
        policy = Policy(keras.Model({"b": x}, layers.Dense(2)(x)), self.env())
        assert policy.act(sample(self.env().observation_space, 4)).shape == (4,)

    @pytest.mark.parametrize("keys", [("b",), ("a", "b")])
    def test_a_value_model_may_see_other_keys_than_the_policy(self, keys):
        body = self.model(keys)
        value_model = keras.Model(body.inputs, layers.Dense(1)(body.output))
        policy = Policy(self.model("a"), self.env(), value_model=value_model)
        x = sample(self.env().observation_space, 4)
        assert policy.act(x).shape == policy.values(x).shape == (4,)
        value = value_model([x[key] for key in keys]).numpy()[:, 0]
        np.testing.assert_allclose(policy.values(x), value, rtol=1e-5)

    def test_input_names_that_are_not_keys_are_refused(self):
        with pytest.raises(ValueError, match=r"named \['a', 'c'\], but .* keys are \['a', 'b"):
            Policy(self.model(("a", "c")), self.env())

    def test_input_shapes_that_do_not_fit_are_refused(self):
        message = (
            r"input 'a' has shape \(None, 4\), .* have shape \(3,\): use keras.Input\(\(3,\), "
        )
        with pytest.raises(ValueError, match=message):
            Policy(self.model(shape=(4,)), self.env())

    def test_a_number_in_place_of_a_one_hot_vector_is_refused_with_both_ways_out(self):
        space = spaces.Dict({"day": spaces.Discrete(30)})
        day = keras.Input((1,), name="day")
        model = keras.Model({"day": day}, layers.Dense(2)(day))
        message = r"keras.Input\(\(30,\), name='day'\), or keras.Input\(\(1,\), dtype=\"int32\""
        with pytest.raises(ValueError, match=message):
            Policy(model, (space, spaces.Discrete(2)))

    def test_observations_that_do_not_fit_are_refused(self):
        policy = Policy(self.model(), self.env())
        with pytest.raises(ValueError, match="in a dict with the keys"):
            policy.act(np.zeros((1, 3)))
        with pytest.raises(ValueError, match=r"observations of shape \(N, 3\).*\(1, 2\)"):
            policy.act({"a": np.zeros((1, 3)), "b": np.zeros((1, 2))})


@pytest.mark.parametrize(
    "keys",
    [("robot/arm", "robot/leg"), ("a b", "a_b", "a/b"), ("dense", "dense_1", "log_std"), ("", "é")],
)
def test_any_text_may_be_a_key(tmp_path, keys):
    space = spaces.Dict(dict.fromkeys(keys, SPACES["box"]))
    env = stub_env(spaces.Box(-1, 1, (2,)), space)
    model = tfpg.networks.actor_critic(env, (4,), normalize=True, seed=0)
    x = sample(space, 5)
    model.save(tmp_path / "model.keras")
    outputs = [
        Policy(each, env, acting=acting).actor()(x).outputs
        for each in (model, tfpg.load_model(tmp_path / "model.keras"))
        for acting in ("numpy", "tensorflow")
    ]
    for each in outputs[1:]:
        np.testing.assert_allclose(each, outputs[0], rtol=1e-5)
    changed = {**x, keys[0]: x[keys[0]] + 1}
    assert (Policy(model, env).actor()(changed).outputs != outputs[0]).any()


@pytest.mark.parametrize("key", [7, ("a", "b"), None])
def test_other_keys_are_refused(key):
    env = stub_env(spaces.Discrete(2), spaces.Dict({key: SPACES["box"]}))
    with pytest.raises(ValueError, match="its keys must be text, but one is"):
        tfpg.networks.mlp(env)


class TestIntegers:
    """A model whose inputs are integers gets them in place of one-hots."""

    @pytest.mark.parametrize(
        ("space", "shape", "expected"),
        [
            (spaces.Discrete(5), (1,), [[0], [4]]),
            (spaces.Discrete(5, start=-2), (1,), [[0], [4]]),
            (spaces.MultiDiscrete([3, 4]), (2,), [[0, 0], [2, 3]]),
            (spaces.MultiDiscrete([[3, 4], [2, 2]]), (4,), [[0, 0, 0, 0], [2, 3, 1, 1]]),
        ],
    )
    @pytest.mark.parametrize("named", [False, True])
    def test_they_count_from_zero(self, space, shape, expected, named):
        inputs = keras.Input(shape, dtype="int32")
        x = layers.Flatten()(layers.Embedding(5, 3)(inputs))
        model = keras.Model({"x": inputs} if named else inputs, layers.Dense(2)(x))
        env = stub_env(spaces.Discrete(2), spaces.Dict(x=space) if named else space)
        low = np.asarray(space.start)
        high = low + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
        x = np.stack([low, high])
        encoded = Policy(model, env).encode({"x": x} if named else x)
        encoded = encoded["x"] if named else encoded
        assert encoded.tolist() == expected
        assert encoded.dtype == np.int32
        assert Policy(model, env).act({"x": x} if named else x).shape == (2,)

    def test_a_value_model_must_take_them_in_the_same_form(self):
        env = stub_env(spaces.Discrete(2), spaces.Discrete(5))
        inputs = keras.Input((1,), dtype="int32")
        x = layers.Flatten()(layers.Embedding(5, 3)(inputs))
        model, value = keras.Model(inputs, layers.Dense(2)(x)), tfpg.networks.critic(env)
        with pytest.raises(ValueError, match="in the same form: both as integers, or both as one"):
            Policy(model, env, value_model=value)
        same = keras.Model(inputs, layers.Dense(1)(x))
        assert Policy(model, env, value_model=same).values(np.arange(5)).shape == (5,)

    def test_real_inputs_are_one_hots(self):
        model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
        with pytest.raises(ValueError, match=r"Discrete\(5\), have shape \(5,\)"):
            Policy(model, stub_env(spaces.Discrete(2), spaces.Discrete(5)))

    @pytest.mark.parametrize("kind", ["mlp", "actor_critic", "critic"])
    @pytest.mark.parametrize("count", [1000, 1001, 60_000])
    def test_networks_embed_large_ones(self, kind, count):
        space = spaces.Dict(word=spaces.Discrete(count), x=SPACES["box"])
        model = getattr(tfpg.networks, kind)((space, spaces.Discrete(2)), (4,), seed=0)
        shapes = {key: x.shape[1:] for key, x in model.input.items()}
        assert shapes["word"] == ((count,) if count == 1000 else (1,))
        assert model.count_params() < 64 * count + 10_000

    def test_an_agent_learns_from_them(self):
        class Same(gymnasium.Env):
            """Pays for the action that is the parity of one of many states."""

            observation_space, action_space = spaces.Discrete(5000), spaces.Discrete(2)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.t, self.x = 0, int(self.np_random.integers(2)) + 4000
                return self.x, {}

            def step(self, action):
                reward, self.t = float(action == self.x % 2), self.t + 1
                self.x = int(self.np_random.integers(2)) + 4000
                return self.x, reward, self.t == 20, False, {}

        model = tfpg.networks.mlp(Same, seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=8)
        history = agent.fit(Same, 30, seed=0, verbose=0).history
        assert history["episode_return"][-1] > 17


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Tuple([spaces.Discrete(2)])]),
        spaces.Tuple([]),
        spaces.Text(4),
        spaces.Dict({"inner": spaces.Dict({"x": spaces.Discrete(2)})}),
        spaces.Dict(mission=spaces.Text(4)),
        spaces.Dict({}),
    ],
)
def test_other_spaces_are_refused_with_a_way_out(space):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="FlattenObservation"):
        Policy(model, stub_env(spaces.Discrete(2), space))


def test_a_model_for_other_observations_is_told_the_input_it_needs():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"Discrete\(16\), have shape \(16,\). Build it with"):
        Policy(model, "FrozenLake-v1")
