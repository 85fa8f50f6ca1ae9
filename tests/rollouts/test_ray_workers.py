"""Training with Ray workers equals training without them, whatever happens to the workers."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import gymnasium
import keras
import numpy as np
import psutil
import pytest
from marks import slow_but
from remote_envs import Cloud, Counts, Faulty, Light, Random, Warns, WithoutTensorFlow

import tfpg
from tfpg import RayWorkers
from tfpg.checkpoints.store import Store
from tfpg.errors import EnvDataError, EnvError, EnvWorkerDied
from tfpg.rollouts.remote import Host, Request, Share
from tfpg.schedules import linear

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'tfpg[ray]'")

quiet = pytest.mark.filterwarnings("ignore:The process of environment")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Ray, started once for most tests."""
    from tfpg.rollouts.ray_workers import connected

    with connected(RayWorkers(6)):
        yield


def ppo(env, **options):
    model = tfpg.networks.actor_critic(env, hidden=(16,), seed=0)
    return tfpg.PPO(model, **{"num_envs": 5, "num_steps": 32, "minibatches": 2, **options})


def reinforce(env, **options):
    model = tfpg.networks.mlp(env, hidden=(16,), seed=0)
    return tfpg.Reinforce(model, **{"episodes_per_update": 8, "num_envs": 5, **options})


def dqn(env, **options):
    model = tfpg.networks.mlp(env, hidden=(16,), seed=0)
    small = {"num_envs": 4, "learning_starts": 64, "steps_per_iteration": 64}
    return tfpg.DQN(model, **{**small, **options})


def pqn(env):
    model = tfpg.networks.mlp(env, hidden=(16, 16), layer_norm=True, seed=0)
    small = {"num_envs": 10, "num_steps": 16, "minibatches": 2, "jit_compile": False}
    return tfpg.PQN(model, epsilon=linear(1.0, 0.1, 400), **small)


AGENTS = {
    "ppo": (ppo, "Acrobot-v1"),
    "reinforce": (reinforce, "Pendulum-v1"),
    "dqn": (dqn, "Acrobot-v1"),
    "pqn": (pqn, "Acrobot-v1"),
}


def digest(agent):
    found = hashlib.sha256()
    for weights in agent.model.get_weights():
        found.update(np.ascontiguousarray(weights).tobytes())
    return found.hexdigest()


def train(build, env, workers, iterations=3, **options):
    agent = build(env)
    history = agent.fit(env, iterations, seed=3, verbose=0, workers=workers, **options)
    return digest(agent), history.history


@pytest.mark.parametrize("name", slow_but(["ppo"], AGENTS))
def test_the_weights_do_not_depend_on_the_number_of_workers(name):
    build, env = AGENTS[name]
    expected = train(build, env, None)
    for workers in (1, 2, 5):
        assert train(build, env, RayWorkers(workers)) == expected
    assert train(build, env, 2) == expected


@pytest.mark.slow
def test_workers_play_while_dqn_learns():
    """With the weights from before the updates, so that the result does not depend on timing."""
    overlapping, in_turn = (partial(dqn, overlap=x, epsilon=0.1) for x in (True, False))
    expected = train(overlapping, "Acrobot-v1", None)
    assert train(overlapping, "Acrobot-v1", RayWorkers(2)) == expected
    assert train(in_turn, "Acrobot-v1", None) != expected


@pytest.mark.slow
def test_cartpole_equals_environments_that_are_made_one_by_one():
    make = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
    assert train(ppo, "CartPole-v1", RayWorkers(3)) == train(ppo, make, None)


def convolutional():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 1))
    y = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(x)))
    return keras.Model(x, [layers.Dense(2)(y), layers.Dense(1)(y)])


@pytest.mark.slow
def test_models_that_act_in_tensorflow_act_in_the_workers():
    results = []
    for workers in (None, RayWorkers(2)):
        agent = tfpg.PPO(convolutional(), num_envs=4, num_steps=16, minibatches=2)
        history = agent.fit(Cloud, 2, seed=3, verbose=0, workers=workers)
        assert agent.policy.acting == "tensorflow"
        results.append((agent.model.get_weights(), history.history["episode_return"]))
    assert results[0][1] == results[1][1]
    for a, b in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_workers_do_not_import_tensorflow():
    with pytest.raises(EnvError, match="AssertionError"):
        train(ppo, WithoutTensorFlow, None, 1)
    train(ppo, WithoutTensorFlow, RayWorkers(2), 1)


