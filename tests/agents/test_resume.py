"""A training that resumes in new objects equals one that never stopped, to the bit."""

import itertools
import os
import shutil
import warnings

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from masked import reporting
from small import SMALL, every_checkpoint, q_network, small_sac

import tfpg
from tfpg.callbacks.best import KeepBest
from tfpg.callbacks.diagnostics import Diagnostics
from tfpg.callbacks.metrics import MetricsLogger
from tfpg.callbacks.stopping import StopAtReturn, StopAtSteps
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.serialization import pack
from tfpg.checkpoints.store import Store, read_file
from tfpg.envs import make_vec, open_vec
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.env_state import running_statistics
from tfpg.schedules import linear


class Noisy(gymnasium.Env):
    """Observes the step and random noise; an episode has 5 to 11 steps.

    Args:
        named: Whether observations are dicts.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, named=False):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.named = named
        self.observation_space = (
            spaces.Dict({"x": box, "last": spaces.Discrete(2)}) if named else box
        )

    def observe(self, action=0):
        x = np.array([self.t / 10, self.np_random.normal()], np.float32)
        return {"x": x, "last": int(action)} if self.named else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(5, 12))
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        reward = float(self.np_random.normal() + action)
        return self.observe(action), reward, self.t >= self.length, False, {}


class Frames(Noisy):
    """Observes a stack of three frames of one pixel, the newest last."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 255, (1, 1, 3), np.uint8)

    def observe(self, action=0):
        if not self.t:
            self.frames = [0, 0, 0]
        self.frames = [*self.frames[1:], int(self.np_random.integers(1, 255))]
        return np.array(self.frames, np.uint8)[None, None]


class Changing(Noisy):
    """Observes noise that does not depend on the seed, so it is never the same twice."""

    count = itertools.count()

    def observe(self, action=0):
        return np.array([self.t / 10, next(self.count) % 997 / 100], np.float32)


class HigherReward(Noisy):
    """Observes the same as its parent, with other rewards."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + 0.125, *rest


def mlp(env, **options):
    return tfpg.networks.mlp(env, hidden=(8,), seed=0, **options)


def actor_critic(env, **options):
    return tfpg.networks.actor_critic(env, hidden=(8,), seed=0, **options)


def critic(env):
    return tfpg.networks.critic(env, hidden=(8,), seed=1)


def reinforce(env, **options):
    model = mlp(env, normalize=options.pop("normalize", False))
    return tfpg.Reinforce(model, **{"episodes_per_update": 4, "max_steps": 30, **options})


def with_value(env):
    return reinforce(env, normalize=True, value_model=critic(env), value_updates=2)


def a2c(env, **options):
    return tfpg.A2C(actor_critic(env, **options), num_envs=3, num_steps=7, jit_compile=False)


def ppo(env, **options):
    options = {"num_envs": 3, "num_steps": 9, "epochs": 2, "minibatches": 2, **options}
    model = actor_critic(env, normalize=True)
    return tfpg.PPO(model, reward_scale="auto", jit_compile=False, **options)


def free_log_std(env):
    """An agent with three optimizers: of the model, of its free log-std, and of a value model."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    return tfpg.PPO(
        model, value_model=critic(env), num_envs=3, num_steps=9, minibatches=2, jit_compile=False
    )


def dqn(env, **options):
    model = options.pop("model", None) or mlp(env, activation="relu")
    return tfpg.DQN(model, **{**SMALL, "num_envs": 2, "capacity": 400, **options})


def c51(env):
    model = tfpg.networks.dueling(env, hidden=(8,), atoms=5, seed=0)
    return tfpg.C51(model, v_max=100.0, **{**SMALL, "num_envs": 2, "prioritized": True})


def rainbow(env):
    model = tfpg.networks.dueling(env, hidden=(8,), atoms=5, noisy=True, seed=0)
    return tfpg.Rainbow(model, v_max=100.0, **{**SMALL, "num_envs": 2, "explore_steps": 3})


def pqn(env):
    model = tfpg.networks.mlp(env, hidden=(8,), layer_norm=True, normalize=True, seed=0)
    options = {"num_envs": 3, "num_steps": 9, "minibatches": 2, "jit_compile": False}
    return tfpg.PQN(model, epsilon=linear(1.0, 0.1, 150), reward_scale="auto", **options)


def recurrent(env):
    model = tfpg.networks.recurrent(env, units=6, hidden=(8,), cell="lstm", seed=0)
    options = {"num_envs": 3, "num_steps": 8, "sequence_length": 4, "minibatches": 2}
    return tfpg.PPO(model, jit_compile=False, **options)


def recurrent_reinforce(env):
    model = tfpg.networks.recurrent(env, units=6, hidden=(8,), seed=0)
    options = {"episodes_per_update": 4, "num_envs": 2, "max_steps": 30}
    return tfpg.Reinforce(model, baseline="value", **options)


