"""Model files from strangers: nothing in them runs code, opens other files, or fills the memory."""

import io
import json
import os
import random
import struct
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import tfpg
from tfpg.cli.main import main
from tfpg.core.files import read_json
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError

PARTS = ("metadata.json", "config.json", "model.weights.h5")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good file."""
    path = tmp_path_factory.mktemp("good") / "good.keras"
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="last")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd")
    model.save(path)
    return path.read_bytes()


@pytest.fixture
def parts(good):
    """What a good file holds, by name; its config parsed."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        found = {name: archive.read(name) for name in PARTS}
    return {**found, "config.json": json.loads(found["config.json"])}


@pytest.fixture
def write(tmp_path, parts):
    """Writes a file with these parts, as Keras would."""

    def write(changed=(), compression=zipfile.ZIP_STORED, extra=()):
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in [*{**parts, **dict(changed)}.items(), *extra]:
                if content is not None:
                    text = json.dumps(content) if isinstance(content, dict) else content
                    archive.writestr(name, text)
        return path

    return write


@pytest.fixture
def canary(tmp_path):
    """A file that must stay as it is, and a text that must get nowhere."""
    path = tmp_path / "canary.txt"
    path.write_text("the secret")
    yield path
    assert path.read_text() == "the secret"
    assert not list(tmp_path.glob("PWNED*"))


def refused(path, match, error=UnsafeCheckpointError, **options):
    with pytest.raises(error, match=match) as caught:
        tfpg.load_model(path, **options)
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") <= 2
    return str(caught.value)


def hidden(layer, how):
    """The config of a model that has a layer somewhere."""
    dense = {"module": "keras.layers", "class_name": "Dense", "registered_name": None}
    inner = {**dense, "config": {"name": "inner", "units": 2}}
    model = {
        "module": "keras",
        "class_name": "Sequential",
        "registered_name": None,
        "config": {"name": "outer", "layers": []},
    }
    if how == "sequential":
        model["config"]["layers"] = [layer]
    elif how == "wrapper":
        wrapper = {"name": "wrapper", "layer": layer}
        model["config"]["layers"] = [{**dense, "class_name": "TimeDistributed", "config": wrapper}]
    elif how == "backward":
        wrapper = {"name": "wrapper", "layer": inner, "backward_layer": layer}
        model["config"]["layers"] = [{**dense, "class_name": "Bidirectional", "config": wrapper}]
    elif how == "nested":
        again = {**model, "config": {"name": "model_in_model", "layers": [layer]}}
        model["config"]["layers"] = [again]
    elif how == "activation":
        inner["config"]["activation"] = layer
        model["config"]["layers"] = [inner]
    elif how == "compile_config":
        model["compile_config"] = {"optimizer": "sgd", "loss": layer}
    elif how == "build_config":
        model["build_config"] = {"input_shape": layer}
    else:
        call = {"args": [[layer], tensor()], "kwargs": {"mask": {"deep": [layer]}}}
        model["config"]["layers"] = [{**inner, "name": "inner", "inbound_nodes": [call]}]
    return model


