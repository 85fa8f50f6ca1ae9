"""Predict the time of an iteration with many Ray workers, and test the prediction.

An iteration is playing, which takes as long with a thousand workers as with one, and what your
process does for each worker: it sends a request, receives an answer and learns from it. To measure
that with more workers than there are cores, the workers of this benchmark only pretend to play: they
sleep as long as a worker needs to play, and return an answer that was recorded before. All messages
are real.

The time that is not spent playing or learning is fitted to measurements with a few workers:

    milliseconds = a + b * workers + c * megabytes received

The fit is compared with measurements with more workers, on a cluster of many small nodes, and
extrapolated to a thousand workers.

    python benchmarks/ray_scaling.py
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
    """What is measured once, on one core."""

    name: str
    policy: Policy
    answer: Answer  # of one worker
    playing: float  # seconds
    learning: float  # seconds per step
    sent: float  # MB of weights to each node
    received: float  # MB from each worker


def measured(name: str, per_worker: int, num_steps: int) -> Task:
    """Play and learn as one worker does."""
    agent = tfpg.PPO(tfpg.networks.actor_critic(name, seed=0), num_envs=per_worker, num_steps=num_steps)
    times, update = [], agent.update

    def timed(data):
        start = time.perf_counter()
        logs = update(data)
        times.append(time.perf_counter() - start)
        return logs

    agent.update = timed
    agent.fit(name, iterations=4, seed=0, verbose=0)
    policy = agent.trained_policy
    actor = policy.portable_actor(None)
    host = Host(lambda first, size: make_vec(name, size, manual_resets=True, first_index=first))
    answers = []
    for number in range(4):
        arguments = number, num_steps, None, False, True
        request = Request(
            Share(0, per_worker), per_worker, 0, 0, number, None, "steps", arguments
        )
        answers.append(host.answer(request, actor))
        if isinstance(answers[-1].result, Exception):
            raise answers[-1].result
    host._forget(request.share)
    return Task(
        name,
        policy,
        answers[-1],
        median(each.seconds for each in answers[1:]),
        median(times[1:]) / (per_worker * num_steps),
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
    rest: float  # ms per iteration, without playing
    cpu: float  # ms of this process
    wire: float  # MB per iteration that this computer's network has received


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
                before = time.perf_counter(), time.process_time(), received()
                collector.collect_steps(task.policy, steps)
                after = time.perf_counter(), time.process_time(), received()
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
    return [1.0, workers, workers * task.received]


def fitted(rows: list[tuple[Task, int, Measurement]]) -> np.ndarray:
    """Return ``a``, ``b`` and ``c``, with the least relative errors."""
    x = np.array([features(workers, task) for task, workers, _ in rows])
    y = np.array([each.rest for *_, each in rows])
    return np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0]


def cluster_of(nodes: int, workers: int):
    """Start nodes on this computer, each with its own object store and scheduler."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        cluster.add_node(num_cpus=-(-workers // nodes))
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="*", default=TASKS)
    parser.add_argument("--per-worker", type=int, default=8, help="environments per worker")
    parser.add_argument("--num-steps", type=int, default=128, help="steps of a rollout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="for the fit")
    parser.add_argument("--test", type=int, nargs="*", default=[16, 32, 64], help="for the test")
    parser.add_argument("--nodes", type=int, default=8, help="nodes of the cluster to start")
    parser.add_argument("--address", help="of a cluster, instead of starting one")
    parser.add_argument("--iterations", type=int, default=12, help="of each measurement")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s, to extrapolate")
    args = parser.parse_args()
    import ray

    tasks = [measured(name, args.per_worker, args.num_steps) for name in args.envs]
    print("environment       playing ms  learning ms  KB to each node  KB from each worker")
    for task in tasks:
        steps = args.per_worker * args.num_steps
        print(
            f"{task.name:16}{1e3 * task.playing:12.1f}{1e3 * task.learning * steps:13.1f}"
            f"{1e3 * task.sent:17.1f}{1e3 * task.received:21.1f}"
        )
    cluster = None if args.address else cluster_of(args.nodes, max(args.workers + args.test))
    address = args.address or cluster.address
    quiet = {"configure_logging": False, "logging_level": "error", "log_to_driver": False}
    ray.init(address, **quiet)
    try:
        print("\nenvironment      workers     rest ms   predicted  ratio  of it CPU  MB received")
        known: list[tuple[Task, int, Measurement]] = []
        model = np.zeros(3)
        for workers in [*args.workers, *args.test]:
            tested = workers in args.test
            if tested and not model.any():
                model = fitted(known)
            for task in tasks:
                row = iteration(task, workers, address, args.iterations)
                line = f"{task.name:16}{workers:8}{row.rest:12.1f}"
                if tested:
                    predicted = float(model @ features(workers, task))
                    line += f"{predicted:12.1f}{predicted / row.rest:7.2f}"
                else:
                    known.append((task, workers, row))
                    line += " " * 19
                print(f"{line}{row.cpu:11.1f}{row.wire:13.1f}", flush=True)
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
    model = model if model.any() else fitted(known)
    a, b, c = model
    print(f"\nms = {a:.2f} + {b:.3f} * workers + {c:.3f} * MB received")
    print("\nseconds per iteration with 1,000 workers")
    print("environment         playing  requests     bytes   network  learning   GB received")
    for task in tasks:
        megabytes = 1000 * task.received
        samples = 1000 * args.per_worker * args.num_steps
        print(
            f"{task.name:16}{task.playing:11.2f}{(a + 1000 * b) / 1e3:10.2f}"
            f"{c * megabytes / 1e3:10.2f}{megabytes / (125 * args.network):10.2f}"
            f"{task.learning * samples:10.1f}{megabytes / 1e3:14.2f}"
        )


if __name__ == "__main__":
    main()
