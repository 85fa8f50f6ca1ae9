"""Model files from an attacker run no code, open no other files and do not fill the memory."""

import io
import json
import os
import random
import resource
import struct
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import tfpg
from tfpg.cli.main import main
from tfpg.core.files import read_json
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError, VersionSkewError
from tfpg.models.allowed_layers import ALLOWED_CLASSES, ALLOWED_FUNCTIONS, REFUSED_CLASSES

PARTS = ("metadata.json", "config.json", "model.weights.h5")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good file."""
    path = tmp_path_factory.mktemp("good") / "good.keras"
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(3, name="first"), layers.Dense(2, name="last")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    model.compile("sgd")
    model.save(path)
    return path.read_bytes()


@pytest.fixture
def parts(good):
    """The parts of a good file by name, with its config parsed."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        found = {name: archive.read(name) for name in PARTS}
    return {**found, "config.json": json.loads(found["config.json"])}


@pytest.fixture
def write(tmp_path, parts):
    """Write a file of a good file's parts, some of them changed."""

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
    """A file that must not change, in a folder where no file named PWNED may appear."""
    path = tmp_path / "canary.txt"
    path.write_text("the secret")
    yield path
    assert path.read_text() == "the secret"
    assert not list(tmp_path.glob("PWNED*"))


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    """The folder for temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def check_refused(path, match, error=UnsafeCheckpointError, **options):
    with pytest.raises(error, match=match) as caught:
        tfpg.load_model(path, **options)
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") <= 2


def check_equal(model, loaded):
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def layer(kind, module="keras.layers", registered_name=None, **config):
    return {
        "module": module,
        "class_name": kind,
        "config": {"name": "gift", **config},
        "registered_name": registered_name,
    }


def function(module, name, registered_name=None):
    registered_name = registered_name or name
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": registered_name,
    }


def input_tensor():
    config = {"shape": [None, 4], "dtype": "float32", "keras_history": ["input", 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def model_config(*inner, **more):
    return {**layer("Sequential", "keras", layers=list(inner)), **more}


HIDING_PLACES = {
    "layer": lambda gift: model_config(gift),
    "wrapped layer": lambda gift: model_config(layer("TimeDistributed", layer=gift)),
    "second wrapped layer": lambda gift: model_config(
        layer("Bidirectional", layer=layer("Dense", units=2), backward_layer=gift)
    ),
    "model in a model": lambda gift: model_config(model_config(gift)),
    "activation": lambda gift: model_config(layer("Dense", units=2, activation=gift)),
    "loss": lambda gift: model_config(compile_config={"optimizer": "sgd", "loss": gift}),
    "build_config": lambda gift: model_config(build_config={"input_shape": gift}),
    "argument of a call": lambda gift: model_config(
        {
            **layer("Dense", units=2),
            "inbound_nodes": [{"args": [[gift], input_tensor()], "kwargs": {"mask": [gift]}}],
        }
    ),
}
NOT_ALLOWED = "which is neither registered nor among"
GIFTS = {
    # CVE-2024-3660: marshalled bytecode.
    "Lambda": (
        layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}),
        "'gift' is a Lambda, which contains Python code",
    ),
    "bare lambda": ({"class_name": "__lambda__", "config": {"value": ""}}, "is a __lambda__"),
    # CVE-2025-1550: any function of any module.
    "os.system": (function("os", "system"), f"uses 'os.system', {NOT_ALLOWED}"),
    "exec": (function("builtins", "exec"), f"uses 'builtins.exec', {NOT_ALLOWED}"),
    "class of os": (layer("_wrap_close", "os"), f"'gift' uses 'os._wrap_close', {NOT_ALLOWED}"),
    # CVE-2025-8747, CVE-2025-9906 and CVE-2025-12060: functions of Keras.
    "get_file": (function("keras.utils", "get_file"), NOT_ALLOWED),
    "safe mode": (function("keras.config", "enable_unsafe_deserialization"), NOT_ALLOWED),
    "load_model": (function("keras.models", "load_model"), NOT_ALLOWED),
    "deserialize": (function("keras.layers", "deserialize"), NOT_ALLOWED),
    "alias of a function": (function("builtins", "relu", "get_file"), NOT_ALLOWED),
    "internal function": (
        function("keras.src.backend.common.global_state", "set_global_attribute"),
        NOT_ALLOWED,
    ),
    "internal class": (layer("Lambda2", "keras.src.layers.core"), NOT_ALLOWED),
    # CVE-2026-1462: a TensorFlow program.
    "TFSMLayer": (layer("TFSMLayer", filepath="/tmp/x"), "TFSMLayer, which runs a TensorFlow"),
    "TorchModuleWrapper": (layer("TorchModuleWrapper", module="gASVB=="), "contains a pickle"),
    "JaxLayer": (layer("JaxLayer"), NOT_ALLOWED),
    # CVE-2025-12058: the vocabulary is a path.
    "StringLookup": (layer("StringLookup", vocabulary="/etc/passwd"), "can read any file"),
    "TextVectorization": (layer("TextVectorization", vocabulary="/a"), "can read any file"),
    "typespec": (
        {"class_name": "__typespec__", "spec_name": "X", "module": "os", "config": []},
        NOT_ALLOWED,
    ),
    "class without a module": ({"class_name": "Dense", "config": {"name": "gift"}}, NOT_ALLOWED),
    "class without a name": ({"class_name": ["Dense"], "module": "keras.layers"}, NOT_ALLOWED),
    "alias of a class": (layer("Dense", registered_name="my>Dense"), NOT_ALLOWED),
    "WhileLoop": (layer("WhileLoop", "keras.src.ops.core"), NOT_ALLOWED),
    "JVP": (layer("JVP", "keras.src.ops.linalg"), NOT_ALLOWED),
    "name that is a path": (layer("Dense", name="../../PWNED"), r"named '../../PWNED', which is a"),
    "string of 4 GB": (
        {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "U1000000000"}},
        "a constant in .* has the type 'U1000000000'",
    ),
    "long unrolled loop": (
        layer("LSTM", unroll=True, units=1, batch_shape=[None, 10**9, 4]),
        "'gift' has a size of 1,000,000,000, but the limit is 1,048,576",
    ),
    "many parts": (layer("Split", "keras.src.ops.numpy", indices=10**9), "has a size of 1,000,000"),
    "state of any size": (layer("GRU", stateful=True, units=1), "sets 'stateful', which allocates"),
    "slow pattern": (
        layer("Muon", "keras.optimizers", exclude_layers=["(a+)+$"]),
        "sets 'exclude_layers', which is a regular expression",
    ),
}


@pytest.mark.parametrize("gift", GIFTS)
def test_a_config_that_could_run_code_read_files_or_fill_the_memory_is_refused(write, gift, canary):
    config, match = GIFTS[gift]
    for hide in HIDING_PLACES.values():
        check_refused(write({"config.json": hide(config)}), match)


def test_a_real_lambda_does_not_run_even_if_keras_has_unsafe_deserialization_on(tmp_path, canary):
    path = str(tmp_path / "PWNED")
    gift = layers.Lambda(lambda x: (open(path, "w").close(), x)[1], name="gift")
    model = keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(gift)])
    model.save(tmp_path / "lambda.keras")
    os.unlink(path)
    keras.saving.load_model(tmp_path / "lambda.keras", safe_mode=False)
    os.unlink(path)  # so this is what would happen
    check_refused(tmp_path / "lambda.keras", "'gift' is a Lambda")
    keras.config.enable_unsafe_deserialization()
    try:
        check_refused(tmp_path / "lambda.keras", "'gift' is a Lambda")
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)


def test_a_call_on_constants_is_not_computed(write):
    inputs = {**layer("InputLayer", batch_shape=[None, 4]), "inbound_nodes": []}
    one = {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}}
    decoy = {**layer("Dense"), "config": {"units": input_tensor()}}
    tile = layer("Tile", "keras.src.ops.numpy", repeats=[2**20, 2**20])
    calls = [{"args": [one], "kwargs": {}}, {"args": [one, decoy]}, [], {}, [["input", 0, 0, {}]]]
    for call in calls:
        config = layer(
            "Functional",
            "keras.src.models.functional",
            layers=[inputs, {**tile, "inbound_nodes": [call]}],
        )
        path = write({"config.json": config})
        check_refused(path, "'gift' is called on no output of another layer")


def test_weights_that_are_described_but_not_in_the_file_are_never_allocated(write, parts):
    large = [layer("Dense", name=name, units=2**20) for name in ("a", "b")]
    parts["config.json"]["config"]["layers"][1:] = large
    begun = time.perf_counter()
    check_refused(write(), "config describes weights of 4.4 TB, but it contains 104 bytes")
    with keras.StatelessScope():  # where Keras allocates the variables it has put off
        pass
    assert time.perf_counter() - begun < 2


def test_a_config_has_a_bounded_size_and_depth(write, parts):
    nested = json.dumps(parts["config.json"])[:-1] + ', "a": ' + "[" * 150 + "]" * 150 + "}"
    check_refused(write({"config.json": nested}), "nested deeper than 100 levels")
    check_refused(write({"config.json": " " * 2**23 + "{}"}), "has 8.4 MB, but the limit is 8.4 MB")
    check_refused(write({"metadata.json": " " * 2**16 + "{}"}), "metadata.json has 65.5 kB, but")
    many = {"layers": [layer("Dense")] * 20_001}
    check_refused(write({"config.json": many}), "more than 20,000 objects")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[]", "{", b"\xff", '{"a": ' + "1" * 5000 + "}", "[" * 100_000]
)
def test_a_config_that_is_no_json_object_is_corrupt(write, text):
    check_refused(write({"config.json": text}), "config.json in ", CheckpointCorruptError)


class TestArchive:
    @pytest.mark.parametrize(
        "name", ["assets/vocabulary.txt", "../PWNED", "/tmp/PWNED", "model.weights.npz", "a/"]
    )
    def test_a_fourth_part_is_refused(self, write, name, canary):
        check_refused(write(extra=[(name, "x")]), f"contains {name!r}, but a model consists")

    def test_a_part_that_is_there_twice_is_refused(self, write):
        with pytest.warns(UserWarning, match="Duplicate name"):
            path = write(extra=[("config.json", "{}")])
        check_refused(path, "contains a part twice")

    @pytest.mark.parametrize("name", PARTS)
    def test_a_file_without_one_of_the_parts_is_corrupt(self, write, name):
        check_refused(write({name: None}), f"but not {name!r}", CheckpointCorruptError)

    def test_a_decompression_bomb_is_refused(self, write):
        path = write({"model.weights.h5": bytes(10**8)}, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 10**6
        check_refused(path, "is compressed, which Keras never does")

    @pytest.mark.parametrize(
        ("sizes", "match"),
        [((2**31, 2**31), "has 2.1 GB, but the limit"), ((1, 2**31), "is compressed")],
    )
    def test_sizes_that_are_not_true_are_refused(self, good, tmp_path, sizes, match):
        data = bytearray(good)
        struct.pack_into("<II", data, good.index(b"PK\1\2") + 20, *sizes)
        (tmp_path / "a.keras").write_bytes(data)
        check_refused(tmp_path / "a.keras", match)

    def test_parts_that_overlap_are_refused(self, write, parts):
        path = write({"config.json": {**parts["config.json"], "a": "x" * 30_000}})
        data = bytearray(path.read_bytes())
        _, second, third = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
        data[third + 42 : third + 46] = data[second + 42 : second + 46]
        struct.pack_into("<II", data, third + 20, *[len(data) - 100] * 2)
        path.write_bytes(data)
        check_refused(path, "its parts overlap")

    def test_an_encrypted_part_is_corrupt(self, good, tmp_path):
        data = bytearray(good)
        data[good.index(b"PK\1\2") + 8] |= 1
        (tmp_path / "a.keras").write_bytes(data)
        check_refused(tmp_path / "a.keras", "is encrypted", CheckpointCorruptError)

    @pytest.mark.parametrize("zip64", [False, True])
    def test_a_large_index_is_refused(self, good, tmp_path, zip64):
        data = bytearray(good)
        if zip64:
            data[-22:-22] = b"PK\6\7" + bytes(16)
        else:
            struct.pack_into("<I", data, len(data) - 10, 2**31)
        (tmp_path / "a.keras").write_bytes(data)
        check_refused(tmp_path / "a.keras", "its index is too large")

    def test_a_flipped_bit_makes_a_file_corrupt(self, good, tmp_path):
        data = bytearray(good)
        data[len(data) // 2] ^= 1
        (tmp_path / "a.keras").write_bytes(data)
        check_refused(tmp_path / "a.keras", "Bad CRC-32 for file", CheckpointCorruptError)

    def test_a_model_that_does_not_fit_into_memory_is_not_loaded(self, write, monkeypatch):
        monkeypatch.setattr("tfpg.core.memory.available_memory", lambda: 1000)
        check_refused(write(), "needs .* kB, but only 1.0 kB are free", MemoryError)

    def test_a_full_disk_is_an_error_that_names_tmpdir(self, write, temporary_folder):
        path = write()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            check_refused(path, "cannot be unpacked into .*too large.*TMPDIR", OSError)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_no_temporary_file_stays(self, write, temporary_folder):
        tfpg.load_model(write())
        check_refused(write({"config.json": model_config(layer("Lambda"))}), "is a Lambda")
        check_refused(write({"model.weights.h5": b"x"}), "not valid HDF5", CheckpointCorruptError)
        check_refused(write({"config.json": {"a": 1}}), "Keras cannot load", ValueError)


class TestKindOfFile:
    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", "the file has 0 bytes and no zip header"),
            (b"not a zip archive", "the file has 17 bytes and no zip header"),
            (b"PK\3\4" + bytes(100), "the file was cut short and has only 104 bytes"),
            (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
            (b"\x80\x05N.", "it is a pickle"),
            ({"a/data.pkl": b"", "a/version": b""}, "it contains a PyTorch model"),
            ({"hello.txt": b"hello"}, "it contains 'hello.txt', but not 'metadata.json'"),
        ],
    )
    def test_another_kind_of_file_is_named(self, tmp_path, content, match):
        path = tmp_path / "a.keras"
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        else:
            path.write_bytes(content)
        match = f"is not a complete .keras file, which is a zip archive of metadata.*: {match}"
        check_refused(path, match, CheckpointCorruptError)

    def test_a_folder_is_no_model(self, tmp_path):
        check_refused(tmp_path, "is a folder. Pass a .keras file", IsADirectoryError)
        (tmp_path / "saved_model.pb").touch()
        check_refused(tmp_path, "is a TensorFlow SavedModel. Pass", IsADirectoryError)

    def test_only_regular_files_and_links_to_them_are_opened(self, tmp_path, write):
        os.mkfifo(tmp_path / "pipe.keras")
        (tmp_path / "device.keras").symlink_to("/dev/zero")
        (tmp_path / "linked.keras").symlink_to(tmp_path / "pipe.keras")
        for name in ("pipe", "device", "linked"):
            check_refused(tmp_path / f"{name}.keras", "is not a regular file")
            with pytest.raises(UnsafeCheckpointError, match=f"{name}.keras' is not a regular file"):
                read_json(tmp_path / f"{name}.keras")
        (tmp_path / "broken.keras").symlink_to(tmp_path / "nothing")
        check_refused(tmp_path / "broken.keras", "No model at", FileNotFoundError)
        (tmp_path / "good.keras").symlink_to(write())
        tfpg.load_model(tmp_path / "good.keras")

    def test_a_file_of_a_newer_keras_loads_on_demand(self, write):
        path = write({"metadata.json": {"keras_version": "9.4.1"}})
        match = f"saved by Keras 9.4.1, but Keras {keras.__version__} is installed and may"
        check_refused(path, match, VersionSkewError)
        assert tfpg.load_model(path, allow_version_skew=True).count_params() == 23
        tfpg.load_model(write({"metadata.json": {"keras_version": "3.0.0"}}))

    @pytest.mark.parametrize("metadata", [{}, {"keras_version": "new"}, {"keras_version": [4]}])
    def test_a_file_without_a_keras_version_is_corrupt(self, write, metadata):
        check_refused(write({"metadata.json": metadata}), "Keras version", CheckpointCorruptError)


KERNEL = "layers/dense/vars/0"


def changed_weights(parts, change):
    stored = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(stored, "r+") as file:
        change(file)
    return {"model.weights.h5": stored.getvalue()}


def replace(make, name=KERNEL):
    def change(file):
        del file[name]
        make(file, name)

    return change


def array(**options):
    return replace(lambda file, name: file.create_dataset(name, **options))


def link(kind, *args, name=KERNEL):
    return replace(lambda file, name: file.__setitem__(name, kind(*args)), name)


def virtual(file, name, maxshape=None):
    """Make an array of the parts of another, with a length that HDF5 would look up there."""
    other = "pipe" if maxshape else "other.h5"
    layout = h5py.VirtualLayout((4, 3), "float32", maxshape=maxshape)
    source = h5py.VirtualSource(other, "secret", (4, 3), maxshape=maxshape)
    rows = slice(h5py.h5s.UNLIMITED if maxshape else None)
    layout[rows] = source[rows]
    file.create_virtual_dataset(name, layout)


def unknown_filter(file, name):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((4, 3))
    settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((4, 3))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=settings)


HOSTILE_WEIGHTS = {
    # CVE-2026-1669: links and arrays in other files.
    "external link": (link(h5py.ExternalLink, "other.h5", "secret"), "/vars/0' in .* is a link"),
    "link to a pipe": (link(h5py.ExternalLink, "pipe", "/"), "/vars/0' in its weights is a link"),
    "soft link": (link(h5py.SoftLink, "/layers"), "/vars/0' in its weights is a link"),
    "group that is a link": (link(h5py.ExternalLink, "other.h5", "/", name="layers"), "is a link"),
    "external array": (
        array(shape=(4, 3), dtype="f4", external=[("canary.txt", 0, 48)]),
        "is stored in other files",
    ),
    "virtual array": (replace(virtual), "is stored in other files"),
    "virtual array without a length": (
        replace(lambda file, name: virtual(file, name, (None, 3))),
        "is stored in other files",
    ),
    # CVE-2026-0897: a shape without data.
    "4 TB in chunks": (array(shape=(2**20, 2**20), dtype="f4", chunks=(64, 64)), "is chunked or"),
    "4 TB not written": (array(shape=(2**20, 2**20), dtype="f4"), "needs 4,398,046,511,104 bytes"),
    "size that overflows": (array(shape=(2**32, 2**32), dtype="u1"), "needs 18,446,744,073,709"),
    "compressed": (array(data=np.ones((4, 3)), compression="gzip"), "is chunked or compressed"),
    "filter": (replace(unknown_filter), "is chunked or compressed"),
    "text": (array(data=["a"] * 3, dtype=h5py.string_dtype()), "is not an array of numbers"),
    "records": (array(data=np.zeros(3, [("a", "f4")])), "is not an array of numbers"),
    "records of two bytes": (array(data=np.zeros(3, "u1,u1")), "is not an array of numbers"),
    "references": (array(shape=(3,), dtype=h5py.ref_dtype), "is not an array of numbers"),
    "regions": (array(shape=(3,), dtype=h5py.regionref_dtype), "is not an array of numbers"),
    "objects": (array(shape=(3,), dtype=h5py.vlen_dtype("f4")), "is not an array of numbers"),
    "type": (lambda f: f.__setitem__("layers/type", np.dtype("f4")), "is neither a group nor"),
    "ring": (lambda f: f["layers"].__setitem__("ring", f["layers"]), "is there twice"),
    "ring through the root": (lambda f: f["layers"].__setitem__("up", f["/"]), "is there twice"),
    "array twice": (lambda f: f.__setitem__("again", f[KERNEL]), "is there twice"),
    "depth": (lambda f: f.create_group("/".join("a" * 120)), "there twice or nested too deep"),
}


@pytest.mark.parametrize("case", HOSTILE_WEIGHTS)
def test_weights_that_are_not_plain_arrays_are_refused(case, write, parts, canary, monkeypatch):
    folder = canary.parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    os.mkfifo("pipe")
    with h5py.File("other.h5", "w") as other:
        other["secret"] = np.full((4, 3), 7, "float32")
    change, match = HOSTILE_WEIGHTS[case]
    check_refused(write(changed_weights(parts, change)), match)


def test_arrays_that_share_their_bytes_are_refused(write, parts):
    def add(file):
        file["a"] = np.zeros(5000)
        file.create_dataset("b", (5000,), "f8")
        file.create_dataset("c", (5000,), "f8")

    data = changed_weights(parts, add)["model.weights.h5"]
    with h5py.File(io.BytesIO(data), "r") as file:
        address = struct.pack("<Q", file["a"].id.get_offset())
    size = struct.pack("<Q", 40_000)
    shared = data.replace(b"\xff" * 8 + size, address + size)  # which b and c did not have
    with h5py.File(io.BytesIO(shared), "r") as file:
        assert file["b"].id.get_offset() == file["c"].id.get_offset() == file["a"].id.get_offset()
    check_refused(write({"model.weights.h5": shared}), "needs 40,000 bytes but has")


def test_damaged_attributes_of_the_weights_are_not_read(tmp_path):
    """HDF5 and Keras would search forever in a text of the wrong length."""
    model = MODELS["mixed precision"]()
    model.save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        parts = {name: bytearray(archive.read(name)) for name in PARTS}
    weights = parts["model.weights.h5"]
    first_text = weights.index(b"GCOL") + 16
    struct.pack_into("<Q", weights, first_text + 8, 2127)  # bytes of a heap of 4096
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(content))
    check_equal(model, tfpg.load_model(tmp_path / "b.keras"))


def test_weights_that_are_damaged_or_of_another_model_are_an_error(write, parts):
    path = write({"model.weights.h5": b"\x89HDF\r\n\x1a\n"})
    check_refused(path, "its weights are not valid HDF5", CheckpointCorruptError)
    changed = changed_weights(parts, lambda file: file.__delitem__("layers/dense"))
    check_refused(write(changed), "Keras cannot load", ValueError)


class TestRandomChanges:
    """A file with random changes gives the same model or an error that names the file."""

    def outcome(self, path, weights=None):
        begun, model, error = time.perf_counter(), None, None
        try:
            model = tfpg.load_model(path)
        except (ValueError, OSError, MemoryError) as caught:
            error = caught
        assert time.perf_counter() - begun < 5
        if error:
            assert str(path) in str(error)
            assert "file not found" not in str(error).lower()
            return type(error).__name__
        for a, b in zip(model.get_weights(), weights or [], strict=weights is not None):
            np.testing.assert_array_equal(a, b)
        return "loaded"

    def changed(self, data, rng):
        data, at = bytearray(data), rng.randrange(len(data))
        kind = rng.choice(["cut", "flip", "bytes", "insert", "head", "twice"])
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

    def test_of_the_archive(self, good, tmp_path):
        path = tmp_path / "changed.keras"
        path.write_bytes(good)
        weights = tfpg.load_model(path).get_weights()
        rng, seen = random.Random(0), set()
        for i in range(300):
            data = self.changed(good, rng)
            if i % 3 == 0:  # only the index, which has no checksum
                end = good.index(b"PK\1\2")
                data = good[:end] + self.changed(good[end:], rng)
            path.write_bytes(data)
            seen.add(self.outcome(path, weights))
        assert seen >= {"CheckpointCorruptError", "UnsafeCheckpointError", "loaded"}

    def test_of_the_weights(self, write, parts):
        data, rng, seen = parts["model.weights.h5"], random.Random(3), set()
        for _ in range(50):
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 2, 4])):
                at = rng.randrange(len(data) - 8)
                numbers = [rng.randbytes(1), b"\xff", b"\xff" * 8, (2**40).to_bytes(8, "little")]
                new = rng.choice(numbers)
                changed[at : at + len(new)] = new
            seen.add(self.outcome(write({"model.weights.h5": bytes(changed)})))
        assert seen >= {"CheckpointCorruptError", "loaded"}

    def test_of_the_text_of_the_config(self, write, parts):
        text, rng = json.dumps(parts["config.json"]).encode(), random.Random(1)
        seen = {self.outcome(write({"config.json": self.changed(text, rng)})) for _ in range(100)}
        assert len(seen) > 1

    def test_of_the_values_in_the_config(self, write, parts):
        places = []

        def visit(value, path):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, x in pairs:
                places.append((*path, key))
                if isinstance(x, (dict, list)):
                    visit(x, places[-1])

        visit(parts["config.json"], ())
        rng, text = random.Random(2), json.dumps(parts["config.json"])
        others = [None, -1, 10**30, "x", [], {}, [[]], {"config": 3}, 1e308]
        for *path, key in rng.sample(places, 40):
            config = at = json.loads(text)
            for step in path:
                at = at[step]
            at[key] = rng.choice(others)
            self.outcome(write({"config.json": config}))


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units, self.layer = units, layers.Dense(units)

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Unregistered(layers.Layer):
    def call(self, x):
        return 3 * x


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def functional():
    x = keras.Input((4,), name="x")
    a, b = keras.ops.split(layers.Dense(6, keras.activations.gelu)(x), 2, axis=-1)
    y = keras.ops.clip(a[:, 1:] * 2.0 + keras.ops.mean(b, axis=-1, keepdims=True), -1, 1)
    y = layers.Concatenate()([y, keras.ops.stop_gradient(keras.activations.relu(x))])
    return keras.Model(x, {"policy": layers.Dense(2)(y), "value": layers.Dense(1)(y)})


def shared():
    part = sequential((4,), layers.Dense(4))
    x = keras.Input((4,))
    return keras.Model(x, part(part(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4)))
    return model


def images():
    x = keras.Input((12, 12, 2))
    y = layers.SpectralNormalization(layers.Conv2D(3, 3, activation="relu"))(x)
    y = layers.BatchNormalization()(layers.SeparableConv2D(2, 3, strides=2)(y))
    y = layers.MultiHeadAttention(2, 2)(layers.Reshape((-1, 2))(y), layers.Reshape((-1, 2))(y))
    return keras.Model(x, layers.Dense(2)(layers.Dropout(0.1, seed=2**31)(layers.Flatten()(y))))


MODELS = {
    "mlp": lambda: tfpg.networks.mlp("CartPole-v1", hidden=(8,)),
    "normalized mlp": lambda: tfpg.networks.mlp("Pendulum-v1", hidden=(8,), normalize=True),
    "actor critic": lambda: tfpg.networks.actor_critic("CartPole-v1", hidden=(8,)),
    "critic": lambda: tfpg.networks.critic("CartPole-v1", hidden=(8,)),
    "dueling": lambda: tfpg.networks.dueling("CartPole-v1", hidden=(8,)),
    "functional": functional,
    "shared layers": shared,
    "subclassed": subclassed,
    "registered layer": lambda: sequential((4,), Doubled(), layers.Dense(2)),
    "recurrent": lambda: sequential(
        (6, 4),
        layers.TimeDistributed(layers.Dense(3)),
        layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
        layers.RNN([layers.GRUCell(2), layers.SimpleRNNCell(2)]),
        layers.Dense(2, kernel_regularizer="l2", kernel_constraint="max_norm"),
    ),
    "images": images,
    "mixed precision": lambda: sequential(
        (4,),
        layers.Dense(3, dtype=keras.dtype_policies.DTypePolicy("mixed_bfloat16")),
        layers.Dense(2, dtype="bfloat16"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_honest_model_loads_with_its_weights(name, tmp_path):
    model = MODELS[name]()
    model.save(tmp_path / "a.keras")
    loaded = tfpg.load_model(tmp_path / "a.keras")
    assert type(loaded) is type(model)
    check_equal(model, loaded)


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
def test_an_optimizer_loads_with_its_state(name, tmp_path):
    i = OPTIMIZERS.index(name)
    optimizer = getattr(keras.optimizers, name)(SCHEDULES[i % len(SCHEDULES)])
    if i % 5 == 4:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = sequential((4,), layers.Dense(2))
    loss = [None, "mse", keras.losses.Huber(), keras.losses.mean_squared_error][i % 4]
    model.compile(optimizer, loss=loss, metrics=["mae", keras.metrics.MeanSquaredError()][: i % 3])
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "a.keras")
    loaded = tfpg.load_model(tmp_path / "a.keras")
    assert type(loaded.optimizer) is type(optimizer)
    for a, b in zip(optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_every_allowed_name_exists_in_keras():
    for module, names in ALLOWED_CLASSES.items():
        home = keras
        for part in module.split(".")[1:]:
            home = getattr(home, part)
        assert all(isinstance(getattr(home, name), type) for name in names), module
    assert not set().union(*ALLOWED_CLASSES.values()) & set(REFUSED_CLASSES)
    homes = (keras.activations, keras.losses, keras.metrics)
    for name in ALLOWED_FUNCTIONS["builtins"] - {"swish"}:
        assert any(hasattr(home, name) for home in homes), name


def test_other_classes_load_if_the_user_names_them(tmp_path):
    path = tmp_path / "a.keras"
    for part, shape in ((Unregistered(name="mine"), (4,)), (layers.RandomCrop(4, 4), (9, 9, 1))):
        sequential(shape, part).save(path)
        name = type(part).__name__
        check_refused(
            path, rf"uses '[\w.]+\.{name}', which is neither .*custom_objects={{'{name}': "
        )
        loaded = tfpg.load_model(path, custom_objects={name: type(part)})
        assert type(loaded.layers[0]) is type(part)
        with keras.saving.custom_object_scope({name: type(part)}):
            tfpg.load_model(path)


def test_loading_draws_no_more_random_numbers_than_keras(write):
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
        ("CartPole-v1", "Acrobot-v1", r"\(None, 4\).*\(6,\).*shape \(4, 8\)"),
        ("Acrobot-v1", "CartPole-v1", r"\(None, 6\).*\(4,\).*shape \(6, 8\)"),
    ],
)
def test_a_policy_for_another_environment_is_an_error_that_changes_nothing(model_env, env, match):
    model = tfpg.networks.mlp(model_env, hidden=(8,))
    before = keras.models.clone_model(model)
    before.set_weights(model.get_weights())
    with pytest.raises(ValueError, match=match):
        tfpg.Policy(model, env)
    check_equal(before, model)


class TestCommandLine:
    def test_a_file_of_a_newer_keras_loads_with_a_flag(self, write, capsys):
        path = str(write({"metadata.json": {"keras_version": "9.4.1"}}))
        args = ["evaluate", path, "--env", "CartPole-v1", "--episodes", "2", "--max-steps", "5"]
        assert main(args) == 1
        assert "(--allow-version-skew)" in capsys.readouterr().err
        assert main([*args, "--allow-version-skew"]) == 0

    def test_a_run_of_another_environment_is_an_error_that_names_both(self, good, capsys, tmp_path):
        config = {"env": "CartPole-v1", "head": {}, "options": {"max_steps": 30}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.keras").write_bytes(good)
        assert main(["evaluate", str(tmp_path), "--env", "Acrobot-v1"]) == 1
        message = capsys.readouterr().err
        for text in ("shape (None, 4)", "CartPole-v1", "Discrete(2)", "Discrete(3)"):
            assert text in message

    def test_a_hostile_file_is_an_error(self, write, capsys):
        path = str(write({"config.json": model_config(layer("Lambda"))}))
        assert main(["evaluate", path, "--env", "CartPole-v1"]) == 1
        assert "'gift' is a Lambda, which contains Python code." in capsys.readouterr().err