def tensor(shape=(None, 4), of="input"):
    history = {"shape": shape, "dtype": "float32", "keras_history": [of, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": history}


PLACES = ["sequential", "wrapper", "backward", "nested", "activation", "compile_config"]
PLACES += ["build_config", "inbound_nodes"]


def function(module, name):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


def layer(kind, module="keras.layers", registered_name=None, **config):
    return {
        "module": module,
        "class_name": kind,
        "config": {"name": "gift", **config},
        "registered_name": registered_name,
    }


GADGETS = {
    # CVE-2024-3660: marshalled bytecode. Its class comes first, so the bytes do not matter.
    "lambda": (
        layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}),
        "is a Lambda, which holds Python code",
    ),
    "bare lambda": ({"class_name": "__lambda__", "config": {"value": ""}}, "is a __lambda__"),
    # CVE-2025-1550: any function of any module.
    "os.system": (function("os", "system"), "calls os.system"),
    "builtins.exec": (function("builtins", "exec"), "calls builtins.exec"),
    "a class of os": (layer("_wrap_close", "os"), "'gift' is os._wrap_close, which is neither"),
    # CVE-2025-8747, -9906, -12060: functions of Keras's own.
    "get_file": (function("keras.utils", "get_file"), "calls keras.utils.get_file"),
    "unsafe": (
        function("keras.config", "enable_unsafe_deserialization"),
        "calls keras.config.enable_unsafe_deserialization",
    ),
    "load_model": (function("keras.models", "load_model"), "calls keras.models.load_model"),
    "deserialize": (function("keras.layers", "deserialize"), "calls keras.layers.deserialize"),
    "another name": (
        {**function("builtins", "relu"), "registered_name": "get_file"},
        "calls builtins.relu",
    ),
    "inside Keras": (
        function("keras.src.backend.common.global_state", "set_global_attribute"),
        "calls keras.src.backend.common.global_state.set_global_attribute",
    ),
    "a class inside Keras": (layer("Lambda2", "keras.src.layers.core"), "which is neither"),
    # CVE-2026-1462
    "TFSMLayer": (layer("TFSMLayer", filepath="/tmp/x"), "TFSMLayer, which loads a TensorFlow"),
    "torch": (
        layer("TorchModuleWrapper", module="gASVB=="),
        "is a pickle, and unpickling runs code",
    ),
    # CVE-2025-12058: the vocabulary is a path.
    "lookup": (layer("StringLookup", vocabulary="/etc/passwd"), "can read any file as its voc"),
    "text": (layer("TextVectorization", vocabulary="/etc/passwd"), "can read any file as its"),
    "typespec": (
        {"class_name": "__typespec__", "spec_name": "X", "module": "os", "config": []},
        "is a TensorFlow type",
    ),
    "no module": ({"class_name": "Dense", "config": {"name": "gift"}}, "does not say the module"),
    "no name": ({"class_name": ["Dense"], "module": "keras.layers"}, "has no name"),
    "registered as another": (layer("Dense", registered_name="my>Dense"), "which is neither"),
    "while": (layer("WhileLoop", "keras.src.ops.core"), "which is neither"),
    "jvp": (layer("JVP", "keras.src.ops.linalg"), "calls code that the file names"),
    "a path": (layer("Dense", name="../../PWNED"), "is called '../../PWNED', which is a path"),
    "a string of 4 GB": (
        {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "U1000000000"}},
        "a constant in .* is of type 'U1000000000'",
    ),
    "many steps": (layer("LSTM", unroll=True, units=10**9), "goes through 1,000,000,000 parts"),
    "any batch": (layer("GRU", stateful=True, units=1), "keeps a state for a batch of any size"),
    "many parts": (layer("Split", "keras.src.ops.numpy", indices=10**9), "goes through 1,000"),
    "a pattern": (layer("Muon", "keras.optimizers", exclude_layers=["(a+)+$"]), "by the patterns"),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_a_config_names_no_code(write, gadget, canary):
    config, match = GADGETS[gadget]
    for place in PLACES:
        refused(write({"config.json": hidden(config, place)}), match)


def test_the_real_thing_would_have_run(tmp_path, canary):
    path = str(tmp_path / "PWNED")
    gift = keras.layers.Lambda(lambda x: (open(path, "w").close(), x)[1], name="gift")
    wrapped = keras.layers.TimeDistributed(gift)
    model = keras.Sequential([keras.Input((3, 4)), wrapped])
    model.save(tmp_path / "lambda.keras")
    os.unlink(path)
    keras.saving.load_model(tmp_path / "lambda.keras", safe_mode=False)
    os.unlink(path)  # it did
    refused(tmp_path / "lambda.keras", "'gift' is a Lambda")
    keras.config.enable_unsafe_deserialization()
    try:
        refused(tmp_path / "lambda.keras", "'gift' is a Lambda")
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)


def test_a_vocabulary_that_keras_would_read(tmp_path, canary):
    lookup = keras.layers.StringLookup(vocabulary=["a"], name="reader")
    keras.Sequential([keras.Input((1,), dtype="string"), lookup]).save(tmp_path / "a.keras")
    refused(tmp_path / "a.keras", "'reader' is a StringLookup, which can read any file")


