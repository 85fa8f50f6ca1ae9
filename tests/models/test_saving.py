"""A Keras model in, the same Keras model out."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from marks import slow_but

import tfpg
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError

ENVS = ["CartPole-v1", "Pendulum-v1"]


def trained(env="CartPole-v1", iterations=2, model=None, **options):
    model = model or tfpg.networks.mlp(env, hidden=(8,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=3, max_steps=30)
    agent.fit(env, iterations, seed=1, verbose=0, **options)
    return agent


@pytest.mark.parametrize("env", slow_but(["Pendulum-v1"], ENVS))
def test_plain_keras_loads_it_where_tfpg_cannot_be_imported(env, tmp_path):
    agent = trained(env)
    agent.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(50, *agent.model.input_shape[1:])).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
sys.modules["tfpg"] = None
import keras, numpy as np
model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
np.save({str(tmp_path / "y.npy")!r}, np.asarray(model(np.load({str(tmp_path / "x.npy")!r}))))
assert not any(name.startswith("tfpg.") for name in sys.modules)
try:
    import tfpg
except ImportError:
    print("without tfpg", int(model.optimizer.iterations))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["without", "tfpg", "2"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.asarray(agent.model(x)))


@pytest.mark.parametrize("env", slow_but(["CartPole-v1"], ENVS))
def test_training_goes_on_from_a_file_as_if_it_had_never_stopped(env, tmp_path):
    whole = trained(env, 4)
    half = trained(env, 2)
    half.save(tmp_path / "half.keras")
    loaded = tfpg.load_model(tmp_path / "half.keras")
    again = trained(env, 4, model=loaded, initial_iteration=2)
    for a, b in zip(whole.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.model.optimizer.variables, again.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_model_is_the_users_own_object(tmp_path):
    model = tfpg.networks.mlp("CartPole-v1")
    agent = tfpg.Reinforce(model)
    assert agent.model is model
    model.save(tmp_path / "plain.keras")
    assert isinstance(tfpg.Reinforce.load(tmp_path / "plain.keras", gamma=0.9), tfpg.Reinforce)


def test_saving_again_replaces_the_file_and_leaves_nothing_beside(tmp_path):
    agent = trained()
    for _ in range(2):
        assert agent.save(tmp_path / "model.keras") == tmp_path / "model.keras"
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model.keras").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    agent = trained()
    path = agent.save(tmp_path / "model.keras")
    before = path.read_bytes()

    def broken(self, filepath, **kwargs):
        filepath.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(agent.model), "save", broken)
    with pytest.raises(OSError, match="No space left"):
        agent.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]


class TestLoading:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No model at"):
            tfpg.load_model(tmp_path / "none.keras")

    @pytest.mark.parametrize("content", [b"", b"not a zip", "cut"])
    def test_broken(self, tmp_path, content):
        path = tmp_path / "broken.keras"
        if content == "cut":
            content = trained().save(tmp_path / "whole.keras").read_bytes()[:-500]
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"not a whole .keras file.*found {len(content):,} by"):
            tfpg.load_model(path)

    def test_a_zip_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
            archive.writestr("hello.txt", "hello")
        match = (
            "other.keras.* is not a whole .keras file.*holds 'hello.txt', and lacks 'metadata.json'"
        )
        with pytest.raises(CheckpointCorruptError, match=match) as caught:
            tfpg.load_model(tmp_path / "other.keras")
        assert "\n" not in str(caught.value)

    def test_flipped_bits(self, tmp_path):
        data = bytearray(trained().save(tmp_path / "whole.keras").read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(b ^ 255 for b in data[middle : middle + 64])
        (tmp_path / "flipped.keras").write_bytes(data)
        with pytest.raises(
            CheckpointCorruptError, match="flipped.keras.*found Bad CRC-32 for file"
        ):
            tfpg.load_model(tmp_path / "flipped.keras")

    def test_a_folder(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="name the .keras file in it"):
            tfpg.load_model(tmp_path)

    def test_code_in_a_file_is_not_run(self, tmp_path):
        canary = tmp_path / "canary"
        path = str(canary)
        # Keras writes a lambda's bytecode into the file, and its safe mode refuses to run it.
        layer = keras.layers.Lambda(lambda x: (open(path, "w").close(), x)[1])
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
        model.save(tmp_path / "lambda.keras")
        canary.unlink()
        keras.saving.load_model(tmp_path / "lambda.keras", safe_mode=False)
        assert canary.exists()  # what would happen without it
        canary.unlink()
        with pytest.raises(UnsafeCheckpointError, match=r"'lambda\w*' is a Lambda, which holds"):
            tfpg.load_model(tmp_path / "lambda.keras")
        assert not canary.exists()


class TestWhere:
    def test_the_suffix(self, tmp_path):
        with pytest.raises(ValueError, match="saved as a .keras file"):
            trained().save(tmp_path / "model.h5")

    def test_the_folder(self, tmp_path):
        agent = trained()
        with pytest.raises(FileNotFoundError, match="does not exist: mkdir -p"):
            agent.save(tmp_path / "no" / "model.keras")
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError, match="is a file"):
            agent.save(tmp_path / "file" / "model.keras")
        with pytest.raises(IsADirectoryError, match="is a folder"):
            (tmp_path / "dir.keras").mkdir()
            agent.save(tmp_path / "dir.keras")
        with pytest.raises(PermissionError, match="cannot be written"):
            agent.save("/proc/model.keras")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.keras", "file"]
