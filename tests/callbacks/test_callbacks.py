"""Stock Keras callbacks work unmodified, and so does the progress bar."""

import csv
import functools
import re

import keras
import numpy as np
import pytest
from small import (
    SMALL,
    AfterEachIteration,
    flat_weights,
    prepared,
    q_network,
    small_agent,
    small_sac,
)
from toys import Countdown

import tfpg
from tfpg.callbacks.best import KeepBest
from tfpg.callbacks.progress_bar import ProgressBar
from tfpg.callbacks.stopping import StopAtSteps
from tfpg.checkpoints.serialization import pack, unpack

callbacks = keras.callbacks
KEYS = {"episode_return", "episode_length", "env_steps", "loss", "policy_loss", "entropy"}
KEYS |= {"grad_norm"}
BEST_RETURN = {"monitor": "episode_return", "mode": "max"}


@functools.cache
def shared_agent():
    """An agent whose update is traced once for all tests, and its state before any training."""
    agent = prepared(small_agent(tfpg.Reinforce), "CartPole-v1")
    return agent, agent.get_state()


def fit(cbs=(), iterations=4, fresh=True, verbose=0):
    """Train the shared agent, from its first weights if ``fresh``.

    Returns:
        The weights after the training, and its `History`.
    """
    agent, start = shared_agent()
    if fresh:
        agent.set_state(start)
    history = agent.fit("CartPole-v1", iterations, callbacks=cbs, seed=0, verbose=verbose)
    return flat_weights(agent.model), history


def weights_after_each_iteration():
    return AfterEachIteration(lambda: flat_weights(shared_agent()[0].model))


class SetReturns(callbacks.Callback):
    """Writes chosen returns into the logs, for the callbacks after it."""

    def __init__(self, *returns):
        super().__init__()
        self.returns = returns

    def on_epoch_end(self, epoch, logs=None):
        logs["episode_return"] = self.returns[epoch]


class PowerCut(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise RuntimeError("power cut")


class TestKerasCallbacks:
    def test_history_has_a_number_for_every_iteration(self):
        _, history = fit(iterations=3)
        assert isinstance(history, callbacks.History)
        assert set(history.history) == KEYS
        assert all(len(values) == 3 for values in history.history.values())
        assert history.epoch == [0, 1, 2]
        assert shared_agent()[0].model.history is history

    def test_callbacks_get_the_users_model_and_are_called_in_the_order_of_keras(self):
        seen = []

        class Recorder(callbacks.Callback):
            def on_train_begin(self, logs=None):
                seen.append(("begin", self.model, self.params["epochs"]))

            def on_epoch_begin(self, epoch, logs=None):
                seen.append(("epoch", epoch))

            def on_train_batch_end(self, batch, logs=None):
                seen.append(("batch", batch, set(logs)))

            def on_epoch_end(self, epoch, logs=None):
                seen.append(("epoch end", epoch, set(logs)))

            def on_train_end(self, logs=None):
                seen.append(("end", set(logs)))

        fit(Recorder(), iterations=2)
        one = [("epoch", 0), ("batch", 0, KEYS), ("epoch end", 0, KEYS)]
        two = [("epoch", 1), ("batch", 0, KEYS), ("epoch end", 1, KEYS)]
        assert seen == [("begin", shared_agent()[0].model, 2), *one, *two, ("end", KEYS)]

    def test_model_checkpoint_saves_the_weights_after_the_update(self, tmp_path):
        path, weights = tmp_path / "best.keras", weights_after_each_iteration()
        checkpoint = callbacks.ModelCheckpoint(path, save_best_only=True, **BEST_RETURN)
        fit([SetReturns(10, 30, 20, 25), weights, checkpoint])
        np.testing.assert_array_equal(flat_weights(tfpg.load_model(path)), weights.values[1])

    def test_early_stopping_restores_the_best_weights_and_training_can_continue(self):
        weights = weights_after_each_iteration()
        stop = callbacks.EarlyStopping(patience=2, restore_best_weights=True, **BEST_RETURN)
        end, history = fit([SetReturns(10, 30, 20, 25, 90), weights, stop], iterations=5)
        assert history.epoch == [0, 1, 2, 3]
        np.testing.assert_array_equal(end, weights.values[1])
        assert fit(iterations=2, fresh=False)[1].epoch == [0, 1]

    def test_csv_logger_writes_a_row_for_every_iteration(self, tmp_path):
        path = tmp_path / "log.csv"
        _, history = fit(callbacks.CSVLogger(path), iterations=3)
        rows = list(csv.DictReader(path.open()))
        assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
        for key in KEYS:
            np.testing.assert_allclose([float(row[key]) for row in rows], history.history[key])

    def test_reduce_lr_on_plateau_reaches_the_compiled_update(self):
        plateau = callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_lr=0, **BEST_RETURN)
        weights, history = fit([SetReturns(10, 9, 9, 9), plateau])
        rate = shared_agent()[0].model.optimizer.learning_rate
        assert float(rate) == pytest.approx(0.01 / 8)
        np.testing.assert_allclose(history.history["learning_rate"], [0.01, 0.01, 0.005, 0.0025])
        assert not np.array_equal(weights, fit()[0])

    def test_learning_rate_scheduler_reaches_the_compiled_update(self):
        def weights(rate):
            schedule = lambda epoch, _: rate if epoch else 0.01  # noqa: E731
            return fit(callbacks.LearningRateScheduler(schedule), 2)[0]

        once = fit(iterations=1)[0]
        np.testing.assert_array_equal(weights(0.0), once)
        assert not np.array_equal(weights(0.01), once)

    def test_tensorboard_writes_its_scalars(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        fit(callbacks.TensorBoard(tmp_path), iterations=3)
        events = EventAccumulator(str(tmp_path / "train"))
        events.Reload()
        assert "epoch_episode_return" in events.Tags()["tensors"]
        assert len(events.Tensors("epoch_episode_return")) == 3

    def test_terminate_on_nan_stops_for_a_loss_of_nan(self):
        class Spoil(callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                logs["loss"] = np.nan

        assert fit([callbacks.TerminateOnNaN()], iterations=2)[1].epoch == [0, 1]
        assert fit([Spoil(), callbacks.TerminateOnNaN()], iterations=4)[1].epoch == [0]

    def test_lambda_callback(self):
        epochs = []
        fit(callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch)), 2)
        assert epochs == [0, 1]

    def test_backup_and_restore_continues_an_interrupted_training(self, tmp_path):
        whole, _ = fit()
        with pytest.raises(RuntimeError, match="power cut"):
            fit([callbacks.BackupAndRestore(tmp_path / "backup"), PowerCut()])
        weights, history = fit(callbacks.BackupAndRestore(tmp_path / "backup"))
        assert history.epoch == [2, 3]
        np.testing.assert_array_equal(weights, whole)