def test_a_call_without_an_input_is_not_computed(write):
    inputs = {**layer("InputLayer", batch_shape=[None, 4]), "name": "input", "inbound_nodes": []}
    zeros = {**layer("Tile", "keras.src.ops.numpy", repeats=[10**12]), "name": "gift"}
    one = {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}}
    for call in ({"args": [one], "kwargs": {}}, [], {}, [["input", 0, 0, {}]]):
        config = {
            "module": "keras.src.models.functional",
            "class_name": "Functional",
            "registered_name": None,
            "config": {"name": "f", "layers": [inputs, {**zeros, "inbound_nodes": [call]}]},
        }
        refused(write({"config.json": config}), "'gift' is called on no output of another layer")


def test_weights_that_the_file_does_not_hold(write, parts):
    config = parts["config.json"]
    config["config"]["layers"][1]["config"]["units"] = 10**9
    del config["config"]["layers"][2]
    begun = time.perf_counter()
    refused(write(), "config describes weights of 20.0 GB, and it holds 104 bytes")
    with keras.StatelessScope():  # where Keras would make what it has not yet
        pass
    assert time.perf_counter() - begun < 2


def test_nesting_and_sizes_of_json(write, parts):
    nested = json.dumps(parts["config.json"])[:-1] + ', "a": ' + "[" * 150 + "]" * 150 + "}"
    refused(write({"config.json": nested}), "nested 151 deep")
    deep = "[" * 100_000
    refused(write({"config.json": deep}), "is not JSON: maximum recursion", CheckpointCorruptError)
    refused(write({"config.json": " " * 2**23 + "{}"}), "config.json has 8.4 MB, and up to 8.4 MB")
    refused(write({"metadata.json": " " * 2**16 + "{}"}), "metadata.json has 65.5 kB, and up")
    many = {"layers": [layer("Dense")] * 20_001}
    refused(write({"config.json": many}), "more than 20,000 objects")
    for wrong in ('{"a": 1, "a": 2}', "[]", "{", b"\xff", '{"a": ' + "1" * 5000 + "}"):
        refused(write({"config.json": wrong}), "config.json of ", CheckpointCorruptError)


class TestArchive:
    @pytest.mark.parametrize(
        "name",
        ["assets/layers/vocabulary.txt", "../PWNED", "/tmp/PWNED", "model.weights.npz", "a/"],
    )
    def test_other_parts(self, write, name, canary):
        refused(write(extra=[(name, "x")]), "it holds '.*', and a model needs metadata.json, conf")

    def test_a_name_twice(self, write):
        with pytest.warns(UserWarning, match="Duplicate name"):
            path = write(extra=[("config.json", "{}")])
        refused(path, "a part of one name twice")

    @pytest.mark.parametrize("name", PARTS)
    def test_a_part_missing(self, write, name):
        refused(write({name: None}), f"and lacks {name!r}", CheckpointCorruptError)

    def test_a_bomb(self, write):
        bomb = b"\0" * 10**8
        path = write({"model.weights.h5": bomb}, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 10**6
        refused(path, "is compressed from")

    def test_sizes_that_are_not_true(self, good, tmp_path):
        path = tmp_path / "a.keras"
        at = good.index(b"PK\1\2")
        for compressed, size in ((2**31, 2**31), (1, 2**31)):
            index = bytearray(good)
            struct.pack_into("<II", index, at + 20, compressed, size)
            path.write_bytes(index)
            refused(path, "has 2.1 GB, and up to|is compressed from 2.1 GB")

    def test_parts_that_overlap(self, write, parts):
        path = write({"config.json": {**parts["config.json"], "a": "x" * 30_000}})
        data = bytearray(path.read_bytes())
        at = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
        second, third = at[1:]
        data[third + 42 : third + 46] = data[second + 42 : second + 46]
        size = len(data) - 100
        struct.pack_into("<II", data, third + 20, size, size)
        path.write_bytes(data)
        refused(path, "its parts overlap")

    def test_encrypted(self, good, tmp_path):
        data = bytearray(good)
        data[good.index(b"PK\1\2") + 8] |= 1
        (tmp_path / "a.keras").write_bytes(data)
        refused(tmp_path / "a.keras", "metadata.json is encrypted")

    def test_a_large_index(self, good, tmp_path):
        data = bytearray(good)
        struct.pack_into("<I", data, len(data) - 10, 2**31)
        (tmp_path / "a.keras").write_bytes(data)
        refused(tmp_path / "a.keras", "its index is larger than three parts")

    def test_more_than_there_is_memory(self, write, monkeypatch):
        monkeypatch.setattr("tfpg.core.memory.available_memory", lambda: 1000)
        refused(write(), "needs .* kB, and 1.0 kB are free", MemoryError)

    def test_a_disk_without_room(self, write, monkeypatch, tmp_path):
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        path, opened = write(), Path.open

        class Full(io.BytesIO):
            def write(self, data):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            Path,
            "open",
            lambda p, mode="r", *a, **k: Full() if mode == "wb" else opened(p, mode, *a, **k),
        )
        refused(path, "cannot be unpacked into .*No space.*TMPDIR", OSError)
        assert not list((tmp_path / "temporary").iterdir())

    def test_nothing_is_left(self, write, monkeypatch, tmp_path):
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        tfpg.load_model(write())
        refused(write({"config.json": hidden(layer("Lambda"), "nested")}), "is a Lambda")
        refused(write({"model.weights.h5": b"x"}), "not HDF5", CheckpointCorruptError)
        assert not list((tmp_path / "temporary").iterdir())