def frames(env):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = [keras.Input((1, 1, 3), dtype="uint8"), layers.Flatten(), layers.Rescaling(1 / 255)]
    model = keras.Sequential([*model, layers.Dense(2)])
    return dqn(env, model=model, frame_stack=3, prioritized=True, capacity=300)


def pong(env):
    model = tfpg.networks.nature_cnn(env, hidden=16, seed=0)
    return dqn(env, model=model, capacity=300, max_steps=30, batch_size=4, learning_starts=40)


def sac(env):
    return small_sac(env, num_envs=2, capacity=400, n_step=2, prioritized=True)


def sac_statistics(env):
    model = tfpg.networks.mlp(env, (8,), log_std=None, normalize=True, seed=0)
    critic = tfpg.networks.twin_critic(env, (8,), normalize=True, layer_norm=True, seed=1)
    return tfpg.SAC(model, critic=critic, **{**SMALL, "target_update_period": None})


MIXED = {"prioritized": True, "n_step": 3, "priority_beta": lambda n: min(n / 400, 1)}
MIXED |= {"tau": 0.05, "target_update_period": None}

CASES = {
    "reinforce": (reinforce, "CartPole-v1"),
    "reinforce-value": (with_value, "CartPole-v1"),
    "reinforce-dict": (reinforce, lambda: Noisy(named=True)),
    "a2c": (a2c, "CartPole-v1"),
    "ppo": (ppo, Noisy),
    "ppo-cut": (lambda env: ppo(env, max_steps=13), "CartPole-v1"),
    "ppo-log-std": (free_log_std, "Pendulum-v1"),
    "ppo-dict": (ppo, lambda: Noisy(named=True)),
    "dqn": (dqn, "CartPole-v1"),
    "c51": (c51, "CartPole-v1"),
    "rainbow": (rainbow, "CartPole-v1"),
    "pqn": (pqn, "CartPole-v1"),
    "pqn-cut": (pqn, Noisy),
    "sac": (sac, "Pendulum-v1"),
    "sac-statistics": (sac_statistics, "Pendulum-v1"),
    "dqn-mixed": (lambda env: dqn(env, **MIXED), "Acrobot-v1"),
    "dqn-ring": (lambda env: dqn(env, capacity=60, n_step=2), Noisy),
    "dqn-overlap": (lambda env: dqn(env, overlap=True), "CartPole-v1"),
    "dqn-frames": (frames, Frames),
    "dqn-dict": (dqn, lambda: Noisy(named=True)),
    "ppo-masks": (ppo, lambda: reporting("infos")),
    "dqn-masks": (dqn, lambda: reporting("method")),
    "recurrent": (recurrent, "CartPole-v1"),
    "recurrent-reinforce": (recurrent_reinforce, "CartPole-v1"),
    "recurrent-dict": (recurrent, lambda: Noisy(named=True)),
    "pong": (pong, "ALE/Pong-v5"),
    "workers": (dqn, "workers"),
}


