"""Every callback of Keras, and what it does in `fit`."""

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import keras
import numpy as np
import pytest
from small import ALGORITHMS, flat_weights, small_agent, small_model

import tfpg
from tfpg.models import networks

stock = keras.callbacks


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


class Tried:
    """A training of four iterations with one callback."""

    def __init__(self, algorithm, callback, iterations=4, **compiled):
        model = small_model(algorithm)
        model.compile(keras.optimizers.Adam(0.01, **compiled))
        self.agent = small_agent(algorithm, model=model)
        self.start = flat_weights(model)
        self.history = self.agent.fit(
            "CartPole-v1",
            iterations,
            seed=0,
            verbose=0,
            callbacks=[callback],
            validation_envs="CartPole-v1",
            validation_freq=1,
            validation_episodes=2,
        )
        self.epochs = self.history.epoch

    @property
    def rate(self):
        return float(self.agent.model.optimizer.learning_rate)


def backup_and_restore(algorithm, folder):
    """Removes its backup after a training that ends well."""
    assert Tried(algorithm, stock.BackupAndRestore(folder / "backup")).epochs == [0, 1, 2, 3]
    assert not list(folder.rglob("*.h5"))


def csv_logger(algorithm, folder):
    """Writes the logs that the first iteration has."""
    tried = Tried(algorithm, stock.CSVLogger(folder / "logs.csv"))
    rows = list(csv.DictReader((folder / "logs.csv").open()))
    assert [int(row["epoch"]) for row in rows] == tried.epochs
    assert [float(row["loss"]) for row in rows] == pytest.approx(tried.history.history["loss"])
    assert float(rows[-1]["val_episode_return"]) > 0


def early_stopping(algorithm, folder):
    """Stops, and restores the best weights."""
    stop = stock.EarlyStopping("val_episode_return", mode="max", min_delta=1e9, patience=2)
    assert Tried(algorithm, stop).epochs == [0, 1, 2]


def history(algorithm, folder):
    """Is filled in addition to the one that `fit` returns."""
    own = stock.History()
    assert own.history == Tried(algorithm, own).history.history == own.history


def lambda_callback(algorithm, folder):
    """Calls its functions in Keras's order."""
    calls = []
    names = ("train_begin", "epoch_begin", "train_batch_begin", "train_batch_end", "epoch_end")
    functions = {
        f"on_{name}": lambda *args, name=name, **kwargs: calls.append(name)
        for name in (*names, "train_end")
    }
    Tried(algorithm, stock.LambdaCallback(**functions), iterations=2)
    assert calls == ["train_begin", *names[1:], *names[1:], "train_end"]


def learning_rate_scheduler(algorithm, folder):
    """Sets the learning rate of the model's optimizer, which is logged."""
    tried = Tried(algorithm, stock.LearningRateScheduler(lambda epoch, rate: rate / 2))
    assert tried.rate == pytest.approx(0.01 / 16)
    assert tried.history.history["learning_rate"] == pytest.approx(0.01 / 2 ** np.arange(1, 5))


def model_checkpoint(algorithm, folder):
    """Saves a model in each epoch whose logs have what its file name needs."""
    Tried(algorithm, stock.ModelCheckpoint(folder / "{epoch}-{val_episode_return:.0f}.keras"))
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["1", "2", "3", "4"]
    assert len(tfpg.load_model(next(folder.iterdir())).layers) > 1


def orbax_checkpoint(algorithm, folder):
    """Raises an error that names the package it needs."""
    try:
        import orbax.checkpoint  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
            stock.OrbaxCheckpoint(folder)
    else:
        Tried(algorithm, stock.OrbaxCheckpoint(folder / "orbax"))
        assert list((folder / "orbax").iterdir())


def progbar_logger(algorithm, folder):
    """Takes the place of tfpg's progress bar."""
    assert len(Tried(algorithm, stock.ProgbarLogger()).epochs) == 4


def reduce_lr_on_plateau(algorithm, folder):
    """Lowers the learning rate of the model's optimizer."""
    options = {"monitor": "val_episode_return", "mode": "max", "min_delta": 1e9}
    tried = Tried(algorithm, stock.ReduceLROnPlateau(**options, factor=0.5, patience=1))
    assert tried.rate == pytest.approx(0.01 / 8)


def remote_monitor(algorithm, folder):
    """Sends the logs of each epoch."""
    pytest.importorskip("requests")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.received = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monitor = stock.RemoteMonitor(f"http://127.0.0.1:{server.server_port}", send_as_json=True)
        Tried(algorithm, monitor)
        server.shutdown()
    assert [json.loads(each)["epoch"] for each in server.received] == [0, 1, 2, 3]