class TestWhatItIs:
    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", "found 0 bytes."),
            (b"\x89HDF\r\n\x1a\n", "look like an HDF5 file"),
            (b"\x80\x05N.", "look like a pickle"),
            (b"\x1f\x8b\x08", "look like a gzip file"),
            (b"\x93NUMPY", "look like a NumPy array"),
            (bytes(257) + b"ustar", "look like a tar file"),
            (bytes(8) + b'{"', "look like a safetensors file"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull brings the file"),
            (b"<!DOCTYPE html>", "look like a web page"),
            ({"a/data.pkl": b"", "a/version": b""}, "look like a PyTorch file"),
            ({"a.npy": b""}, "look like NumPy arrays"),
        ],
    )
    def test_files(self, tmp_path, content, match):
        path = tmp_path / "a.keras"
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        else:
            path.write_bytes(content)
        text = refused(path, match, CheckpointCorruptError)
        assert "is not a whole .keras file, which is a zip archive of metadata.json, config" in text

    @pytest.mark.parametrize(
        ("inside", "match"),
        [
            (["saved_model.pb"], "is a folder, a TensorFlow SavedModel: name the .keras"),
            (["_CHECKPOINT_METADATA"], "is a folder, an Orbax checkpoint: name"),
            (["7/_CHECKPOINT_METADATA"], "is a folder, an Orbax checkpoint: name"),
            (["config.json", "model.weights.h5"], "is a folder, an unpacked Keras model: name"),
            ([], "is a folder: name"),
        ],
    )
    def test_folders(self, tmp_path, inside, match):
        for name in inside:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("{}")
        refused(tmp_path, match, IsADirectoryError)

    def test_what_is_no_regular_file(self, tmp_path, write):
        os.mkfifo(tmp_path / "pipe.keras")
        (tmp_path / "device.keras").symlink_to("/dev/zero")
        (tmp_path / "linked.keras").symlink_to(tmp_path / "pipe.keras")
        for name in ("pipe", "device", "linked"):
            refused(tmp_path / f"{name}.keras", "is not a regular file")
        (tmp_path / "nowhere.keras").symlink_to(tmp_path / "nothing")
        refused(tmp_path / "nowhere.keras", "No model at", FileNotFoundError)
        (tmp_path / "good.keras").symlink_to(write())
        tfpg.load_model(tmp_path / "good.keras")
        (tmp_path / "config.json").symlink_to("/dev/zero")
        with pytest.raises(UnsafeCheckpointError, match="config.json' is not a regular"):
            read_json(tmp_path / "config.json")

    def test_a_newer_keras(self, write):
        newer = {"metadata.json": {"keras_version": "9.4.1"}}
        path = write(newer)
        refused(path, f"saved by Keras 9.4.1, and this is Keras {keras.__version__}", ValueError)
        assert tfpg.load_model(path, allow_version_skew=True).count_params() == 23
        tfpg.load_model(write({"metadata.json": {"keras_version": "3.0.0"}}))
        for wrong in ({}, {"keras_version": "new"}, {"keras_version": [4]}):
            refused(write({"metadata.json": wrong}), "the Keras version", CheckpointCorruptError)