@keras.saving.register_keras_serializable("test_resume")
class RandomNoise(keras.layers.Layer):
    """Adds noise of its own generator, whose seed is a variable but not a weight."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(7)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.1, seed=self.generator)


def random_layer(env):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((4,)), dense(8, "tanh"), RandomNoise(), dense(2)])
    return tfpg.Reinforce(model, episodes_per_update=4, max_steps=30)


CASES["reinforce-random-layer"] = random_layer, "CartPole-v1"


def outcome(agent, history, log=None):
    """Return everything a training has changed, as bytes."""
    state = agent.get_state()
    for group in state["variables"].values():
        del group["names"]  # they differ from process to process
    if agent.replay is not None:
        state |= {"replay": agent.replay.get_state(), "rows": agent.replay.rows_since()}
    found = {"state": state, "history": history.history, "epoch": history.epoch}
    return b"".join(pack(found)), log and log.read_bytes()


def train(build, env, folder, iterations, checkpoints=None, callbacks=(), **options):
    """Train with new objects, which resume if there is a checkpoint."""
    folder.mkdir(exist_ok=True)
    envs = make_vec("Acrobot-v1", 2, workers=2) if env == "workers" else env
    try:
        agent = build("Acrobot-v1" if env == "workers" else env)
        log = MetricsLogger(folder / "metrics.csv")
        history = agent.fit(
            envs,
            iterations,
            seed=5,
            verbose=0,
            callbacks=[log, *callbacks],
            checkpoints=checkpoints,
            **options,
        )
    finally:
        if env == "workers":
            envs.close()
    return agent, history


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", slow_but(["reinforce", "ppo", "dqn-mixed", "sac"], CASES))
def test_a_training_in_three_parts_equals_one_in_one_part(tmp_path, name):
    build, env = CASES[name]
    agent, history = train(build, env, tmp_path / "whole", 6)
    whole = outcome(agent, history, tmp_path / "whole/metrics.csv")
    parts = tmp_path / "parts"
    for iterations in (3, 4, 6):
        agent, history = train(build, env, parts, iterations, checkpoints=parts / "saved")
    assert outcome(agent, history, parts / "metrics.csv") == whole
    assert len(history.epoch) == 6
    if name == "dqn-ring":
        assert (agent.replay.written > 3 * agent.replay.rows).all()


class ScheduleWithoutConfig(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01 * 0.5 ** keras.ops.cast(step, "float32")


class LayerWithoutConfig(keras.layers.Layer):
    def __init__(self, scale, **options):
        super().__init__(**options)
        self.scale = scale

    def call(self, x):
        return self.scale(x)


def test_layers_and_schedules_without_a_config_can_resume(tmp_path):
    dense = keras.layers.Dense
    for checkpoints, iterations in ((None, 1), (tmp_path, 1), (tmp_path, 2)):
        inner = keras.layers.TimeDistributed(LayerWithoutConfig(lambda x: 2.0 * x))
        layers = [keras.Input((4,)), keras.layers.Reshape((4, 1)), inner]
        model = keras.Sequential([*layers, keras.layers.Flatten(), dense(2)])
        model.compile(keras.optimizers.Adam(ScheduleWithoutConfig()))
        agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=30)
        history = agent.fit("CartPole-v1", iterations, seed=0, verbose=0, checkpoints=checkpoints)
        assert len(history.epoch) == iterations


@pytest.mark.slow
def test_swap_ema_weights_resumes(tmp_path):
    """Averages replace the weights after each epoch, and are swapped back before the next."""

    class Interrupts(keras.callbacks.Callback):
        at = None

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.at:
                raise KeyboardInterrupt

    def trained(folder, **options):
        model = mlp("CartPole-v1")
        model.compile(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
        return train(
            lambda env: tfpg.Reinforce(model, episodes_per_update=4, max_steps=30),
            *("CartPole-v1", folder, 5),
            callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True), Interrupts()],
            **options,
        )

    whole = outcome(*trained(tmp_path / "whole"))
    parts = tmp_path / "parts"
    for Interrupts.at in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(parts, checkpoints=every_checkpoint(parts / "saved"))
    Interrupts.at = None
    assert outcome(*trained(parts, checkpoints=parts / "saved")) == whole


class Logs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs |= {"large": 2**60 + 1 + epoch, "mixed": epoch + 0.5 if epoch else 0}
        logs |= {"text": f"epoch {epoch}", "none": None, "array": np.array([epoch, 1.0])}


def test_logs_of_any_type_resume(tmp_path):
    logged = []
    for folder, parts in (("whole", [4]), ("parts", [2, 4])):
        for iterations in parts:
            history = reinforce(Noisy).fit(
                *(Noisy, iterations),
                seed=0,
                verbose=0,
                callbacks=[Logs()],
                checkpoints=tmp_path / folder,
            )
        logged.append({name: list(map(repr, x)) for name, x in history.history.items()})
    assert logged[0] == logged[1]
    assert len(logged[0]["text"]) == 4


class Stateful(keras.callbacks.Callback):
    """A user's callback, which changes an array in place."""

    def __init__(self):
        super().__init__()
        self.sums, self.seen = np.zeros(3), []

    def get_state(self):
        return {"sums": self.sums, "seen": self.seen}

    def set_state(self, state):
        self.sums, self.seen = state["sums"], state["seen"]

    def on_epoch_end(self, epoch, logs=None):
        self.sums += logs["loss"]
        self.seen.append(epoch)


