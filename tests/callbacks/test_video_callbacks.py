"""Videos and snapshots of a model while it learns."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from decoding import decode
from toys import Countdown

import tfpg
from tfpg.callbacks import RecordVideo, Snapshots


def fit(callbacks, iterations=4, **options):
    model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=20)
    options = {"callbacks": callbacks, "seed": 0, "verbose": 0, **options}
    return agent, agent.fit("CartPole-v1", iterations, **options)


def weights(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


class TestSnapshots:
    def test_they_are_the_models_after_the_chosen_iterations(self, tmp_path):
        agent, _ = fit([Snapshots(tmp_path / "deep/{iteration}.keras", at=(0, 2), every=4)])
        names = ["0.keras", "2.keras", "4.keras"]
        assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == names
        first, two, last = (weights(tfpg.load_model(tmp_path / "deep" / n)) for n in names)
        untrained = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
        np.testing.assert_array_equal(first, weights(untrained))
        np.testing.assert_array_equal(last, weights(agent.model))
        assert (first != two).any()
        assert (two != last).any()

    def test_a_fit_that_continues_saves_no_iteration_0(self, tmp_path):
        fit([Snapshots(tmp_path / "{iteration}.keras", at=(0, 3))], initial_iteration=2)
        assert [p.name for p in tmp_path.iterdir()] == ["3.keras"]

    @pytest.mark.parametrize(
        ("path", "options", "message"),
        [
            ("{iteration}.keras", {}, "Choose iterations: at="),
            ("a.keras", {"at": (0, 1)}, "is the same file for all iterations"),
            ("{step}.keras", {"at": (0,)}, "is not a valid pattern"),
            ("{iteration}.keras", {"every": 0}, "every must be an integer of at least 1"),
            ("{iteration}.h5", {"at": 1}, "Expected a path ending in .keras"),
        ],
    )
    def test_mistakes_are_reported_before_training(self, path, options, message):
        with pytest.raises(ValueError, match=message):
            Snapshots(path, **options)


class TestRecordVideo:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"env": Countdown()},
                ValueError,
                "separate environments: pass an id, or a callable",
            ),
            ({"env": "CartPol-v1"}, ValueError, "Did you mean"),
            ({"overlay": "bras"}, ValueError, "Unknown overlay 'bras'"),
            ({"scale": -1}, ValueError, "scale must be positive"),
            ({"overlays": "bars"}, TypeError, "overlays"),
            ({"path": "{iteration}.avi"}, ValueError, "Expected a file ending in"),
        ],
    )
    def test_mistakes_are_reported_before_training(self, options, error, message):
        with pytest.raises(error, match=message):
            RecordVideo(**{"path": "{iteration}.gif", "env": "CartPole-v1", "at": 3, **options})

    def test_it_records_the_model_of_an_iteration_and_does_not_change_what_is_learned(
        self, no_display, tmp_path
    ):
        options = {"seed": 3, "scale": 0.2}
        video = RecordVideo(tmp_path / "{iteration}.mp4", "CartPole-v1", every=2, **options)
        agent, history = fit([video])
        alone, other = fit([])
        assert sorted(video.recordings) == [0, 2, 4]
        after = tfpg.record(agent, "CartPole-v1", tmp_path / "after.mp4", **options)
        assert (tmp_path / "4.mp4").read_bytes() == (tmp_path / "after.mp4").read_bytes()
        assert video.recordings[4].episode_returns == after.episode_returns
        assert len(decode(tmp_path / "0.mp4")) == video.recordings[0].frames
        assert history.history == other.history
        np.testing.assert_array_equal(weights(agent.model), weights(alone.model))

    def test_it_acts_with_the_options_of_the_agents_head(self, no_display, tmp_path):
        model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), activation="relu", seed=0)
        agent = tfpg.DQN(model, learning_starts=64, steps_per_iteration=64)
        # Only a Q-network has an epsilon to draw.
        options = {"at": (1,), "overlay": ("bars", "epsilon"), "max_steps": 3}
        video = RecordVideo(tmp_path / "{iteration}.gif", "CartPole-v1", **options)
        agent.fit("CartPole-v1", 1, callbacks=[video], seed=0, verbose=0)
        assert list(video.recordings) == [1]

    def test_a_recording_that_fails_is_a_warning_and_training_continues(self, no_display, tmp_path):
        class Broken(gymnasium.Wrapper):
            def render(self):
                raise ValueError("no image today")

        def build():
            return Broken(gymnasium.make("CartPole-v1", render_mode="rgb_array"))

        video = RecordVideo(tmp_path / "{iteration}.mp4", build, at=(2,))
        with pytest.warns(UserWarning, match="Iteration 2 was not recorded.* no image today"):
            _, history = fit([video])
        assert len(history.epoch) == 4
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_a_full_disk_is_a_warning_and_leaves_nothing(self, no_display, tmp_path):
        code = """
import resource, signal, sys, warnings
warnings.simplefilter("always")
import tfpg
model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
path = sys.argv[1] + "/{iteration}.gif"
video = tfpg.callbacks.RecordVideo(path, "CartPole-v1", at=(1,), overlay=True)
agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=20)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
history = agent.fit("CartPole-v1", 3, callbacks=[video], seed=0, verbose=0)
print(len(history.epoch), video.recordings)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
        )
        assert done.stdout.splitlines()[-1:] == ["3 {}"], done.stderr[-2000:]
        assert "Iteration 1 was not recorded, and training continues: Cannot write" in done.stderr
        assert list(tmp_path.iterdir()) == []