def changed_weights(parts, change):
    stored = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(stored, "r+") as file:
        change(file)
    return {"model.weights.h5": stored.getvalue()}


def replace(name, make):
    def change(file):
        del file[name]
        make(file, name)

    return change


def low_level(layout):
    def make(file, name):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout(settings)
        space = h5py.h5s.create_simple((4, 3))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=settings)

    return make


def virtual(file, name):
    layout = h5py.VirtualLayout((4, 3), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4, 3))
    file.create_virtual_dataset(name, layout)


def virtual_without_end(file, name):
    layout = h5py.VirtualLayout((4, 3), "float32", maxshape=(None, 3))
    source = h5py.VirtualSource("pipe", "secret", (4, 3), maxshape=(None, 3))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset(name, layout)


def array(**options):
    return lambda file, name: file.create_dataset(name, **options)


def link(kind, *args):
    return lambda file, name: file.__setitem__(name, kind(*args))


KERNEL = "layers/dense/vars/0"
HOSTILE_WEIGHTS = {
    # CVE-2026-1669
    "external link": (replace(KERNEL, link(h5py.ExternalLink, "other.h5", "secret")), "is a link"),
    "soft link": (replace(KERNEL, link(h5py.SoftLink, "/layers")), "vars/0' is a link to somewh"),
    "link to a group": (replace("layers", link(h5py.ExternalLink, "other.h5", "/")), "is a link"),
    "external": (
        replace(KERNEL, array(shape=(4, 3), dtype="f4", external=[("canary.txt", 0, 48)])),
        "is kept in another file, b?'canary.txt'",
    ),
    "virtual": (replace(KERNEL, virtual), "is put together of arrays in other files"),
    "virtual without end": (replace(KERNEL, virtual_without_end), "is put together of arrays in"),
    # CVE-2026-0897
    "a shape of 4 TB": (
        replace(KERNEL, array(shape=(2**20, 2**20), dtype="f4", chunks=(64, 64))),
        "is compressed or in chunks",
    ),
    "not written": (replace(KERNEL, array(shape=(2**20, 2**20), dtype="f4")), "4,398,046,511,104"),
    "compressed": (replace(KERNEL, array(data=np.ones((4, 3)), compression="gzip")), "is compres"),
    "filter": (
        replace(
            KERNEL,
            low_level(
                lambda p: (p.set_chunk((4, 3)), p.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,)))
            ),
        ),
        "is compressed or in chunks",
    ),
    "text": (replace(KERNEL, array(data=["a"] * 3, dtype=h5py.string_dtype())), "is not of numb"),
    "records": (replace(KERNEL, array(data=np.zeros(3, [("a", "f4")]))), "is not of numbers"),
    "references": (replace(KERNEL, array(shape=(3,), dtype=h5py.ref_dtype)), "is not of numbers"),
    "regions": (replace(KERNEL, array(shape=(3,), dtype=h5py.regionref_dtype)), "is not of numb"),
    "objects": (replace(KERNEL, array(shape=(3,), dtype=h5py.vlen_dtype("f4"))), "is not of num"),
    "a type": (lambda f: f.__setitem__("layers/type", np.dtype("f4")), "neither a group nor an"),
    "a ring": (lambda f: f["layers"].__setitem__("ring", f["layers"]), "is there twice"),
    "one twice": (lambda f: f.__setitem__("again", f[KERNEL]), "is there twice"),
    "depth": (lambda f: f.create_group("/".join("a" * 70)), "is there twice, or one of too many"),
}


