"""Saving a model and training it further: a Keras model in, the same Keras model out."""

import os
import resource
import subprocess
import sys
import zipfile
from contextlib import contextmanager

import keras
import numpy as np
import pytest
from marks import slow_but

import tfpg
from tfpg.errors import UnsafeCheckpointError

ENVS = ["CartPole-v1", "Pendulum-v1"]


def train(env, iterations, model=None, **options):
    model = model or tfpg.networks.mlp(env, hidden=(8,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=3, max_steps=30)
    agent.fit(env, iterations, seed=1, verbose=0, **options)
    return agent


@pytest.fixture(scope="module")
def agent():
    return train("CartPole-v1", 2)


@contextmanager
def file_size_limit(size):
    """Make writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_plain_keras_loads_a_saved_model_without_tfpg(agent, tmp_path):
    agent.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
sys.modules["tfpg"] = None
import keras, numpy as np
model = keras.saving.load_model("model.keras")
np.save("y.npy", np.asarray(model(np.load("x.npy"))))
assert not any(name.startswith("tfpg.") for name in sys.modules)
print("updates", int(model.optimizer.iterations))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["updates", "2"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.asarray(agent.model(x)))


@pytest.mark.parametrize("env", slow_but(["CartPole-v1"], ENVS))
def test_training_a_loaded_model_further_equals_training_without_a_break(env, tmp_path):
    whole = train(env, 4)
    train(env, 2).save(tmp_path / "half.keras")
    loaded = tfpg.load_model(tmp_path / "half.keras")
    resumed = train(env, 4, model=loaded, initial_iteration=2)
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    optimizers = whole.model.optimizer, resumed.model.optimizer
    for a, b in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_an_agent_uses_the_model_object_it_is_given():
    model = tfpg.networks.mlp("CartPole-v1")
    assert tfpg.Reinforce(model).model is model


def test_an_agent_loads_a_model_that_keras_saved(tmp_path):
    tfpg.networks.mlp("CartPole-v1").save(tmp_path / "plain.keras")
    agent = tfpg.Reinforce.load(tmp_path / "plain.keras", gamma=0.9)
    assert isinstance(agent, tfpg.Reinforce)
    assert agent.gamma == 0.9


def test_saving_replaces_the_earlier_file_and_leaves_no_other(agent, tmp_path):
    for _ in range(2):
        assert agent.save(tmp_path / "model.keras") == tmp_path / "model.keras"
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model.keras").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_save_that_fails_keeps_the_earlier_file(agent, tmp_path):
    path = agent.save(tmp_path / "model.keras")
    before = path.read_bytes()
    with file_size_limit(1000), pytest.raises(OSError, match="model.keras.*File too large.*free"):
        agent.save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]


def test_a_model_is_only_saved_as_a_keras_file(agent, tmp_path):
    with pytest.raises(ValueError, match=r"saved as a .keras file, not as '.*model.h5'"):
        agent.save(tmp_path / "model.h5")


def test_a_folder_that_cannot_be_written_to_is_an_error_that_leaves_nothing(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.keras").mkdir()
    for path, error in {
        tmp_path / "missing/model.keras": FileNotFoundError,
        tmp_path / "file/model.keras": NotADirectoryError,
        tmp_path / "folder.keras": IsADirectoryError,
        "/proc/model.keras": PermissionError,
    }.items():
        with pytest.raises(error, match=str(path)):
            tfpg.save_model(model, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.keras"]


class TestHowAModelActs:
    """A file of tfpg records how the outputs of a trained model become actions."""

    def far(self, env, count=5):
        space = tfpg.Policy(tfpg.networks.mlp(env), env).observation_space
        return np.random.default_rng(0).normal(size=(count, *space.shape)).astype("float32") * 9

    def test_a_squashed_policy_is_squashed_wherever_it_is_loaded(self, tmp_path):
        model = tfpg.networks.mlp("Pendulum-v1", seed=0)
        x = self.far("Pendulum-v1")
        clipped = tfpg.Policy(model, "Pendulum-v1").act(x, deterministic=False, seed=1)
        agent = tfpg.Reinforce(model, squash=True, episodes_per_update=2, max_steps=5)
        agent.fit("Pendulum-v1", 1, seed=0, verbose=0)
        agent.policy_for("Pendulum-v1")
        expected = agent.policy.act(x, deterministic=False, seed=1)
        assert np.abs(expected - clipped).max() > 0.1
        path = agent.save(tmp_path / "model.keras")
        for loaded in (tfpg.load_model(path), tfpg.Reinforce.load(path).model):
            policy = tfpg.Policy(loaded, "Pendulum-v1")
            found = policy.act(x, deterministic=False, seed=1)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            result = [
                tfpg.evaluate(each, "Pendulum-v1", 1, seed=0, max_steps=20)["episode_return"]
                for each in (loaded, agent, tfpg.Policy(loaded, "Pendulum-v1", squash=True))
            ]
            assert result[0] == pytest.approx(result[1])
            assert result[0] == pytest.approx(result[2])

    def test_an_option_that_is_given_replaces_that_of_the_file(self, tmp_path):
        model = tfpg.networks.mlp("Pendulum-v1", seed=0)
        path = tfpg.Reinforce(model, squash=True).save(tmp_path / "model.keras")
        loaded = tfpg.load_model(path)
        assert tfpg.Policy(loaded, "Pendulum-v1").head.squash
        assert not tfpg.Policy(loaded, "Pendulum-v1", squash=False).head.squash
        assert tfpg.Reinforce(loaded).head_options() == {"squash": True}
        assert tfpg.Reinforce(loaded, squash=False).head_options() == {"squash": False}

    def test_plain_keras_loads_the_file(self, tmp_path):
        model = tfpg.networks.mlp("Pendulum-v1", seed=0)
        path = tfpg.Reinforce(model, squash=True).save(tmp_path / "model.keras")
        x = self.far("Pendulum-v1")
        np.testing.assert_array_equal(keras.saving.load_model(path)(x), model(x))

    def test_a_q_network_explores_by_chance_and_not_by_its_values(self, tmp_path):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        path = tfpg.DQN(model, epsilon=0.25).save(tmp_path / "model.keras")
        policy = tfpg.Policy(tfpg.load_model(path), "CartPole-v1")
        assert policy.head.epsilon == 0.25
        assert "epsilon" not in tfpg.Reinforce(policy.model).head_options()

    def test_the_other_way_around_is_known(self, tmp_path):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        path = tfpg.Reinforce(model, positive_action=0).save(tmp_path / "model.keras")
        x = self.far("CartPole-v1")
        found = tfpg.Policy(tfpg.load_model(path), "CartPole-v1").act(x)
        np.testing.assert_array_equal(found, 1 - (model(x).numpy()[:, 0] > 0.5))

    def test_a_free_standard_deviation_is_kept(self, tmp_path):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        path = tfpg.Reinforce(model, log_std=-1.5).save(tmp_path / "model.keras")
        policy = tfpg.Policy(tfpg.load_model(path), "Pendulum-v1")
        assert policy.head.variables[0].numpy().tolist() == [-1.5]

    @pytest.mark.parametrize("text", ['{"squash": "yes"}', '{"code": 1}', '{"log_std": [[0]]}'])
    def test_anything_else_is_refused(self, tmp_path, text):
        model = tfpg.networks.mlp("Pendulum-v1", seed=0)
        path = tfpg.save_model(model, tmp_path / "model.keras")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("tfpg_head.json", text)
        with pytest.raises(UnsafeCheckpointError, match="tfpg_head.json has an unknown entry"):
            tfpg.load_model(path)

    def test_model_checkpoint_warns_about_what_its_files_lack(self, tmp_path):
        saver = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
        options = {"episodes_per_update": 1, "max_steps": 3, "squash": True}
        agent = tfpg.Reinforce(tfpg.networks.mlp("Pendulum-v1"), **options)
        with pytest.warns(UserWarning, match="ModelCheckpoint do not record squash=True"):
            agent.fit("Pendulum-v1", 1, callbacks=[saver], verbose=0)
