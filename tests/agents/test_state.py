"""What callbacks carry comes back as it was, whatever was logged."""

import keras
import numpy as np
import pytest

from tfpg.agents.state import Numbers, callbacks_state, prepare_callbacks, set_callbacks_state
from tfpg.checkpoints.serialization import pack, unpack

LOGS = {
    "floats": [{"a": 1.5, "b": 2.5}, {"a": 2.0, "b": -1.0}, {"a": 0.1, "b": 0.2}],
    "an int that becomes a float": [{"a": 0, "n": 1}, {"a": 0.7, "n": 2}, {"a": 0.9, "n": 3}],
    "and an int again": [{"a": 1}, {"a": 1}, {"a": 2.5}, {"a": 3}, {"a": 4}],
    "a float that becomes an int": [{"a": 0.5, "b": 0.25}, {"a": 1, "b": 0.75}, {"a": 2, "b": 1.5}],
    "a bool that becomes a float": [{"a": True}, {"a": 0.5}, {"a": False}],
    "now and then": [{"a": 1.0}, {"a": 2.0, "val_a": 5.0}, {"a": 3.0}, {"a": 4.0, "val_a": 6.0}],
    "one that begins later": [{"a": 1.0}, {"b": 7, "a": 2.0}, {"b": 8, "a": 3.0}],
    "large ints": [{"n": 2**53 + 1}, {"n": 2**53 + 3}, {"n": 2**53 + 5}],
}


@pytest.mark.parametrize("logs", LOGS.values(), ids=LOGS.keys())
@pytest.mark.parametrize("every", [1, 2])
def test_a_history_comes_back(logs, every):
    history = keras.callbacks.History()
    history.set_model(keras.Sequential())
    history.on_train_begin()
    for epoch, told in enumerate(logs):
        history.on_epoch_end(epoch, told)
        if (epoch + 1) % every:
            continue
        state, _ = unpack(b"".join(pack(callbacks_state([history]))))
        other = keras.callbacks.History()
        set_callbacks_state([other], state)
        assert (other.epoch, other.history) == (history.epoch, history.history)
        assert list(other.history) == list(history.history)
        assert all(type(n) is int for n in other.epoch)


def test_pure_ints_stay_ints():
    history = keras.callbacks.History()
    history.set_model(keras.Sequential())
    history.on_train_begin()
    for epoch in range(5):
        history.on_epoch_end(epoch, {"a": epoch / 2, "env_steps": 100 * epoch})
        (state,) = callbacks_state([history])
    other = keras.callbacks.History()
    set_callbacks_state([other], unpack(b"".join(pack([state])))[0])
    assert all(type(n) is int for n in other.history["env_steps"])
    assert all(type(n) is float for n in other.history["a"])


def test_a_history_of_nothing():
    history = keras.callbacks.History()
    history.set_model(keras.Sequential())
    history.on_train_begin()
    other = keras.callbacks.History()
    set_callbacks_state([other], unpack(b"".join(pack(callbacks_state([history]))))[0])
    assert (other.epoch, other.history) == ([], {})


def test_numbers_of_lists_that_begin_anew():
    numbers = Numbers()
    assert numbers.of([[1, 2, 3], [4, 5, 6]]).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert numbers.of([[7], [8]]).tolist() == [[7], [8]]
    assert numbers.of([[7, 1], [8, 2]]).tolist() == [[7, 1], [8, 2]]
    assert numbers.of([[9, 9]]).tolist() == [[9, 9]]
    assert numbers.of([[9.5, 9]]).dtype == np.float64


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (b"epoch,a\n0,1.5\n1,2", b"epoch,a\n0,1.5\n"),
        (b"epoch,a\n", b"epoch,a\n"),
        (b"epo", b""),
        (b"", b""),
    ],
)
def test_a_log_that_was_cut_goes_on_with_a_whole_row(tmp_path, found, left):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,a\n0,1.5\n1,2.5\n")
    told = [{"class": "CSVLogger", "state": {"bytes": path.stat().st_size, "keys": ["a"]}}]
    path.write_bytes(found)
    with pytest.warns(UserWarning, match=f"had 20 bytes .* has {len(found)}: rows are missing"):
        prepare_callbacks([keras.callbacks.CSVLogger(str(path))], told)
    assert path.read_bytes() == left