@pytest.mark.parametrize("case", HOSTILE_WEIGHTS)
def test_weights_are_numbers_alone(case, write, parts, canary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    os.mkfifo("pipe")
    with h5py.File("other.h5", "w") as other:
        other["secret"] = np.full((4, 3), 7, "float32")
    change, match = HOSTILE_WEIGHTS[case]
    refused(write(changed_weights(parts, change)), match)


def test_attributes_are_not_read(tmp_path):
    """HDF5 searches for ever among texts of a wrong length, and so does Keras with this one."""
    model = MODELS["mixed"]()
    model.save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        held = {name: bytearray(archive.read(name)) for name in PARTS}
    weights = held["model.weights.h5"]
    first = weights.index(b"GCOL") + 16
    struct.pack_into("<Q", weights, first + 8, 2127)  # of the heap's 4096 bytes
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        for name, content in held.items():
            archive.writestr(name, bytes(content))
    same(model, tfpg.load_model(tmp_path / "b.keras"))


def test_hdf5_of_something_else(write):
    refused(write({"model.weights.h5": b"\x89HDF\r\n\x1a\n"}), "not HDF5", CheckpointCorruptError)


def test_weights_of_another_model(write, parts):
    changed = changed_weights(parts, lambda f: f.__delitem__("layers/dense"))
    refused(write(changed), "Keras cannot load", ValueError)


class TestFuzz:
    """Whatever is done to a good file, it ends in an error that names it, or in the same model."""

    def outcome(self, path, weights):
        begun, model, error = time.perf_counter(), None, None
        try:
            model = tfpg.load_model(path)
        except (ValueError, OSError, MemoryError) as caught:
            error = caught
        assert time.perf_counter() - begun < 5
        if model is None:
            assert str(path) in str(error), error
            assert "file not found" not in str(error).lower()
            return type(error).__name__
        if weights is not None:
            for a, b in zip(model.get_weights(), weights, strict=True):
                np.testing.assert_array_equal(a, b)
        return "loaded"

    def edited(self, data, rng):
        data = bytearray(data)
        kind = rng.choice(["cut", "flip", "bytes", "insert", "head", "twice"])
        at = rng.randrange(len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            for _ in range(rng.randrange(1, 9)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == "insert":
            data[at:at] = rng.randbytes(rng.randrange(1, 50))
        elif kind == "head":
            del data[: at % 200 + 1]
        else:
            data += data[at:]
        return bytes(data)

    def test_the_file(self, good, tmp_path):
        path = tmp_path / "fuzzed.keras"
        path.write_bytes(good)
        weights = tfpg.load_model(path).get_weights()
        rng, seen = random.Random(0), set()
        for i in range(300):
            changed = self.edited(good, rng)
            if i % 3 == 0:  # the index, which no sum checks
                end = good.index(b"PK\1\2")
                changed = good[:end] + self.edited(good[end:], rng)
            path.write_bytes(changed)
            seen.add(self.outcome(path, weights))
        assert seen >= {"CheckpointCorruptError", "UnsafeCheckpointError", "loaded"}

    def test_the_weights(self, write, parts):
        """HDF5 is changed where nothing but HDF5 notices."""
        data, rng, seen = parts["model.weights.h5"], random.Random(3), set()
        for _ in range(50):
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 2, 4])):
                at = rng.randrange(len(data) - 8)
                kinds = [rng.randbytes(1), b"\xff", b"\xff" * 8, (2**40).to_bytes(8, "little")]
                new = rng.choice(kinds)
                changed[at : at + len(new)] = new
            seen.add(self.outcome(write({"model.weights.h5": bytes(changed)}), None))
        assert seen >= {"CheckpointCorruptError", "loaded"}

    def test_the_config(self, write, parts):
        text = json.dumps(parts["config.json"]).encode()
        rng, seen = random.Random(1), []
        for _ in range(100):
            path = write({"config.json": self.edited(text, rng)})
            seen.append(self.outcome(path, None))
        assert len(set(seen)) > 1

    def test_values_of_the_config(self, write, parts):
        """Every value in turn is one of another kind."""
        text = json.dumps(parts["config.json"])
        places = []

        def look(value, path):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, x in pairs:
                places.append((*path, key))
                if isinstance(x, (dict, list)):
                    look(x, places[-1])

        look(parts["config.json"], ())
        rng = random.Random(2)
        for place in rng.sample(places, 40):
            config = json.loads(text)
            at = config
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = rng.choice([None, -1, 10**30, "x", [], {}, [[]], {"config": 3}, 1e308])
            self.outcome(write({"config.json": config}), None)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units, self.layer = units, keras.layers.Dense(units)

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Unknown(keras.layers.Layer):
    def call(self, x):
        return 3 * x