class TestOwnCallbacks:
    def test_keep_best_saves_the_weights_that_played_and_does_not_disturb(self, tmp_path):
        weights = weights_after_each_iteration()
        keep = KeepBest(tmp_path / "best.keras")
        end, _ = fit([SetReturns(10, 30, 20, 25), weights, keep])
        assert keep.best == 30
        # The weights after an iteration play the next one.
        np.testing.assert_array_equal(flat_weights(tfpg.load_model(keep.path)), weights.values[0])
        np.testing.assert_array_equal(end, fit()[0])

    def test_keep_best_saves_the_critic_of_the_same_moment(self, tmp_path):
        agent = small_sac(window=1)
        weights = AfterEachIteration(lambda: flat_weights(agent.critic))
        keep = KeepBest(tmp_path / "best.keras", agent.critic)
        cbs = [SetReturns(10, 30, 20), weights, keep]
        agent.fit("Pendulum-v1", 3, callbacks=cbs, seed=0, verbose=0)
        found = flat_weights(tfpg.load_model(tmp_path / "best.critic.keras"))
        np.testing.assert_array_equal(found, weights.values[0])
        np.testing.assert_array_equal(flat_weights(agent.critic), weights.values[2])
        keep.critic.set_weights([0 * w for w in keep.critic.get_weights()])
        again = KeepBest(tmp_path / "again.keras", agent.critic)
        again.set_model(agent.model)
        again.set_state(unpack(b"".join(pack(keep.get_state()))))
        again.write()
        found = flat_weights(tfpg.load_model(tmp_path / "again.critic.keras"))
        np.testing.assert_array_equal(found, weights.values[0])

    def test_a_budget_of_steps_counts_those_of_earlier_fits(self):
        agent = small_agent(tfpg.Reinforce, Countdown, episodes_per_update=10)
        for budget, steps in ((100, 90), (200, 180), (205, 210)):
            agent.fit(Countdown, 99, callbacks=[StopAtSteps(budget)], seed=0, verbose=0)
            assert agent.env_steps == steps

    def test_a_budget_of_steps_counts_the_warm_up_once(self):
        agent = tfpg.DQN(q_network(2), **{**SMALL, "learning_starts": 200})
        agent.fit(Countdown, 99, callbacks=[StopAtSteps(500)], seed=0, verbose=0)
        assert agent.env_steps == 200 + 4 * 64


class TestProgressBar:
    def test_verbose_two_prints_a_line_for_every_iteration(self, capsys):
        fit(iterations=3, verbose=2)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert re.match(r"1/3 \(33%(, \d:\d\d left)?\) - episode_return: ", lines[0])
        for key in KEYS:
            assert f" {key}: " in lines[2]

    @pytest.mark.parametrize("verbose", [1, 2])
    def test_a_log_may_be_missing_from_some_iterations(self, verbose):
        class Sometimes(callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch % 2 == 0:
                    logs["val_episode_return"] = 1.0

        fit(Sometimes(), iterations=3, verbose=verbose)

    def test_verbose_zero_is_silent(self, capsys):
        fit(iterations=1)
        assert capsys.readouterr().out == ""

    def test_the_users_own_progress_bar_is_the_only_one(self, capsys):
        fit([callbacks.ProgbarLogger()], iterations=2, verbose=1)
        assert capsys.readouterr().out.count("Epoch") == 2

    def test_other_values_are_errors(self):
        with pytest.raises(ValueError, match="verbose must be"):
            fit(verbose=3)

    def test_an_own_bar_takes_the_place_of_the_default(self, capsys):
        fit([ProgressBar()], iterations=2, verbose=2)
        assert capsys.readouterr().out.count("\n") == 2
