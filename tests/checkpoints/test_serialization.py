"""Records: what is packed comes back, and what is not a record is refused."""

import json
import math
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tfpg.checkpoints.serialization import pack, unpack

KINDS = (
    *("bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64"),
    ">i4",
)
TEXT = st.text(max_size=8).filter(lambda key: key != "__array__")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ARRAYS = st.sampled_from(KINDS).flatmap(
    lambda kind: npst.arrays(
        np.dtype(kind), npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    )
)
STATES = st.recursive(
    PLAIN | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
EXAMPLE = {
    "weights": np.arange(12, dtype=np.float32).reshape(3, 4),
    "done": np.array([True, False]),
    "rng": {"state": 2**127 + 5, "name": "PCG64"},
    "history": [1.5, -2, None, True, "ä"],
    "nothing": np.zeros((0, 3)),
}


def packed(state):
    return b"".join(pack(state))


def same(a, b):
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def crafted(content, arrays=b""):
    """A record whose JSON and arrays are as given."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<QQ", len(text), len(arrays)) + text + arrays


class TestRoundTrip:
    @given(STATES)
    @settings(max_examples=150, deadline=None)
    def test_a_state_comes_back(self, state):
        assert same(state, unpack(packed(state)))

    def test_nan_infinity_and_numpy_scalars(self):
        state = {"a": float("nan"), "b": [-math.inf, np.float32(0.1)], "c": np.int8(3)}
        state |= {"d": np.bool_(True), "e": np.float64(0.1), "f": np.longdouble(2)}
        found = unpack(packed(state))
        assert math.isnan(found["a"])
        assert found["b"] == [-math.inf, float(np.float32(0.1))]
        assert (found["c"], found["d"], found["e"], found["f"]) == (3, True, 0.1, 2.0)

    def test_tuples_become_lists_and_strided_arrays_contiguous_ones(self):
        columns = np.arange(12).reshape(3, 4).T[::2]
        found = unpack(packed({"x": (1, columns)}))
        assert found["x"][0] == 1
        np.testing.assert_array_equal(found["x"][1], columns)

    @pytest.mark.parametrize("length", [0, 1, 15, 16, 47, 48, 49, 200])
    def test_arrays_are_aligned_in_the_record(self, length):
        head, text, *arrays = pack({"t": "t" * length, "x": np.ones(3), "y": np.ones(5, np.int8)})
        places = np.cumsum([len(head) + len(text), *map(len, arrays)])
        assert not (places[[0, 2]] % 64).any()  # each has its padding behind it
        assert not places[-1] % 64

    def test_arrays_are_not_copied(self):
        x = np.zeros(1_000_000)
        tracemalloc.start()
        buffers = pack({"x": x})
        data = bytearray().join(buffers)
        _, joined = tracemalloc.get_traced_memory()
        found = unpack(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert joined < 1.1 * x.nbytes
        assert peak - joined < 100_000
        found["x"][0] = 1.0  # a view of the data, which can be written to

    def test_images_are_compressed(self):
        frames = np.zeros((100, 84, 84), np.uint8)
        frames[:, 10:20, 30] = np.arange(100)[:, None]
        noise = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
        data = bytearray().join(pack({"frames": frames, "noise": noise}))
        assert len(data) < noise.nbytes + frames.nbytes // 50
        found = unpack(data)
        assert same({"frames": frames, "noise": noise}, found)
        found["frames"][0] = 1  # can be written to

    @pytest.mark.parametrize(("size", "cut"), [(999, 0), (1001, 0), (1000, 1), (1000, 5)])
    def test_a_compressed_array_of_another_size_is_refused(self, size, cut):
        data = zlib.compress(bytes(1000))[: -cut or None]
        with pytest.raises(ValueError, match="1,?[0-9]+ numbers is incomplete|999 numbers is inc"):
            unpack(crafted({"__array__": ["|u1", [size], 0, len(data)]}, data))


class TestRefusedStates:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"a": [0, {1, 2}]}, "The state at /a/1 is a set"),
            ({"x": np.array([None])}, "The state at /x is a ndarray"),
            ({"x": np.array(["a"])}, "The state at /x is a ndarray"),
            ({"x": np.array([1j])}, "The state at /x is a ndarray"),
            ({"x": np.complex64(1j)}, "The state at /x is a complex64"),
            ({"x": np.datetime64("2020-01-01")}, "The state at /x is a datetime64"),
            ({"x": np.zeros(2, [("a", "f4")])}, "The state at /x is a ndarray"),
            ({"x": b"bytes"}, "The state at /x is a bytes"),
            ({"x": len}, "The state at /x is a builtin_function_or_method"),
            ({"x": {1: 2}}, "The state at /x has keys that are not strings"),
            ({"__array__": ["<f8", [2], 0]}, "The state at / has keys that are not strings"),
        ],
    )
    def test_the_error_says_what_and_where_it_is(self, state, message):
        with pytest.raises(TypeError, match=message):
            pack(state)

    def test_deeply_nested_states_are_refused(self):
        deep = 1
        for _ in range(32):
            deep = [deep]
        assert unpack(packed(deep)) == deep
        with pytest.raises(TypeError, match="nested more than 32 levels deep"):
            pack({"x": deep})
        circle = []
        circle.append(circle)
        with pytest.raises(TypeError, match="nested more than 32 levels deep"):
            pack(circle)


class TestRefusedRecords:
    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (["|O", [1], 0], "an array of '|O' at 0"),
            (["O", [1], 0], "an array of 'O'"),
            (["<c8", [1], 0], "an array of '<c8'"),
            (["f8,f8", [1], 0], "an array of 'f8,f8'"),
            (["(2,", [1], 0], "an array of"),
            (["a5", [1], 0], "an array of 'a5'"),
            (["<f7", [1], 0], "data type"),
            (["float64", [1], 0], "an array of 'float64'"),
            ([None, [1], 0], "an array of 'None'"),
            (["<f8", [1], -8], "an array of '<f8' at -8"),
            (["<f8", [1], 1.5], "an array of '<f8' at 1.5"),
            (["<f8", [1], None], "an array of '<f8' at None"),
            (["<f8", [9], 0, 72], "9 numbers is larger than the record"),
            (["<f8", [8], 1, 64], "8 numbers is larger than the record"),
            (["<f8", [8], 0, 65], "8 numbers is larger than the record"),
            (["<f8", [8], 0, -8], "8 numbers is larger than the record"),
            (["<f8", [8], 0, None], "NoneType"),
            (["<f8", [8], 0, 63], "while decompressing"),
            (["|u1", [100], 0, 20], "while decompressing"),
            (["|u1", [10**12], 0, 64], "is larger than the record"),
            (["<f8", [1], 10**30], "1 numbers is larger than the record"),
            (["<f8", [10**30], 0], "is larger than the record"),
            (["<f8", [2**40, 2**40], 0], "is larger than the record"),
            (["<f8", [0, 10**30], 0, 0], "Maximum allowed dimension"),
            (["<f8", [0] * 70, 0, 0], "maximum"),
            (["<f8", [-1], 0], "of shape"),
            (["<f8", [-1, -8], 0], "of shape"),
            (["<f8", [2.0], 0], "of shape"),
            (["<f8", "8", 0], "of shape"),
            (["<f8", None, 0], "NoneType"),
            (["<f8", {}, 0], "sequence of integers"),
            (["<f8", [1]], "unpack"),
            ([], "unpack"),
            (7, "unpack"),
            (None, "unpack"),
        ],
    )
    def test_descriptions_of_impossible_arrays(self, array, message):
        if isinstance(array, list) and len(array) == 3:
            array = [*array, 8]
        with pytest.raises(ValueError, match=f"^Not a complete record: .*{re.escape(message)}"):
            unpack(crafted({"x": {"__array__": array}}, bytes(64)))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"short",
            struct.pack("<QQ", 2**63, 0),
            struct.pack("<QQ", 2**64 - 1, 2**64 - 1) + bytes(100),
            struct.pack("<QQ", 2, 2**62) + b"{}",
            crafted(b"{"),
            crafted(b"\xff\xfe\x00"),
            crafted(b"[" * 100_000),
            crafted(b"9" * 10_000),
            crafted(b"[" * 34 + b"]" * 34),
        ],
        ids=range(10),
    )
    def test_bytes_that_are_not_a_record(self, data):
        with pytest.raises(ValueError, match="Not a complete record"):
            unpack(data)

    def test_bytes_after_the_record(self):
        with pytest.raises(
            ValueError, match=r"Not a complete record: expected [\d,]+ bytes, found"
        ):
            unpack(packed(EXAMPLE) + b"0")


def attempt(data):
    """Unpack the data, or fail with a ValueError, in little memory."""
    tracemalloc.start()
    try:
        unpack(data)
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 50 * len(data) + 100_000


@pytest.mark.filterwarnings("error")
class TestBrokenBytes:
    def test_every_truncation_is_refused(self):
        data = packed(EXAMPLE)
        for length in range(len(data)):
            with pytest.raises(ValueError, match="Not a complete record"):
                unpack(data[:length])

    def test_every_changed_bit_of_the_sizes_and_the_json(self):
        data = packed(EXAMPLE)
        for place in range(16 + struct.unpack_from("<Q", data)[0]):
            for bit in range(8):
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                attempt(bytes(changed))

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_random_edits(self, data):
        changed = bytearray(packed(EXAMPLE))
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(st.integers(0, len(changed) - 1))
            with_what = data.draw(st.binary(max_size=6))
            changed[place : place + data.draw(st.integers(0, 6))] = with_what
        attempt(bytes(changed))

    @given(st.binary(max_size=200), st.binary(max_size=100))
    @settings(max_examples=100, deadline=None)
    def test_random_text_between_right_sizes(self, text, arrays):
        attempt(crafted(text, arrays))

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
        max_leaves=6,
    )

    @given(st.sampled_from(["<f8", "|b1", ">u2", "O", "<M8[s]"]) | json_values, json_values,
           json_values, json_values)  # fmt: skip
    @settings(max_examples=150, deadline=None)
    def test_random_descriptions_of_arrays(self, dtype, shape, offset, stored):
        attempt(crafted([{"__array__": [dtype, shape, offset, stored]}], bytes(64)))