def functional():
    x = keras.Input((4,), name="x")
    a, b = keras.ops.split(keras.layers.Dense(6, keras.activations.gelu)(x), 2, axis=-1)
    y = keras.ops.clip(a[:, 1:] * 2.0 + keras.ops.mean(b, axis=-1, keepdims=True), -1, 1)
    y = keras.layers.Concatenate()([y, keras.ops.stop_gradient(keras.activations.relu(x))])
    return keras.Model(x, {"policy": keras.layers.Dense(2)(y), "value": keras.layers.Dense(1)(y)})


def shared():
    part = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    x = keras.Input((4,))
    return keras.Model(x, part(part(x)))


def subclassed():
    model = Own()
    model(np.zeros((1, 4)))
    return model


def recurrent():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.TimeDistributed(layers.Dense(3)),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.RNN([layers.GRUCell(2), layers.SimpleRNNCell(2)]),
            layers.Dense(2, kernel_regularizer="l2", kernel_constraint="max_norm"),
        ]
    )


def images():
    layers = keras.layers
    x = keras.Input((12, 12, 2))
    y = layers.SpectralNormalization(layers.Conv2D(3, 3, activation="relu"))(x)
    y = layers.BatchNormalization()(layers.SeparableConv2D(2, 3, strides=2)(y))
    y = layers.MultiHeadAttention(2, 2)(layers.Reshape((-1, 2))(y), layers.Reshape((-1, 2))(y))
    return keras.Model(x, layers.Dense(2)(layers.Dropout(0.1, seed=1)(layers.Flatten()(y))))


def mixed():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    layers = [keras.layers.Dense(3, dtype=policy), keras.layers.Dense(2, dtype="bfloat16")]
    return keras.Sequential([keras.Input((4,)), *layers])


MODELS = {
    "mlp": lambda: tfpg.networks.mlp("CartPole-v1", hidden=(8,)),
    "normalized": lambda: tfpg.networks.mlp("Pendulum-v1", hidden=(8,), normalize=True),
    "actor critic": lambda: tfpg.networks.actor_critic("CartPole-v1", hidden=(8,)),
    "critic": lambda: tfpg.networks.critic("CartPole-v1", hidden=(8,)),
    "dueling": lambda: tfpg.networks.dueling("CartPole-v1", hidden=(8,)),
    "functional": functional,
    "shared": shared,
    "subclassed": subclassed,
    "registered": lambda: keras.Sequential([keras.Input((4,)), Scaled(), keras.layers.Dense(2)]),
    "recurrent": recurrent,
    "images": images,
    "mixed": mixed,
}


def same(model, again):
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_models_that_load(name, tmp_path):
    model = MODELS[name]()
    model.save(tmp_path / "a.keras")
    again = tfpg.load_model(tmp_path / "a.keras")
    assert type(again) is type(model)
    same(model, again)