def kill_workers(times, stop, killed):
    """Kill workers, one after another, until ``times`` are killed or ``stop`` is set."""
    rng = random.Random()
    while len(killed) < times and not stop.wait(rng.uniform(0.1, 0.4)):
        children = psutil.Process().children(recursive=True)
        workers = [x for x in children if x.name().startswith("ray::Worker")]
        if workers:
            process = rng.choice(workers)
            process.kill()
            killed.append(process.pid)


@quiet
@pytest.mark.parametrize(
    ("name", "times"), slow_but([("ppo", 2)], [("ppo", 2), ("ppo", 20), ("reinforce", 20)])
)
def test_killed_workers_do_not_change_the_result(name, times):
    build, env = AGENTS[name]
    expected = train(build, env, None, 10 * times)
    stop, killed = threading.Event(), []
    thread = threading.Thread(target=kill_workers, args=(times, stop, killed))
    thread.start()
    try:
        while thread.is_alive():
            assert train(build, env, RayWorkers(3), 10 * times) == expected
    finally:
        stop.set()
        thread.join()
    assert len(killed) == times


def test_an_exception_is_reported_with_its_place(tmp_path):
    with pytest.raises(EnvError, match="in step 3 of its episode .* no torque") as caught:
        train(ppo, partial(Faulty, tmp_path, "raises", always=True), RayWorkers(2))
    assert caught.value.env == 0
    assert "in step\n" in str(caught.value.__cause__)


def test_a_number_that_is_not_finite_is_reported_with_its_place(tmp_path):
    with pytest.raises(EnvDataError, match="a reward of nan in step 3"):
        train(ppo, partial(Faulty, tmp_path, "nan", always=True), RayWorkers(2))


@pytest.mark.filterwarnings("ignore:.*Its episode is")
@pytest.mark.parametrize("on_env_error", ["restart", "drop"])
def test_episodes_that_failed_are_played_again_or_left_out(tmp_path, on_env_error):
    found = []
    for i, workers in enumerate((None, RayWorkers(2, on_env_error=on_env_error))):
        (tmp_path / str(i)).mkdir()
        env = partial(Faulty, tmp_path / str(i), "raises", at=4)
        if workers is None:
            env = tfpg.envs.make_vec(env, 5, on_env_error=on_env_error)
        # The environments of one process fail one after the other, so the first to fail differs.
        found.append(reinforce(Light).fit(env, 2, seed=3, verbose=0, workers=workers))
    lengths = [each.history["episode_length"] for each in found]
    assert lengths[0] == lengths[1] == [7, 7]


def host_of(env):
    return Host(lambda first, size: tfpg.envs.make_vec(env, size, first_index=first))


def request(**fields):
    given = {"share": Share(3, 2), "total": 5, "seed": 0, "begun": 0, "number": 0, "state": None}
    return Request(**{**given, "method": "steps", "arguments": (0, 8), **fields})


def test_a_worker_names_environments_by_their_index_in_the_run(tmp_path):
    actor = ppo(Light).policy_for(Light).actor()
    answer = host_of(partial(Faulty, tmp_path, "nan", always=True)).answer(request(), actor)
    assert isinstance(answer.result, EnvDataError)
    assert answer.result.env == 3


def test_a_worker_does_not_begin_from_scratch_in_the_middle_of_a_run():
    answer = host_of(Light).answer(request(number=1), ppo(Light).policy_for(Light).actor())
    assert "needs the state before it" in str(answer.result)