class Stateless(keras.callbacks.Callback):
    """A callback without get_state, which starts from scratch."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_resumed_training_says_so_and_restores_callbacks_with_a_state(tmp_path, capsys):
    for iterations, verbose in ((2, 2), (3, 0), (4, 2)):
        stateful, stateless = Stateful(), Stateless()
        reinforce(Noisy).fit(
            *(Noisy, iterations),
            seed=0,
            verbose=verbose,
            callbacks=[stateful, stateless],
            checkpoints=tmp_path,
        )
        printed = capsys.readouterr().out
        assert ("Resuming after iteration 3, at " in printed) == (iterations == 4)
        assert printed == "" or verbose
    assert stateful.seen == [0, 1, 2, 3]
    assert stateless.epochs == [3]


def all_callbacks(folder):
    best = {"monitor": "loss", "mode": "min"}
    return {
        "own": Stateful(),
        "stop": keras.callbacks.EarlyStopping(**best, patience=6, restore_best_weights=True),
        "plateau": keras.callbacks.ReduceLROnPlateau(**best, patience=2, factor=0.5, cooldown=1),
        "rate": keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        "files": keras.callbacks.ModelCheckpoint(
            folder / "best-{epoch}.keras", **best, save_best_only=True
        ),
        "often": keras.callbacks.ModelCheckpoint(
            folder / "often-{epoch}.weights.h5", save_weights_only=True, save_freq=3
        ),
        "keep": KeepBest(folder / "keep.keras"),
        "steps": StopAtSteps(1000),
        "look": Diagnostics(folder / "look.png", "CartPole-v1", every=3, episodes=2, max_steps=9),
    }


def carried(callbacks):
    """Return what callbacks carry."""
    names = {
        "stop": ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
        "plateau": ("wait", "best", "cooldown_counter"),
        "files": ("best",),
    }
    return {
        name: each.get_state()
        if hasattr(each, "get_state")
        else {attribute: getattr(each, attribute) for attribute in names.get(name, ())}
        for name, each in callbacks.items()
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_keras_callbacks_and_those_of_tfpg_resume(tmp_path):
    found = {}
    for name, parts in (("whole", (30,)), ("parts", (2, 5, 30))):
        folder = tmp_path / name
        folder.mkdir()
        for iterations in parts:
            callbacks = all_callbacks(folder)
            checkpoints = folder / "saved" if name == "parts" else None
            agent, history = train(
                reinforce, "CartPole-v1", folder, iterations, checkpoints, callbacks.values()
            )
        files = sorted(path.name for path in folder.glob("*.*"))
        found[name] = b"".join(pack(carried(callbacks))), outcome(agent, history), files
        keep = tfpg.load_model(folder / "keep.keras").get_weights()
        assert all(map(np.array_equal, keep, callbacks["keep"].get_state()["weights"]))
    assert found["whole"] == found["parts"]
    assert 6 < len(history.epoch) < 30  # one of them stopped it
    assert callbacks["own"].seen == history.epoch
    assert len(callbacks["look"].measured) > 2


class TestTheSameCallAgain:
    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("target", [None, 1.0])
    def test_a_finished_training_is_left_alone(self, tmp_path, target):
        """It finished by its number of iterations, or a callback stopped it."""

        def go():
            stop = [] if target is None else [StopAtReturn(target)]
            number = 3 if target is None else 50
            return train(reinforce, "CartPole-v1", tmp_path, number, tmp_path / "saved", stop)

        first = outcome(*go(), tmp_path / "metrics.csv")
        files = {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in (tmp_path / "saved").rglob("*.*")
        }
        agent, history = go()
        assert outcome(agent, history, tmp_path / "metrics.csv") == first
        assert len(history.epoch) == (3 if target is None else 1)
        for path, before in files.items():
            assert (path.stat().st_mtime_ns, path.read_bytes()) == before

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_the_same_objects_can_resume(self, tmp_path):
        agent, log = reinforce("CartPole-v1"), MetricsLogger(tmp_path / "metrics.csv")
        for iterations in (2, 4):
            options = {"callbacks": [log], "checkpoints": tmp_path / "saved", "verbose": 0}
            history = agent.fit("CartPole-v1", iterations, seed=5, **options)
        other = train(reinforce, "CartPole-v1", tmp_path / "whole", 4)
        assert outcome(agent, history) == outcome(*other)
        whole = (tmp_path / "whole/metrics.csv").read_bytes()
        assert (tmp_path / "metrics.csv").read_bytes() == whole

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_a_new_folder_gets_the_whole_replay(self, tmp_path):
        agent = dqn(Noisy)
        for folder, first in (("a", 0), ("b", 2)):
            agent.fit(
                Noisy,
                first + 2,
                seed=5,
                verbose=0,
                initial_iteration=first,
                checkpoints=tmp_path / folder,
            )
        shutil.rmtree(tmp_path / "a")
        other = dqn(Noisy)
        other.fit(Noisy, 4, seed=5, verbose=0, checkpoints=tmp_path / "b")
        states = (pack(each.replay.rows_since()) for each in (agent, other))
        assert b"".join(next(states)) == b"".join(next(states))

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_checkpoints_every_three_iterations_and_the_last(self, tmp_path):
        for iterations in (4, 8):
            checkpoints = Checkpoints(tmp_path / "saved", every_iterations=3, keep=9)
            train(reinforce, "CartPole-v1", tmp_path, iterations, checkpoints)
        found = [
            read_file(path)[0]["iteration"] for path in (tmp_path / "saved").glob("step-*.ckpt")
        ]
        assert sorted(found) == [3, 4, 6, 8]
        train(reinforce, "CartPole-v1", tmp_path, 9, Checkpoints(tmp_path / "saved", keep=1))
        assert len(Store(tmp_path / "saved").steps()) == 1

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_a_schedule_that_is_a_function_can_resume(self, tmp_path):
        for iterations in (1, 2):
            agent = dqn(Noisy, epsilon=lambda n: 0.3)
            agent.fit(Noisy, iterations, seed=5, verbose=0, checkpoints=tmp_path)
        assert agent.get_config()["epsilon"].startswith("<function")


class Fails(keras.callbacks.Callback):
    """Raises in the middle of an iteration."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        if self.at is not None and len(self.model.history.epoch) == self.at:
            raise ZeroDivisionError("in the middle")


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", slow_but(["dqn-ring"], ["dqn-ring", "reinforce", "ppo"]))
def test_resuming_after_an_error_in_the_middle_of_an_iteration(tmp_path, name):
    build, env = CASES[name]
    parts = tmp_path / "parts"
    for at in (2, 3):
        with pytest.raises(ZeroDivisionError):
            every = every_checkpoint(parts / "saved")
            train(build, env, parts, 5, every, [Fails(at)])
        assert Store(parts / "saved").load().header["iteration"] == at
    ended = train(build, env, parts, 5, parts / "saved", [Fails(None)])
    whole = train(build, env, tmp_path / "whole", 5, callbacks=[Fails(None)])
    logs = parts / "metrics.csv", tmp_path / "whole/metrics.csv"
    assert outcome(*ended, logs[0]) == outcome(*whole, logs[1])


