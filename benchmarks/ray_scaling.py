"""Predict the time of an iteration with many Ray workers, and test the prediction.

An iteration consists of playing, which takes as long with a thousand workers as with one if each
has a core, and of what your process does for each worker: send a request, receive the answer, and
learn from it. To
measure this with more workers than there are cores, the workers of this benchmark only pretend to
play: they sleep as long as playing would take, and return an answer that was recorded before. All
messages are real.

The time that is not spent playing or learning is fitted to measurements with a few workers:

    milliseconds = a + b * workers + c * MB received + d * large answers

where answers of more than 100 KB are large: Ray sends them through the object store.
The fit is tested with more workers, in a cluster of small nodes, and extrapolated to a thousand.
The workers and nodes share this computer's cores with your process, so with a core for each worker
the messages would take less time. The CPU time of your process's main thread, which is fitted too,
is a lower bound.

    python benchmarks/ray_scaling.py
    ./benchmarks/ray_hosts.sh 4 8 python benchmarks/ray_scaling.py --address auto --test 32
"""

import argparse
import pickle
import socket
import time
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil

import tfpg
from tfpg import RayWorkers
from tfpg.envs import make_vec
from tfpg.models.policy import Policy
from tfpg.rollouts import ray_workers
from tfpg.rollouts.remote import Answer, Host, RemoteCollector, Request, Share

TASKS = ["CartPole-v1", "HalfCheetah-v5", "ALE/Breakout-v5"]


class Task(NamedTuple):
    """What is measured once, without Ray."""

    name: str
    policy: Policy
    answer: Answer  # of one worker
    playing: float  # seconds per iteration
    learning: float  # seconds per iteration for the steps of each additional worker
    sent: float  # MB of weights to each node
    received: float  # MB from each worker


def trained(name: str, num_envs: int, num_steps: int):
    """Return an agent after a few iterations, and the median seconds of an update."""
    model = tfpg.networks.actor_critic(name, seed=0)
    agent = tfpg.PPO(model, num_envs=num_envs, num_steps=num_steps)
    times, update = [], agent.update

    def timed(data):
        start = time.perf_counter()
        logs = update(data)
        times.append(time.perf_counter() - start)
        return logs

    agent.update = timed
    agent.fit(name, iterations=4, seed=0, verbose=0)
    return agent, median(times[1:])


def measured(name: str, per_worker: int, num_steps: int) -> Task:
    """Play and learn as one worker does."""
    agent, learning = trained(name, per_worker, num_steps)
    more = 4  # times as many environments; some of the time does not depend on their number
    learning = (trained(name, more * per_worker, num_steps)[1] - learning) / (more - 1)
    policy = agent.trained_policy
    actor = policy.portable_actor(None)
    host = Host(lambda first, size: make_vec(name, size, manual_resets=True, first_index=first))
    answers = []
    for number in range(4):
        arguments = number, num_steps, None, False, True
        request = Request(Share(0, per_worker), per_worker, 0, 0, number, None, "steps", arguments)
        answers.append(host.answer(request, actor))
        if isinstance(answers[-1].result, Exception):
            raise answers[-1].result
    return Task(
        name,
        policy,
        answers[-1],
        median(each.seconds for each in answers[1:]),
        learning,
        len(pickle.dumps(actor)) / 1e6,
        len(pickle.dumps(answers[-1])) / 1e6,
    )


def pretender(reference, seconds: float):
    """A class that takes the place of `tfpg.rollouts.ray_workers.Worker`."""

    class Pretender:
        def __init__(self, *_):
            import ray

            self.answer_once = ray.get(reference)

        def host(self):
            return socket.gethostname()

        def answer(self, request, actor):
            time.sleep(seconds)
            fragment, first = self.answer_once.result, request.share.first
            played = fragment.played._replace(indices=fragment.played.indices + first)
            result = fragment._replace(played=played, envs=fragment.envs + first)
            return self.answer_once._replace(result=result, seconds=seconds)

    return Pretender


class Measurement(NamedTuple):
    """Medians per iteration."""

    rest: float  # ms that are not spent playing
    cpu: float  # ms of CPU time of the main thread
    wire: float  # MB that arrived from other hosts


def iteration(task: Task, workers: int, address: str | None, count: int) -> Measurement:
    """Measure iterations with workers that pretend to play."""
    import ray

    per_worker = len(task.answer.result.played.indices)
    steps = len(task.answer.result.played.data.mask)
    original = ray_workers.Worker
    ray_workers.Worker = pretender(ray.put(task.answer), task.playing)
    rows = []
    try:
        settings = RayWorkers(workers, address, cpus_per_worker=1.0)
        with settings.open(task.name, workers * per_worker) as envs:
            collector = RemoteCollector(envs, 0)
            for _ in range(count):
                before = time.perf_counter(), time.thread_time(), received()
                collector.collect_steps(task.policy, steps)
                after = time.perf_counter(), time.thread_time(), received()
                wall, cpu, wire = np.subtract(after, before)
                rows.append((1e3 * (wall - task.playing), 1e3 * cpu, wire / 1e6))
    finally:
        ray_workers.Worker = original
    return Measurement(*map(median, zip(*rows[1:], strict=True)))