@pytest.mark.slow
def test_an_environment_that_does_not_let_threads_run_is_replaced(tmp_path):
    expected = train(ppo, Light, None)
    with pytest.warns(UserWarning, match="died: it crashed, was killed"):
        found = train(ppo, partial(Faulty, tmp_path, "blocks"), RayWorkers(2, timeout=1.0))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_an_own_state_of_environments_is_used(tmp_path, timeout):
    workers = RayWorkers(2, timeout=timeout)
    expected = train(ppo, Counts, None, 4)
    train(ppo, Counts, workers, 2, checkpoints=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(ppo, Counts, workers, 4, checkpoints=tmp_path) == expected


@pytest.mark.slow
def test_atari_games_can_be_played_with_a_timeout():
    pytest.importorskip("ale_py")
    model = tfpg.networks.nature_cnn("ALE/Pong-v5", hidden=8, seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=2, max_steps=4, baseline="mean")
    workers = RayWorkers(2, timeout=30.0)
    history = agent.fit("ALE/Pong-v5", 1, seed=0, verbose=0, workers=workers)
    assert history.history["env_steps"] == [8]


@pytest.mark.slow
def test_workers_without_an_episode_of_their_own(tmp_path):
    few = partial(reinforce, episodes_per_update=3)
    expected = train(few, "Pendulum-v1", None, 3)
    train(few, "Pendulum-v1", RayWorkers(2), 2, checkpoints=tmp_path)
    assert train(few, "Pendulum-v1", RayWorkers(2), 3, checkpoints=tmp_path) == expected


def test_a_hanging_environment_is_reported_and_replaced(tmp_path):
    expected = train(ppo, Light, RayWorkers(2))
    with pytest.warns(UserWarning, match="did not respond within 1 s") as caught:
        found = train(ppo, partial(Faulty, tmp_path, "hangs"), RayWorkers(2, timeout=1.0))
    assert found == expected
    (text,) = [str(x.message) for x in caught if "did not respond" in str(x.message)]
    assert "(step 3 of its episode, seed " in text
    assert f" on {os.uname().nodename} " in text


@quiet
def test_a_worker_that_dies_again_and_again_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tfpg.rollouts.ray_workers.MAX_FAILURES", 1)
    with pytest.raises(EnvWorkerDied, match="died: it crashed, was killed, or ran out") as caught:
        train(ppo, partial(Faulty, tmp_path, "dies", always=True), RayWorkers(2))
    assert caught.value.envs in ([0, 1, 2], [3, 4])


def test_warnings_of_environments_are_shown_once():
    with pytest.warns(UserWarning, match="The torque is low") as caught:
        train(ppo, Warns, RayWorkers(2))
    assert len([x for x in caught if "torque" in str(x.message)]) == 1


@pytest.mark.parametrize(("before", "after"), slow_but([(2, 3)], [(2, 3), (None, 2), (5, None)]))
@pytest.mark.parametrize("name", slow_but(["ppo"], list(AGENTS)))
def test_a_run_resumes_with_another_number_of_workers(tmp_path, name, before, after):
    build, env = AGENTS[name]
    workers = lambda n: n and RayWorkers(n)  # noqa: E731
    expected = train(build, env, None, 4)
    train(build, env, workers(before), 2, checkpoints=tmp_path)
    assert train(build, env, workers(after), 4, checkpoints=tmp_path) == expected


def test_environments_that_are_not_deterministic_begin_a_new_episode(tmp_path):
    env = partial(Random, tmp_path)
    agent = ppo(env, num_steps=4)
    with pytest.warns(UserWarning, match="died: it crashed"):
        agent.fit(env, 5, seed=0, verbose=0, workers=RayWorkers(2))


def test_what_workers_cannot_play_in_is_refused():
    with gymnasium.make("Acrobot-v1") as env, pytest.raises(TypeError, match="make their own"):
        ppo("Acrobot-v1").fit(env, 1, workers=RayWorkers(2))
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to a worker process"):
        ppo("Acrobot-v1").fit(
            lambda: lock and gymnasium.make("Acrobot-v1"), 1, workers=RayWorkers(2)
        )
    with pytest.raises(TypeError, match="must be a number of processes or tfpg.RayWorkers"):
        ppo("Acrobot-v1").fit("Acrobot-v1", 1, workers="two")
    with pytest.raises(ValueError, match="num_workers must be"):
        RayWorkers(0)


PROGRAM = """
import sys, time, tfpg
model = tfpg.networks.mlp("Acrobot-v1", hidden=(8,), seed=0)
agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=50)
print("begin", flush=True)
workers = tfpg.RayWorkers(2)
agent.fit({env}, {iterations}, seed=0, verbose=0, workers=workers, checkpoints={folder!r})
"""


@pytest.fixture
def short_folder():
    """A folder whose path is short enough for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        (Path(folder) / "tmp").mkdir()
        yield Path(folder)


def start(folder, env='"Acrobot-v1"', iterations=2):
    program = PROGRAM.format(env=env, iterations=iterations, folder=str(folder / "saved"))
    # Not in a terminal's group, so that Ctrl-C is for the program alone.
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_checkpoint(folder):
    deadline = time.monotonic() + 180
    while not list(folder.glob("saved/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)


def resumed_from(folder):
    """The iteration of the newest checkpoint."""
    store = Store(folder / "saved")
    return store.load().header["iteration"]


def left_by(process):
    """Processes of a program's session, sockets and shared memory, after a moment."""
    deadline = time.monotonic() + 10
    while found := [x.name() for x in psutil.process_iter() if belongs(x, process.pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return found


def belongs(process, session):
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("end", ["success", "error", "ctrl-c", "terminated"])
def test_nothing_is_left_of_a_cluster(short_folder, end):
    shared = set(os.listdir("/dev/shm"))
    env = "lambda: 1 / 0" if end == "error" else '"Acrobot-v1"'
    process = start(short_folder, env, 10**6 if end in ("ctrl-c", "terminated") else 2)
    if end in ("ctrl-c", "terminated"):
        wait_for_checkpoint(short_folder)
        process.send_signal(signal.SIGINT if end == "ctrl-c" else signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    codes = {"success": 0, "error": 1, "ctrl-c": -signal.SIGINT, "terminated": 143}
    assert process.returncode == codes[end], errors
    assert left_by(process) == []
    assert list((short_folder / "tmp").iterdir()) == []
    assert set(os.listdir("/dev/shm")) <= shared


def test_ray_is_optional(tmp_path):
    program = "import sys; sys.modules['ray'] = None\n" + PROGRAM.format(
        env='"Acrobot-v1"', iterations=1, folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: RayWorkers needs Ray: pip install 'tfpg[ray]'" in done.stderr


@pytest.mark.slow
def test_a_killed_program_resumes_with_another_number_of_workers(short_folder):
    process = start(short_folder, iterations=10**6)
    wait_for_checkpoint(short_folder)
    process.kill()
    process.wait()
    # Ray's agents end later.
    assert {x for x in left_by(process) if not x.endswith("Agent")} == set()
    done = resumed_from(short_folder)
    found = []
    for options in ({}, {"workers": RayWorkers(3), "checkpoints": short_folder / "saved"}):
        model = tfpg.networks.mlp("Acrobot-v1", hidden=(8,), seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=50)
        agent.fit("Acrobot-v1", done + 3, seed=0, verbose=0, **options)
        found.append(digest(agent))
    assert found[0] == found[1]


CLUSTER = """
import json, psutil, sys, threading, time, tfpg
from ray.cluster_utils import Cluster
from tfpg.checkpoints.store import Store

sys.path[:0] = {tests!r}
from test_ray_workers import digest, ppo

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
first, second = (cluster.add_node(num_cpus=2) for _ in range(2))
agent = ppo("Acrobot-v1")

def replace_node():
    time.sleep(4)
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(num_cpus=2)

def kill_head():
    while not Store({folder!r}).steps():
        time.sleep(0.1)
    for process in psutil.Process().children(recursive=True):
        if process.name() == "gcs_server":
            process.kill()

threading.Thread(target={what}).start()
workers = tfpg.RayWorkers(4, address=cluster.address)
agent.fit(
    "Acrobot-v1", {iterations}, seed=3, verbose=0, workers=workers, checkpoints={folder!r}
)
print(json.dumps(digest(agent)))
cluster.shutdown()
"""


def run_cluster(folder, what, iterations):
    here, saved = Path(__file__).parent, str(folder / "saved")
    tests = [str(here), str(here.parent)]
    program = CLUSTER.format(tests=tests, what=what, iterations=iterations, folder=saved)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_a_node_that_is_removed_and_another_one_do_not_change_the_result(short_folder):
    expected, _ = train(ppo, "Acrobot-v1", None, 300)
    done = run_cluster(short_folder, "replace_node", 300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert "Another worker repeats the request" in done.stderr


@pytest.mark.slow
def test_a_lost_head_ends_the_training_with_a_checkpoint(short_folder):
    done = run_cluster(short_folder, "kill_head", 10**6)
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if "ClusterLostError: " in x]
    assert "is lost. Start a cluster, and resume the training from its last checkpoint." in line
    assert resumed_from(short_folder) > 0
