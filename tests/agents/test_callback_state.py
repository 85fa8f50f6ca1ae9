"""What callbacks carry comes back as it was, whatever was logged."""

import keras
import pytest

from tfpg.agents.resume import callbacks_state, prepare_callbacks, restore_callbacks
from tfpg.checkpoints.serialization import pack, unpack

LOGS = {
    "nothing": [],
    "floats": [{"a": 1.5, "b": 2.5}, {"a": 2.0, "b": -1.0}],
    "floats and integers": [{"a": 0, "n": 1}, {"a": 0.7, "n": 2}, {"a": 1, "n": 3}],
    "booleans": [{"a": True}, {"a": 0.5}, {"a": False}],
    "now and then": [{"a": 1.0}, {"a": 2.0, "val_a": 5.0}, {"a": 3.0}],
    "large integers": [{"n": 2**53 + 1}, {"n": 2**70}],
    "text": [{"a": "one"}, {"a": None}],
}


@pytest.mark.parametrize("logs", LOGS.values(), ids=LOGS.keys())
def test_a_history_comes_back_with_its_types(logs):
    history = keras.callbacks.History()
    history.set_model(keras.Sequential())
    history.on_train_begin()
    for epoch, each in enumerate(logs):
        history.on_epoch_end(epoch, each)
    state = unpack(bytearray().join(pack(callbacks_state([history]))))
    other = keras.callbacks.History()
    restore_callbacks([other], state)
    assert (other.epoch, other.history) == (history.epoch, history.history)
    assert repr(other.history) == repr(history.history)  # the types and the order too


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (b"epoch,a\n0,1.5\n1,2", b"epoch,a\n0,1.5\n"),
        (b"epoch,a\n", b"epoch,a\n"),
        (b"epo", b""),
        (b"", b""),
    ],
)
def test_a_csv_file_that_lost_rows_continues_after_its_last_whole_row(tmp_path, found, left):
    path = tmp_path / "metrics.csv"
    state = [{"class": "CSVLogger", "state": {"bytes": 20, "keys": ["a"]}}]
    path.write_bytes(found)
    with pytest.warns(UserWarning, match=f"had 20 bytes .* has {len(found)} now: rows are missing"):
        prepare_callbacks([keras.callbacks.CSVLogger(str(path))], state)
    assert path.read_bytes() == left


def test_a_csv_file_loses_the_rows_that_come_again(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,a\n0,1.5\n1,2.5\n2,3.5\n")
    state = [{"class": "CSVLogger", "state": {"bytes": 20, "keys": ["a"]}}]
    prepare_callbacks([keras.callbacks.CSVLogger(str(path))], state)
    assert path.read_bytes() == b"epoch,a\n0,1.5\n1,2.5\n"


def test_other_callbacks_are_refused():
    stop = keras.callbacks.EarlyStopping("loss")
    states = callbacks_state([stop])
    with pytest.raises(ValueError, match="callbacks EarlyStopping, but here are none: pass the"):
        prepare_callbacks([], states)
