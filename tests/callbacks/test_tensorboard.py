"""TensorBoard's event files, read back by TensorBoard."""

import csv
import io
import signal
import subprocess
import sys
import time
from contextlib import suppress

import keras
import numpy as np
import pytest
from decoding import decode
from PIL import Image
from small import small_agent

import tfpg
from tfpg.callbacks import MetricsLogger, RecordVideo, TensorBoard

loading = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
from tensorboard.util.tensor_util import make_ndarray  # noqa: E402


def events_of(folder):
    """All values in the files of a run, in the order of the files: ``{tag: [(step, value)]}``."""
    found = {}
    for path in sorted(folder.iterdir()):
        for event in loading.EventFileLoader(str(path)).Load():
            for each in event.summary.value:
                found.setdefault(each.tag, []).append((event.step, make_ndarray(each.tensor)))
    return found


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def columns_of(path, prefix=""):
    """What the log should have, from ``metrics.csv``."""
    rows = rows_of(path)
    names = [x for x in rows[0] if x.startswith("val_") == bool(prefix)]
    return {
        name.removeprefix("val_"): [
            (int(float(row["env_steps"])), np.float32(row[name]))
            for row in rows
            if row[name] not in ("", "NA")
        ]
        for name in names
        if name != "epoch" and not name.endswith("env_steps")
    }


def check_equal(folder, metrics):
    """Assert that the log in a folder has the values of a metrics file, each once."""
    for run, prefix in (("train", ""), ("validation", "val_")):
        expected = columns_of(metrics, prefix)
        found = events_of(folder / run)
        for name, values in expected.items():
            assert found.get(name, []) == values, name
    return events_of(folder / "train")


def test_it_has_every_value_of_the_metrics_at_its_environment_steps(tmp_path):
    history = small_agent(tfpg.A2C).fit(
        "CartPole-v1",
        iterations=6,
        seed=0,
        verbose=0,
        callbacks=[MetricsLogger(tmp_path / "metrics.csv"), TensorBoard(tmp_path)],
        validation_envs="CartPole-v1",
        validation_freq=3,
        validation_episodes=2,
    )
    found = check_equal(tmp_path, tmp_path / "metrics.csv")
    steps = history.history["env_steps"]
    assert [step for step, _ in found["loss"]] == steps
    events = accumulator.EventAccumulator(str(tmp_path / "validation")).Reload()
    assert set(events.Tags()["scalars"]) == {"episode_return", "episode_length"}
    assert [each.step for each in events.Scalars("episode_return")] == [steps[2], steps[5]]


def test_histograms_of_keras_are_at_environment_steps_too(tmp_path):
    agent = small_agent(tfpg.A2C)
    board = TensorBoard(tmp_path, histogram_freq=2)
    history = agent.fit("CartPole-v1", 4, seed=0, verbose=0, callbacks=[board]).history
    found = events_of(tmp_path / "train")
    names = [name for name in found if name.endswith("histogram")]
    assert len(names) == len(agent.model.weights)
    assert {step for name in names for step, _ in found[name]} == {*history["env_steps"][::2]}


def test_videos_are_animations_at_the_steps_of_their_iterations(no_display, tmp_path):
    video = RecordVideo(tmp_path / "{iteration}.mp4", "CartPole-v1", at=(0, 2), max_steps=40)
    board = TensorBoard(tmp_path, video)
    agent = small_agent(tfpg.A2C)
    agent.fit("CartPole-v1", 2, seed=0, verbose=0, callbacks=[video, board])
    found = events_of(tmp_path / "train")["video"]
    assert [step for step, _ in found] == [0, agent.env_steps]
    for iteration, (_, (width, height, content)) in zip((0, 2), found, strict=True):
        original = decode(tmp_path / f"{iteration}.mp4")[::4]  # 50 fps become 12.5
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == ("GIF", (int(width), int(height)))
            assert image.size == (400, 281)
            assert image.n_frames == len(original)
            assert image.info["duration"] == 80  # ms
            for i in (0, image.n_frames - 1):
                image.seek(i)
                expected = np.array(Image.fromarray(original[i]).resize(image.size), float)
                assert abs(np.array(image.convert("RGB")) - expected).mean() < 3


class CutOff(keras.callbacks.Callback):
    def __init__(self, end):
        super().__init__()
        self.end = end

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.end < 9:
            raise RuntimeError("power cut")


def test_a_run_that_resumes_has_every_step_once(tmp_path):
    folders = tmp_path / "whole", tmp_path / "parts"
    for folder, ends in zip(folders, ([9], [7, 9]), strict=True):
        for end in ends:
            video = RecordVideo(folder / "{iteration}.gif", "CartPole-v1", every=3, max_steps=5)
            callbacks = [video, TensorBoard(folder / "log", video), CutOff(end)]
            with suppress(RuntimeError):
                small_agent(tfpg.A2C).fit(
                    "CartPole-v1",
                    iterations=9,
                    seed=0,
                    verbose=0,
                    callbacks=callbacks,
                    checkpoints=tfpg.Checkpoints(folder / "saved", every_iterations=2),
                )
            # Iteration 7 is after the checkpoint.
            assert len(events_of(folder / "log/train")["loss"]) == end
    whole, parts = (events_of(folder / "log/train") for folder in folders)
    steps = [step for step, _ in whole["loss"]]
    assert [step for step, _ in whole["video"]] == [0, *steps[2::3]]
    assert repr(parts) == repr(whole)


@pytest.mark.slow
def test_a_run_of_the_command_line_that_is_killed_continues_its_log(tmp_path):
    command = [sys.executable, "-m", "tfpg"]
    options = ["--env-steps", "60000", "--validation-env-steps", "20000", "--no-video"]
    options += ["--tensorboard", "--video-at", "0", "3", "--run", "run", "--checkpoint-every", "1"]
    process = subprocess.Popen(
        [*command, "train", "a2c", "CartPole-v1", *options, "--seed", "1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    saved, metrics = tmp_path / "run/checkpoints", tmp_path / "run/metrics.csv"
    deadline = time.monotonic() + 100
    while not list(saved.glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    rows = len(rows_of(metrics))
    while len(rows_of(metrics)) < rows + 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "resume", "run"], cwd=tmp_path, check=True, capture_output=True)
    found = check_equal(tmp_path / "run/tensorboard", metrics)
    assert [step for step, _ in found["video"]] == [0, found["loss"][2][0]]