def received() -> int:
    """Bytes that this computer has received, not from itself."""
    counters = psutil.net_io_counters(pernic=True)
    return sum(each.bytes_recv for name, each in counters.items() if name != "lo")


def features(workers: int, task: Task) -> list[float]:
    """What ``a``, ``b``, ``c`` and ``d`` are multiplied by."""
    return [1.0, workers, workers * task.received, workers * (task.received > 0.1)]


def fitted(rows: list[tuple[Task, int, Measurement]], name: str) -> np.ndarray:
    """Return the factors with the least relative errors of ``rest`` or ``cpu``."""
    x = np.array([features(workers, task) for task, workers, _ in rows])
    y = np.array([getattr(each, name) for *_, each in rows])
    return np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0]


def cluster_of(nodes: int, workers: int):
    """Start nodes on this computer, each with its own object store and scheduler."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 4 * 2**30}
    )
    for _ in range(nodes):
        cluster.add_node(num_cpus=-(-workers // nodes), object_store_memory=2**30)
    return cluster


def print_tasks(tasks: list[Task]) -> None:
    """Print what is measured without Ray."""
    print("environment       playing ms  learning ms  KB to each node  KB from each worker")
    for task in tasks:
        print(
            f"{task.name:16}{1e3 * task.playing:12.1f}{1e3 * task.learning:13.1f}"
            f"{1e3 * task.sent:17.1f}{1e3 * task.received:21.1f}"
        )


def print_test(tasks: list[Task], address: str, args) -> list[tuple[Task, int, Measurement]]:
    """Print the measurements, compared with what was fitted; return those to fit."""
    print(
        "\nenvironment      workers     rest ms   predicted  ratio  main thread ms  MB over network"
    )
    known: list[tuple[Task, int, Measurement]] = []
    for workers in [*args.workers, *args.test]:
        for task in tasks:
            row = iteration(task, workers, address, args.iterations)
            line = f"{task.name:16}{workers:8}{row.rest:12.1f}"
            if workers in args.test:
                predicted = float(fitted(known, "rest") @ features(workers, task))
                line += f"{predicted:12.1f}{predicted / row.rest:7.2f}"
            else:
                known.append((task, workers, row))
                line += " " * 19
            print(f"{line}{row.cpu:16.1f}{row.wire:17.1f}", flush=True)
    return known


def print_extrapolation(tasks: list[Task], known, args) -> None:
    """Print the parts of an iteration with many workers, in seconds."""
    bounds = {name: fitted(known, name) for name in ("rest", "cpu")}
    for name, (a, b, c, d) in bounds.items():
        print(f"\n{name} = {a:.2f} + {b:.3f} workers + {c:.3f} MB + {d:.3f} large answers", end="")
    count = args.extrapolate
    print(f"\n\nseconds per iteration with {count:,} workers")
    print("environment         playing   messages (bounds)   network  learning   GB received")
    for task in tasks:
        low, high = (bounds[name] @ features(count, task) / 1e3 for name in ("cpu", "rest"))
        megabytes = count * task.received
        print(
            f"{task.name:16}{task.playing:11.2f}{low:12.2f} {high:7.2f}"
            f"{megabytes / (125 * args.network):10.2f}{count * task.learning:10.1f}"
            f"{megabytes / 1e3:14.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="*", default=TASKS)
    parser.add_argument("--per-worker", type=int, default=8, help="environments per worker")
    parser.add_argument("--num-steps", type=int, default=128, help="steps of a rollout")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8, 16], help="for the fit")
    parser.add_argument("--test", type=int, nargs="*", default=[32, 64], help="for the test")
    parser.add_argument("--nodes", type=int, default=16, help="nodes of the cluster to start")
    parser.add_argument("--address", help="of a cluster, instead of starting one")
    parser.add_argument("--iterations", type=int, default=12, help="of each measurement")
    parser.add_argument("--extrapolate", type=int, default=1000, help="number of workers")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s, to extrapolate")
    args = parser.parse_args()
    import ray

    tasks = [measured(name, args.per_worker, args.num_steps) for name in args.envs]
    print_tasks(tasks)
    cluster = None if args.address else cluster_of(args.nodes, max(args.workers + args.test))
    address = args.address or cluster.address
    try:
        ray.init(address, configure_logging=False, logging_level="error", log_to_driver=False)
        known = print_test(tasks, address, args)
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
    print_extrapolation(tasks, known, args)


if __name__ == "__main__":
    main()
