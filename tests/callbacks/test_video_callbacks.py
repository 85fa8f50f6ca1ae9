"""Films and snapshots of a model as it learns."""

import subprocess
import sys

import imageio.v3 as iio
import keras
import numpy as np
import pytest
from toys import Countdown

import tfpg
from tfpg.callbacks.videos import RecordVideo, Snapshots


def fit(callbacks, iterations=4, seed=0, **options):
    model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=20)
    return agent, agent.fit(
        "CartPole-v1", iterations, callbacks=callbacks, seed=seed, verbose=0, **options
    )


def weights(path):
    return np.concatenate([w.ravel() for w in tfpg.load_model(path).get_weights()])


class TestSnapshots:
    def test_are_the_models_of_their_iterations(self, tmp_path):
        keep = Snapshots(tmp_path / "deep/{iteration}.keras", at=(0, 2), every=4)
        agent, _ = fit([keep])
        assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == [
            *("0.keras", "2.keras", "4.keras")
        ]
        first, two, last = (weights(tmp_path / f"deep/{n}.keras") for n in (0, 2, 4))
        fresh = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
        np.testing.assert_array_equal(
            first, np.concatenate([w.ravel() for w in fresh.get_weights()])
        )
        np.testing.assert_array_equal(
            last, np.concatenate([w.ravel() for w in agent.model.get_weights()])
        )
        assert (first != two).any()
        assert (two != last).any()

    def test_end_in_keras(self):
        with pytest.raises(ValueError, match="A snapshot ends in .keras"):
            Snapshots("{iteration}.h5", at=1)

    def test_a_fit_that_goes_on_has_no_beginning(self, tmp_path):
        keep = Snapshots(tmp_path / "{iteration}.keras", at=(0, 3))
        fit([keep], initial_iteration=2)
        assert [p.name for p in tmp_path.iterdir()] == ["3.keras"]

    @pytest.mark.parametrize(
        ("path", "options", "message"),
        [
            ("{iteration}.keras", {}, "Say after which iterations"),
            ("film.keras", {"at": (0, 1)}, "names one file for all iterations"),
            ("{step}.keras", {"at": (0,)}, "is no pattern for files"),
            ("{iteration}.keras", {"every": 0}, "every must be an integer of at least 1"),
        ],
    )
    def test_bad_patterns_are_said_before_training(self, path, options, message):
        with pytest.raises(ValueError, match=message):
            Snapshots(path, **options)


class TestRecordVideo:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                {"env": Countdown()},
                ValueError,
                "environments of its own: give an id, or a callable",
            ),
            ({"env": "CartPol-v1"}, ValueError, "Did you mean"),
            ({"overlay": "bras"}, ValueError, "Unknown overlay 'bras'"),
            ({"overlays": "bars"}, TypeError, "overlays"),
            ({"path": "{iteration}.avi"}, ValueError, "A film ends in"),
        ],
    )
    def test_mistakes_are_said_before_training(self, change, error, message):
        arguments = {"path": "{iteration}.gif", "env": "CartPole-v1", "at": 3, **change}
        with pytest.raises(error, match=message):
            RecordVideo(**arguments)

    def test_plays_with_the_log_std_of_that_iteration(self, no_display, tmp_path):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        agent = tfpg.Reinforce(model, episodes_per_update=2, max_steps=8)
        seen = []

        class Look(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(float(np.ravel(self.params["head"]["log_std"])[0]))

        agent.fit("Pendulum-v1", 3, callbacks=[Look()], seed=0, verbose=0)
        assert len(set(seen)) == 3
        assert seen[-1] == float(np.ravel(agent.head_options()["log_std"])[0])

    def test_films_the_model_of_that_iteration(self, no_display, tmp_path):
        film = RecordVideo(tmp_path / "{iteration}.mp4", "CartPole-v1", at=(0, 4), seed=3)
        agent, _ = fit([film])
        assert sorted(film.films) == [0, 4]
        after = tfpg.record(agent, "CartPole-v1", tmp_path / "after.mp4", seed=3)
        assert (tmp_path / "4.mp4").read_bytes() == (tmp_path / "after.mp4").read_bytes()
        assert film.films[4].episode_returns == after.episode_returns
        assert iio.improps(tmp_path / "0.mp4", plugin="pyav").shape[0] == film.films[0].frames

    def test_changes_nothing_in_what_is_learned(self, no_display, tmp_path):
        film = RecordVideo(tmp_path / "{iteration}.gif", "CartPole-v1", every=1, max_steps=5)
        filmed, history = fit([film])
        alone, other = fit([])
        assert len(film.films) == 5
        assert history.history == other.history
        for a, b in zip(filmed.model.get_weights(), alone.model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_of_a_q_network_its_values(self, no_display, tmp_path):
        model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), activation="relu", seed=0)
        agent = tfpg.DQN(model, learning_starts=64, steps_per_iteration=64)
        film = RecordVideo(
            tmp_path / "{iteration}.gif", "CartPole-v1", at=(1,), overlay=("bars", "epsilon")
        )
        agent.fit("CartPole-v1", 1, callbacks=[film], seed=0, verbose=0)
        assert list(film.films) == [1]

    def test_one_that_fails_is_a_warning_and_training_goes_on(self, no_display, tmp_path):
        def broken():
            class Broken(Countdown):
                def render(self):
                    raise ValueError("no picture today")

            return Broken(render_mode="rgb_array")

        film = RecordVideo(tmp_path / "{iteration}.mp4", broken, at=(2,))
        with pytest.warns(UserWarning, match="No film of iteration 2, and training goes on: .*"):
            _, history = fit([film])
        assert len(history.epoch) == 4
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_a_full_disk_is_a_warning_and_leaves_nothing(self, no_display, tmp_path):
        code = """
import resource, signal, sys, warnings
warnings.simplefilter("always")
import tfpg
from tfpg.callbacks import RecordVideo
model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
film = RecordVideo(sys.argv[1] + "/{iteration}.gif", "CartPole-v1", at=(1,), overlay=True)
agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=20)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
history = agent.fit("CartPole-v1", 3, callbacks=[film], seed=0, verbose=0)
print(len(history.epoch), film.films)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
        )
        assert done.stdout.splitlines()[-1:] == ["3 {}"], done.stderr[-2000:]
        assert "No film of iteration 1, and training goes on: Cannot write" in done.stderr
        assert list(tmp_path.iterdir()) == []