@pytest.mark.filterwarnings("error::UserWarning")
def test_resuming_from_the_checkpoint_before_a_broken_one(tmp_path):
    whole = outcome(*train(reinforce, "CartPole-v1", tmp_path, 5), tmp_path / "metrics.csv")
    train(reinforce, "CartPole-v1", tmp_path, 4, every_checkpoint(tmp_path / "saved"))
    newest = max((tmp_path / "saved").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]))
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="expected .* bytes .* found .*. Resuming from"):
        ended = train(reinforce, "CartPole-v1", tmp_path, 5, tmp_path / "saved")
    assert outcome(*ended, tmp_path / "metrics.csv") == whole


def with_sgd(_):
    model = mlp("CartPole-v1")
    model.compile(keras.optimizers.SGD(0.01))
    return tfpg.Reinforce(model, episodes_per_update=4, max_steps=30)


def wider(env):
    model = tfpg.networks.mlp(env, hidden=(9,), seed=0)
    return tfpg.Reinforce(model, episodes_per_update=4, max_steps=30)


def deeper(env):
    model = tfpg.networks.mlp(env, hidden=(8, 8), seed=0)
    return tfpg.Reinforce(model, episodes_per_update=4, max_steps=30)


def compiled(model, **options):
    optimizer = tfpg.Reinforce.default_optimizer()
    model.compile(optimizer.from_config({**optimizer.get_config(), **options}))
    return model


FOUR = {"episodes_per_update": 4, "max_steps": 30}