def swap_ema_weights(algorithm, folder):
    """Validates with the averaged weights."""
    seen = {}

    class Spy(stock.SwapEMAWeights):
        def on_test_begin(self, logs=None):
            super().on_test_begin(logs)
            seen["validated"] = flat_weights(self.model)

    tried = Tried(algorithm, Spy(swap_on_epoch=False), use_ema=True, ema_momentum=0.9)
    assert len(tried.epochs) == 4
    assert (seen["validated"] != tried.start).any()


def tensor_board(algorithm, folder):
    """Writes the logs of each epoch."""
    Tried(algorithm, stock.TensorBoard(folder / "board", write_graph=False))
    assert list((folder / "board").rglob("events.*"))


def terminate_on_nan(algorithm, folder):
    """Has nothing to do: `fit` itself raises an error for NaN."""
    assert len(Tried(algorithm, stock.TerminateOnNaN()).epochs) == 4


CALLBACKS = {
    "BackupAndRestore": backup_and_restore,
    "CSVLogger": csv_logger,
    "EarlyStopping": early_stopping,
    "History": history,
    "LambdaCallback": lambda_callback,
    "LearningRateScheduler": learning_rate_scheduler,
    "ModelCheckpoint": model_checkpoint,
    "OrbaxCheckpoint": orbax_checkpoint,
    "ProgbarLogger": progbar_logger,
    "ReduceLROnPlateau": reduce_lr_on_plateau,
    "RemoteMonitor": remote_monitor,
    "SwapEMAWeights": swap_ema_weights,
    "TensorBoard": tensor_board,
    "TerminateOnNaN": terminate_on_nan,
}


def test_every_callback_of_keras_is_here():
    public = {name for name in dir(stock) if name[0].isupper()}
    assert public - {"Callback", "CallbackList"} == set(CALLBACKS)


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("algorithm", [tfpg.Reinforce, tfpg.PPO])
def test_it_does_in_fit_what_it_does_in_keras(name, algorithm, tmp_path):
    CALLBACKS[name](algorithm, tmp_path)


@pytest.mark.parametrize("algorithm", [tfpg.A2C, tfpg.PPO])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("{epoch}-{episode_return:.1f}", {}),
        ("{episode_length}", {"monitor": "episode_return", "mode": "max", "save_best_only": True}),
        ("{epoch:02d}-{episode_return}", {"save_weights_only": True}),
        ("{epoch}-{batch}-{episode_return}", {"save_freq": 1}),
    ],
)
def test_model_checkpoint_waits_for_the_first_mean_return(algorithm, name, options, tmp_path):
    suffix = ".weights.h5" if options.get("save_weights_only") else ".keras"
    keep = stock.ModelCheckpoint(tmp_path / f"{name}{suffix}", **options)
    agent = small_agent(algorithm)
    with pytest.warns(UserWarning, match="ModelCheckpoint waits for 'episode_"):
        history = agent.fit("CartPole-v1", 30, seed=0, verbose=0, callbacks=[keep]).history
    known = len(history["episode_return"])
    assert 0 < known < 30
    saved = len(list(tmp_path.iterdir()))
    assert 0 < saved <= known if "save_best_only" in options else saved == known


def test_a_name_that_no_log_has_is_a_warning(tmp_path):
    keep = stock.ModelCheckpoint(tmp_path / "{val_loss}.keras")
    with pytest.warns(UserWarning, match="ModelCheckpoint waits for 'val_loss'"):
        small_agent(tfpg.Reinforce).fit("CartPole-v1", 2, seed=0, verbose=0, callbacks=[keep])


@pytest.mark.parametrize(
    "callback",
    [stock.LearningRateScheduler(lambda epoch: 0.1), stock.ReduceLROnPlateau("loss")],
    ids=lambda x: type(x).__name__,
)
def test_a_warning_says_that_the_value_model_keeps_its_learning_rate(callback):
    value_model = networks.critic("CartPole-v1", hidden=(4,))
    agent = small_agent(tfpg.PPO, model=small_model(tfpg.DQN), value_model=value_model)
    with pytest.warns(UserWarning, match="To change that of value_model too"):
        agent.fit("CartPole-v1", 1, seed=0, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_callbacks_without_a_value_model_are_not_warned_about(algorithm, recwarn):
    schedule = stock.LearningRateScheduler(lambda epoch: 0.1)
    small_agent(algorithm).fit("CartPole-v1", 1, seed=0, verbose=0, callbacks=[schedule])
    assert not [x for x in recwarn if "value_model" in str(x.message)]
