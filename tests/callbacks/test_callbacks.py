"""Stock Keras callbacks, unmodified."""

import csv

import keras
import numpy as np
import pytest

import tfpg
from tfpg.callbacks.progress_bar import ProgressBar, resolve_verbose
from tfpg.callbacks.stopping import StopAtSteps

callbacks = keras.callbacks
KEYS = {"episode_return", "episode_length", "env_steps", "loss", "policy_loss", "entropy"}
KEYS |= {"grad_norm"}


def fit(cbs=(), iterations=4, seed=0, model=None, **options):
    model = model or tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=4)
    options = {"verbose": 0, **options}
    history = agent.fit("CartPole-v1", iterations, callbacks=cbs, seed=seed, **options)
    return model, history


class Override(callbacks.Callback):
    """Writes chosen returns into the logs, for the callbacks after it."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns

    def on_epoch_end(self, epoch, logs=None):
        logs["episode_return"] = self.returns[epoch]


def test_history_has_a_number_for_every_iteration():
    model, history = fit(iterations=3)
    assert isinstance(history, callbacks.History)
    assert set(history.history) == KEYS
    assert all(len(values) == 3 for values in history.history.values())
    assert history.epoch == [0, 1, 2]
    assert model.history is history


def test_callbacks_get_the_users_model_and_the_order_of_keras():
    seen = []

    class Spy(callbacks.Callback):
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

    model, _ = fit(Spy(), iterations=2)
    one = [("epoch", 0), ("batch", 0, KEYS), ("epoch end", 0, KEYS)]
    two = [("epoch", 1), ("batch", 0, KEYS), ("epoch end", 1, KEYS)]
    assert seen == [("begin", model, 2), *one, *two, ("end", KEYS)]


def test_model_checkpoint_keeps_the_best(tmp_path):
    path = tmp_path / "best.keras"
    weights = {}

    class Keep(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights[epoch] = self.model.get_weights()

    checkpoint = callbacks.ModelCheckpoint(
        path, monitor="episode_return", mode="max", save_best_only=True
    )
    fit([Override([10, 30, 20, 25]), Keep(), checkpoint])
    for a, b in zip(tfpg.load_model(path).get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_keep_best_saves_the_weights_that_played(tmp_path):
    from tfpg.callbacks.best import KeepBest

    before = {}

    class Keep(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            before[epoch] = self.model.get_weights()

    keep = KeepBest(tmp_path / "best.keras")
    model, _ = fit([Override([10, 30, 20, 25]), Keep(), keep])
    assert keep.best == 30
    for a, b in zip(tfpg.load_model(keep.path).get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(a, b)
    plain, _ = fit()
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # training is not disturbed


def test_early_stopping_stops_and_restores():
    stopping = callbacks.EarlyStopping(
        monitor="episode_return", mode="max", patience=2, restore_best_weights=True
    )
    weights = {}

    class Keep(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights[epoch] = self.model.get_weights()

    model, history = fit([Override([10, 30, 20, 25, 90]), Keep(), stopping], iterations=5)
    assert history.epoch == [0, 1, 2, 3]
    assert fit(iterations=2, model=model)[1].epoch == [0, 1]  # a stopped model can go on
    model.set_weights(weights[1])
    for a, b in zip(model.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_csv_logger_writes_a_row_an_iteration(tmp_path):
    path = tmp_path / "log.csv"
    _, history = fit(callbacks.CSVLogger(path), iterations=3)
    rows = list(csv.DictReader(path.open()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for key in KEYS:
        values = [float(row[key]) for row in rows]
        np.testing.assert_allclose(values, history.history[key])


@pytest.mark.slow
def test_reduce_lr_on_plateau_reaches_the_compiled_update():
    plateau = callbacks.ReduceLROnPlateau(
        monitor="episode_return", mode="max", patience=1, factor=0.5, min_lr=0
    )
    model, history = fit([Override([10, 9, 9, 9]), plateau])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 / 8)
    np.testing.assert_allclose(history.history["learning_rate"], [0.01, 0.01, 0.005, 0.0025])
    # And the smaller rates were what the updates used.
    plain, _ = fit(iterations=4)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert not np.array_equal(a, b)


def test_learning_rate_scheduler_reaches_the_compiled_update():
    def weights(rate):
        scheduler = callbacks.LearningRateScheduler(lambda epoch, _: rate if epoch else 0.01)
        return np.concatenate([w.ravel() for w in fit(scheduler, 2)[0].get_weights()])

    once = np.concatenate([w.ravel() for w in fit(iterations=1)[0].get_weights()])
    np.testing.assert_array_equal(weights(0.0), once)
    assert not np.array_equal(weights(0.01), once)


def test_tensorboard_writes_its_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(callbacks.TensorBoard(tmp_path), iterations=3)
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert "epoch_episode_return" in events.Tags()["tensors"]
    assert len(events.Tensors("epoch_episode_return")) == 3


def test_a_budget_of_steps_counts_from_where_training_began():
    from toys import Countdown

    agent = tfpg.Reinforce(tfpg.networks.mlp(Countdown), episodes_per_update=10)
    for budget, steps in ((100, 90), (200, 180), (205, 210)):
        agent.fit(Countdown, 99, callbacks=[StopAtSteps(budget)], seed=0, verbose=0)
        assert agent.env_steps == steps


def test_terminate_on_nan_and_lambda_callbacks():
    class Spoil(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            logs["loss"] = np.nan

    assert fit([callbacks.TerminateOnNaN()], iterations=2)[1].epoch == [0, 1]
    assert fit([Spoil(), callbacks.TerminateOnNaN()], iterations=4)[1].epoch == [0]
    epochs = []
    fit(callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch)), 2)
    assert epochs == [0, 1]


def test_backup_and_restore_goes_on_where_a_run_broke_off(tmp_path):
    class Break(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    whole, _ = fit(iterations=4)
    with pytest.raises(RuntimeError, match="power cut"):
        fit([callbacks.BackupAndRestore(tmp_path / "backup"), Break()], iterations=4)
    model, history = fit(callbacks.BackupAndRestore(tmp_path / "backup"), iterations=4)
    assert history.epoch == [2, 3]
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_verbose_two_prints_a_line_for_every_iteration(capsys):
    fit(iterations=3, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1/3 - episode_return: ")
    for key in KEYS:
        assert f" {key}: " in lines[2]


def test_verbose_one_draws_one_keras_bar(capsys):
    fit(iterations=3, verbose=1)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    last = out.rsplit("\r", 1)[-1]
    assert "3/3" in last
    for key in ("return", "length", "env_steps", "loss", "entropy"):
        assert f" {key}: " in last


def test_a_log_that_appears_only_sometimes_does_not_stop_the_bar():
    class Sometimes(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch % 2 == 0:
                logs["val_episode_return"] = 1.0

    for verbose in (1, 2):
        fit(Sometimes(), iterations=3, verbose=verbose)


def test_verbose_zero_is_silent(capsys):
    fit(iterations=1, verbose=0)
    assert capsys.readouterr().out == ""


def test_the_users_own_progress_bar_is_the_only_one(capsys):
    fit([callbacks.ProgbarLogger()], iterations=2, verbose=1)
    assert capsys.readouterr().out.count("Epoch") == 2


def test_auto_is_a_line_where_there_is_no_terminal():
    assert resolve_verbose("auto") == 2
    with pytest.raises(ValueError, match="verbose must be"):
        resolve_verbose(3)
    assert ProgressBar().verbose == 1