OTHERS = {
    "seed": (reinforce, "CartPole-v1", {"seed": 6}, "has seed 5, but here it is 6"),
    "gamma": (
        lambda env: reinforce(env, gamma=0.5),
        *("CartPole-v1", {}, "has gamma 0.99, but here it is 0.5"),
    ),
    "episodes": (
        lambda env: reinforce(env, episodes_per_update=5, num_envs=4),
        *("CartPole-v1", {}, "has episodes_per_update 4, but here it is 5"),
    ),
    "head": (
        lambda env: reinforce(env, from_logits=True),
        *("CartPole-v1", {}, "has from_logits None, but here it is True"),
    ),
    "agent": (
        lambda env: tfpg.A2C(actor_critic(env), num_envs=4),
        *("CartPole-v1", {}, "has agent Reinforce, but here it is A2C"),
    ),
    "environment": (
        *(reinforce, "Acrobot-v1", {}),
        r"has observation_space Box\(.*\(4,\), float32\), but here it is Box\(.*\(6,\)",
    ),
    "callbacks": (
        *(reinforce, "CartPole-v1", {"callbacks": [StopAtSteps(10**6)]}),
        "callbacks MetricsLogger, History, but here are MetricsLogger, StopAtSteps, History",
    ),
    "wider": (wider, "CartPole-v1", {}, r"different model: its .* \[4, 8\], .* of shape \[4, 9\]"),
    "deeper": (deeper, "CartPole-v1", {}, "different model"),
    "optimizer": (with_sgd, "CartPole-v1", {}, "different optimizer: it has .* variables, but"),
    "activation": (
        lambda env: tfpg.Reinforce(mlp(env, activation="relu"), **FOUR),
        *("CartPole-v1", {}, r"has layer 1 Dense \(\w+\), but here it is Dense \("),
    ),
    "momentum": (
        lambda env: tfpg.Reinforce(compiled(mlp(env), beta_1=0.5), **FOUR),
        *("CartPole-v1", {}, "has optimizer beta_1 0.9, but here it is 0.5"),
    ),
    "value": (
        lambda env: reinforce(env, value_model=critic(env)),
        *("CartPole-v1", {}, "has baseline step, but here it is value"),
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    train(reinforce, "CartPole-v1", folder, 2, folder / "saved")
    with (folder / "metrics.csv").open("a") as file:  # it was killed while writing
        file.write("2,9.0,")
    return folder


@pytest.mark.parametrize("what", OTHERS)
def test_a_different_training_is_refused_and_changes_nothing(saved, what):
    build, env, options, message = OTHERS[what]
    agent = build(env)
    before = agent.model.get_weights()
    files = {path: path.read_bytes() for path in saved.rglob("*.*") if path.is_file()}
    more = options.pop("callbacks", [])
    options = {"seed": None, "callbacks": [MetricsLogger(saved / "metrics.csv"), *more], **options}
    with pytest.raises(ValueError, match=message):
        agent.fit(env, 4, verbose=0, checkpoints=saved / "saved", **options)
    assert all(map(np.array_equal, agent.model.get_weights(), before))
    assert {path: path.read_bytes() for path in saved.rglob("*.*") if path.is_file()} == files


class Rows(Noisy):
    """Takes the next row of its table at every reset; its reward depends on it."""

    row = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row = (self.row + 1) % 97
        return self.observe(), {}

    def observe(self, action=0):
        return np.array([self.row / 10, self.np_random.normal()], np.float32)


class Harder(Noisy):
    """Rewards decrease with all steps that it ever made."""

    total = 0

    def step(self, action):
        self.total += 1
        x, reward, *rest = super().step(action)
        return x, reward - self.total / 100, *rest


class Draws(Noisy):
    """Draws from a generator of its own, which no seed resets, in the middle of an episode."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(3)

    def observe(self, action=0):
        drawn = self.rng.normal() if self.t == 2 else 0.0
        return np.array([self.t / 10, drawn], np.float32)


def with_state(env):
    """The class of an environment, with all of its state in get_state and set_state."""

    class WithState(env):
        def get_state(self):
            return {
                **{
                    name: getattr(self, name)
                    for name in ("t", "length", "row", "total")
                    if hasattr(self, name)
                },
                "rng": self.rng.bit_generator.state if hasattr(self, "rng") else None,
            }

        def set_state(self, state):
            for name in {*state} - {"rng"}:
                setattr(self, name, state[name])
            if state["rng"]:
                self.rng.bit_generator.state = state["rng"]

    return WithState


@pytest.mark.parametrize("env", [Rows, Harder, Draws])
class TestEnvironmentsWhoseStateOutlivesEpisodes:
    @pytest.mark.parametrize("build", [reinforce, a2c])
    def test_a_warning_says_that_they_cannot_be_restored(self, tmp_path, env, build):
        train(build, env, tmp_path, 2, tmp_path / "saved")
        with pytest.warns(UserWarning, match=r"give the environment get_state\(\) and set_state"):
            train(build, env, tmp_path, 3, tmp_path / "saved")

    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("limit", [None, 7])
    @pytest.mark.parametrize("name", ["reinforce", "ppo", "dqn"])
    def test_their_own_state_is_restored(self, tmp_path, env, name, limit):
        def make():
            made = with_state(env)()
            return made if limit is None else gymnasium.wrappers.TimeLimit(made, limit)

        build = CASES[name][0]
        agent, history = train(build, make, tmp_path / "whole", 4)
        whole = outcome(agent, history)
        for iterations in (1, 3, 4):
            agent, history = train(build, make, tmp_path, iterations, tmp_path / "saved")
        assert outcome(agent, history) == whole

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_it_is_restored_with_action_masks(self, tmp_path, env):
        class Masked(with_state(env)):
            def action_masks(self):
                return np.ones(self.action_space.n, bool)

        agent, history = train(reinforce, Masked, tmp_path / "whole", 4)
        whole = outcome(agent, history)
        for iterations in (2, 4):
            agent, history = train(reinforce, Masked, tmp_path, iterations, tmp_path / "saved")
        assert outcome(agent, history) == whole


class Stumbles(Noisy):
    """Fails once, in the second step of an episode."""

    failed = False

    def step(self, action):
        if self.t == 1 and not Stumbles.failed:
            Stumbles.failed = True
            raise RuntimeError("out of order")
        return super().step(action)


class Empty(Noisy):
    """Observes an array without numbers as well."""

    def __init__(self):
        super().__init__()
        nothing = spaces.Box(0, 1, (0,), np.float32)
        self.observation_space = spaces.Dict(x=self.observation_space, nothing=nothing)

    def observe(self, action=0):
        return {"x": super().observe(), "nothing": np.zeros(0, np.float32)}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("env", "num_envs", "episodes"), [(Noisy, 4, 6), (Noisy, 1, 3), (Noisy, 3, 2), (Empty, 2, 2)]
)
def test_whole_episodes_are_repeated_with_the_same_returns(env, num_envs, episodes):
    policy = Policy(mlp(env), env)
    with open_vec(env, num_envs) as envs:
        collector = Collector(envs, seed=0)
        collector.follow()
        collector.collect_episodes(policy, episodes)
        state = collector.get_state()
    with open_vec(env, num_envs) as envs:
        assert not Collector(envs, seed=0).set_state(state).any()


@pytest.mark.parametrize("mode", ["restart", "drop"])
def test_whole_episodes_after_a_failure_are_repeated_with_the_same_returns(mode, monkeypatch):
    monkeypatch.setattr(Stumbles, "failed", False)
    policy = Policy(mlp(Noisy), Noisy)
    with open_vec(Stumbles, 2, on_env_error=mode) as envs:
        collector = Collector(envs, seed=0)
        collector.follow()
        with pytest.warns(UserWarning, match="out of order"):
            collector.collect_episodes(policy, 2)
        state = collector.get_state()
    with open_vec(Noisy, 2, on_env_error=mode) as envs:
        assert not Collector(envs, seed=0).set_state(state).any()


@pytest.mark.parametrize(
    "get_state", [lambda env: object(), lambda env: env.missing, lambda env, needed: {}]
)
def test_a_get_state_that_cannot_be_used_is_a_warning_and_loses_nothing(tmp_path, get_state):
    env = type("Unusable", (Noisy,), {"get_state": get_state, "set_state": lambda env, x: None})
    with pytest.warns(UserWarning, match=r"do not use the environment's get_state\(\)"):
        agent, history = train(a2c, env, tmp_path, 2, tmp_path / "saved")
    agent, history = train(a2c, Noisy, tmp_path / "whole", 3)
    whole = outcome(agent, history)
    with pytest.warns(UserWarning, match="get_state"):
        agent, history = train(a2c, env, tmp_path, 3, tmp_path / "saved")
    assert outcome(agent, history) == whole


class Glimpse(Noisy):
    """Observes something by chance in the middle of an episode, and forgets it."""

    def __init__(self, size=2):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observe(self, action=0):
        x = np.zeros(self.observation_space.shape, np.float32)
        if self.t == 2:
            x[:] = int.from_bytes(os.urandom(3))
        return x


@pytest.mark.parametrize("size", [2, 5000, 100_000])
def test_differences_that_can_no_longer_be_seen_are_found(size):
    policy = Policy(mlp(lambda: Glimpse(size)), lambda: Glimpse(size))
    with open_vec(lambda: Glimpse(size), 3) as envs:
        collector = Collector(envs, seed=0)
        collector.follow()
        collector.collect_steps(policy, 4)
        state = collector.get_state()
    with open_vec(lambda: Glimpse(size), 3) as envs:
        assert Collector(envs, seed=0).set_state(state).all()


class TestEnvironmentsThatCannotBeRestored:
    @pytest.mark.parametrize("name", slow_but(["ppo"], ["ppo", "dqn"]))
    def test_environments_that_are_not_deterministic(self, tmp_path, name):
        build = CASES[name][0]
        train(build, Changing, tmp_path, 3, tmp_path / "saved")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, history = train(build, Changing, tmp_path, 5, tmp_path / "saved")
        (warning,) = caught
        assert "environments could not be restored, because the same seeds" in str(warning.message)
        assert warning.filename == __file__
        assert len(history.epoch) == 5

    @pytest.mark.parametrize("workers", slow_but([None], [None, 2]))
    def test_environments_with_other_rewards(self, workers):
        """Their observations are the same."""
        policy = Policy(mlp(Noisy), Noisy)
        with open_vec(Noisy, 3, workers=workers) as envs:
            collector = Collector(envs, seed=0)
            collector.follow()
            collector.collect_steps(policy, 9)
            state = collector.get_state()
        assert (state["player"]["lengths"] > 0).any()
        with open_vec(Noisy, 3, workers=workers) as envs:
            assert not Collector(envs, seed=0).set_state(state).any()
        with open_vec(HigherReward, 3, workers=workers) as envs:
            restarted = Collector(envs, seed=0).set_state(state)
        np.testing.assert_array_equal(restarted, state["player"]["lengths"] > 0)

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_running_statistics_of_a_wrapper_are_a_warning(self, tmp_path):
        wrapped = lambda: gymnasium.wrappers.NormalizeReward(Noisy())  # noqa: E731
        with pytest.warns(
            UserWarning, match="do not hold the running statistics of NormalizeReward"
        ):
            a2c(Noisy).fit(wrapped, 1, seed=5, verbose=0, checkpoints=tmp_path)
        a2c(Noisy).fit(wrapped, 1, seed=5, verbose=0)

    @pytest.mark.slow
    def test_running_statistics_of_wrappers_in_other_processes_are_found(self):
        make = lambda: gymnasium.wrappers.NormalizeObservation(gymnasium.make("Acrobot-v1"))  # noqa: E731
        for envs in (make_vec(make, 2, workers=2), gymnasium.vector.AsyncVectorEnv([make] * 2)):
            assert running_statistics(envs) == ["NormalizeObservation"]
            envs.close()
        with open_vec("Acrobot-v1", 2, workers=2) as envs:
            assert running_statistics(envs) == []

    def test_environments_that_cannot_be_stepped_one_by_one(self):
        def envs():
            vector = SyncVectorEnv([Noisy] * 4, autoreset_mode=AutoresetMode.DISABLED)
            return open_vec(gymnasium.wrappers.vector.RecordEpisodeStatistics(vector))

        policy = Policy(mlp(Noisy), Noisy)
        for steps in range(20, 45, 3):
            with envs() as first, envs() as second:
                collector, other = Collector(first, seed=0), Collector(second, seed=0)
                collector.follow()
                collector.collect_steps(policy, steps)
                assert not other.set_state(collector.get_state()).any()
                np.testing.assert_array_equal(
                    other.player.progress.observations, collector.player.progress.observations
                )

    def test_environments_that_reset_themselves(self, tmp_path):
        for mode, iterations in ((AutoresetMode.NEXT_STEP, 2), (AutoresetMode.NEXT_STEP, 4)):
            envs = SyncVectorEnv([Noisy] * 3, autoreset_mode=mode)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                agent = a2c(Noisy)
                history = agent.fit(envs, iterations, seed=5, verbose=0, checkpoints=tmp_path)
            assert len(history.epoch) == iterations
        (warning,) = caught
        assert "3 of 3 environments could not be restored" in str(warning.message)

    def test_the_other_environments_are_restored(self):
        """Only one of the environments is not deterministic."""

        def envs():
            return open_vec(
                SyncVectorEnv([Noisy, Changing, Noisy], autoreset_mode=AutoresetMode.DISABLED)
            )

        policy = Policy(mlp(Noisy), Noisy)
        with envs() as first, envs() as second:
            collector, other = Collector(first, seed=0), Collector(second, seed=0)
            collector.follow()
            collector.collect_steps(policy, 4)
            state = collector.get_state()
            seen = collector.player.progress.observations
            assert other.set_state(state).tolist() == [False, True, False]
            np.testing.assert_array_equal(other.player.progress.observations[::2], seen[::2])
            assert other.player.progress.observations[1, 0] == 0.0  # a reset
            assert (other.player.progress.lengths == [4, 0, 4]).all()
            one, two = (each.collect_steps(policy, 3) for each in (collector, other))
            for column in (0, 2):
                np.testing.assert_array_equal(
                    one.observations[:4, column], two.observations[:4, column]
                )


def test_the_log_holds_each_row_of_a_replay_once(tmp_path):
    agent = dqn(Noisy, model=q_network(2), capacity=5000)
    agent.fit(Noisy, 6, seed=0, verbose=0, checkpoints=tmp_path)
    log = sum(path.stat().st_size for path in (tmp_path / "log").iterdir())
    row = 8 + 4 + 4 + 3
    assert log < 1.5 * row * agent.replay.written.sum() + 7 * 1500


def test_a_second_training_in_the_same_folder_is_refused(tmp_path):
    class Second(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                with pytest.raises(BlockingIOError, match="Another run is writing to"):
                    train(reinforce, "CartPole-v1", tmp_path / "b", 3, tmp_path / "saved")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(reinforce, "CartPole-v1", tmp_path / "a", 3, tmp_path / "saved", [Second()])
    assert Store(tmp_path / "saved").load().header["iteration"] == 3


def test_a_training_that_fails_before_it_begins_leaves_no_folder(tmp_path):
    agent = tfpg.DQN(tfpg.networks.mlp("CartPole-v1", seed=0), learn_period=3)
    with pytest.raises(ValueError, match="learn_period"):
        agent.fit("CartPole-v1", 1, seed=0, verbose=0, checkpoints=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("first", [True, False])
def test_environments_that_are_vectorized_in_another_way_are_refused(tmp_path, first):
    """Gymnasium's vectorized CartPole differs from several single ones."""
    for own in (first, not first):
        with open_vec("CartPole-v1", 3, manual_resets=not own) as envs:
            agent = ppo("CartPole-v1")
            if own == first:
                agent.fit(envs, 1, seed=5, verbose=0, checkpoints=tmp_path)
                continue
            with pytest.raises(ValueError, match="in a different way: pass the same num_env"):
                agent.fit(envs, 2, seed=5, verbose=0, checkpoints=tmp_path)