OPTIMIZERS = [
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion"),
    *("Muon", "Nadam", "RMSprop", "SGD", "ScheduleFreeAdamW"),
]
SCHEDULES = [
    keras.optimizers.schedules.CosineDecay(0.1, 10**8),
    keras.optimizers.schedules.CosineDecayRestarts(0.1, 10),
    keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9),
    keras.optimizers.schedules.InverseTimeDecay(0.1, 10, 0.9),
    keras.optimizers.schedules.PiecewiseConstantDecay([10, 10**9], [0.1, 0.2, 0.3]),
    keras.optimizers.schedules.PolynomialDecay(0.1, 10),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_that_load(name, tmp_path):
    i = OPTIMIZERS.index(name)
    optimizer = getattr(keras.optimizers, name)(SCHEDULES[i % len(SCHEDULES)])
    if i % 5 == 4:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    loss = [None, "mse", keras.losses.Huber(), keras.losses.mean_squared_error][i % 4]
    model.compile(optimizer, loss=loss, metrics=["mae", keras.metrics.MeanSquaredError()][: i % 3])
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "a.keras")
    again = tfpg.load_model(tmp_path / "a.keras")
    same(model, again)
    assert type(again.optimizer) is type(optimizer)
    for a, b in zip(optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_every_loss_metric_and_initializer_that_is_allowed_is_one():
    from tfpg.models.safety.allowed import CLASSES, FUNCTIONS, LOOPS, REFUSED

    for module, names in CLASSES.items():
        if "src" not in module:
            home = keras
            for part in module.split(".")[1:]:
                home = getattr(home, part)
            assert all(isinstance(getattr(home, name), type) for name in names), module
    listed = set().union(*CLASSES.values())
    assert not listed & set(REFUSED)
    for name in FUNCTIONS - {"swish"}:
        homes = (keras.activations, keras.losses, keras.metrics)
        assert any(hasattr(home, name) for home in homes), name
    assert LOOPS


def test_own_classes(tmp_path):
    keras.Sequential([keras.Input((4,)), Unknown(name="mine")]).save(tmp_path / "a.keras")
    refused(tmp_path / "a.keras", r"'mine' is .*test_loading.Unknown, which is neither registered")
    again = tfpg.load_model(tmp_path / "a.keras", custom_objects={"Unknown": Unknown})
    assert type(again.layers[0]) is Unknown
    with keras.saving.custom_object_scope({"Unknown": Unknown}):
        tfpg.load_model(tmp_path / "a.keras")
    crop = keras.Sequential([keras.Input((9, 9, 1)), keras.layers.RandomCrop(4, 4)])
    crop.save(tmp_path / "b.keras")
    refused(tmp_path / "b.keras", "keras.layers.RandomCrop, which is neither .*custom_objects")
    again = tfpg.load_model(
        tmp_path / "b.keras", custom_objects={"RandomCrop": keras.layers.RandomCrop}
    )
    assert type(again.layers[0]) is keras.layers.RandomCrop


def test_loading_draws_no_random_number_more(write):
    path = write()
    drawn = []
    for load in (tfpg.load_model, keras.saving.load_model):
        random.seed(3)
        load(path)
        drawn.append(random.random())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("model_env", "env", "match"),
    [
        ("CartPole-v1", "Acrobot-v1", r"\(None, 4\).*Box\(.*\(6,\).*layer 'dense.*shape \(4, 8\)"),
        ("Acrobot-v1", "CartPole-v1", r"\(None, 6\).*Box\(.*\(4,\).*layer 'dense.*shape \(6, 8\)"),
    ],
)
def test_a_policy_in_another_environment(model_env, env, match, tmp_path):
    tfpg.networks.mlp(model_env, hidden=(8,)).save(tmp_path / "a.keras")
    model = tfpg.load_model(tmp_path / "a.keras")
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        tfpg.Policy(model, env)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class TestCommandLine:
    def test_a_newer_keras(self, write, capsys, tmp_path):
        path = str(write({"metadata.json": {"keras_version": "9.4.1"}}))
        args = ["evaluate", path, "--env", "CartPole-v1", "--episodes", "2", "--max-steps", "5"]
        assert main(args) == 1
        assert "or try it with allow_version_skew=True (--allow-version-skew)." in (
            capsys.readouterr().err
        )
        assert main([*args, "--allow-version-skew"]) == 0

    def test_another_environment(self, good, capsys, tmp_path):
        config = {"env": "CartPole-v1", "head": {}, "options": {"max_steps": 30}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.keras").write_bytes(good)
        assert main(["evaluate", str(tmp_path), "--env", "Acrobot-v1"]) == 1
        said = capsys.readouterr().err
        assert "Its layer 'first' has weights of shape (4, 3)." in said
        assert "It was trained in CartPole-v1, of Box([-4.8" in said
        assert "and Discrete(2); Acrobot-v1 is of Box([" in said
        assert "(6,), float32) and Discrete(3)." in said

    def test_a_lambda(self, write, capsys):
        path = str(write({"config.json": hidden(layer("Lambda"), "nested")}))
        assert main(["evaluate", path, "--env", "CartPole-v1"]) == 1
        assert "'gift' is a Lambda, which holds Python code." in capsys.readouterr().err
