"""Measure what Ray workers cost per iteration, and from which step time on they pay off.

The first table compares rollouts in one process with those of Ray workers, for environments whose
steps take a given time. The second one shows, for each number of workers, how much of an
iteration's time is not spent playing, and how many bytes are sent.

    python benchmarks/ray_workers.py
"""

import argparse
import pickle
import time
from functools import partial
from statistics import median

from workers import SlowEnv

import tfpg
from tfpg import RayWorkers
from tfpg.envs import open_vec
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.ray_workers import connected
from tfpg.rollouts.remote import RemoteCollector


def policy_for(env) -> Policy:
    shape = tfpg.envs.spaces_of(env)[0].shape
    network = tfpg.networks.nature_cnn if len(shape) == 3 else tfpg.networks.mlp
    return Policy(network(env, seed=0), env)


def seconds_per_rollout(collector, policy, num_steps: int, seconds: float) -> float:
    """The median time of a rollout."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 4:
        start = time.perf_counter()
        collector.collect_steps(policy, num_steps)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def print_step_times(args) -> None:
    """Print the table of step times."""
    names = [f"{n} worker{'s' * (n > 1)}" for n in args.workers]
    print("   ms/step   one process" + "".join(f"{name:>12} ratio" for name in names))
    for milliseconds in args.milliseconds:
        env = partial(SlowEnv, milliseconds, 4, args.busy)
        policy, steps = policy_for(env), args.num_envs * args.num_steps
        with open_vec(env, args.num_envs) as envs:
            one = Collector(envs, 0)
            alone = steps / seconds_per_rollout(one, policy, args.num_steps, args.seconds)
        line = f"{milliseconds:10.2f}{alone:14,.0f}"
        for number in args.workers:
            with RayWorkers(number).open(env, args.num_envs) as envs:
                many = RemoteCollector(envs, 0)
                rate = steps / seconds_per_rollout(many, policy, args.num_steps, args.seconds)
            line += f"{rate:12,.0f}{rate / alone:6.2f}"
        print(line, flush=True)


def print_costs(args) -> None:
    """Print the table of times and bytes per iteration."""
    print("\nenvironment      workers  playing ms  rest ms  KB to each  KB back from all")
    for name in args.envs:
        policy = policy_for(name)
        for number in args.workers:
            with RayWorkers(number).open(name, args.per_worker * number) as envs:
                collector, calls = RemoteCollector(envs, 0), []
                ask = envs.team.answers

                def answers(requests, actor, ask=ask, calls=calls):
                    start = time.perf_counter()
                    found = ask(requests, actor)
                    wall = time.perf_counter() - start
                    back = sum(len(pickle.dumps(each)) for each in found)
                    calls.append((wall, requests, actor, found, back))
                    return found

                envs.team.answers = answers
                seconds_per_rollout(collector, policy, args.num_steps, args.seconds)
                rows = []
                for wall, requests, actor, found, back in calls[1:]:
                    playing = max(each.seconds for each in found)
                    sent = len(pickle.dumps(requests[0]._replace(state=None)))
                    sent += len(pickle.dumps(actor))
                    rows.append((1e3 * playing, 1e3 * (wall - playing), sent / 1e3, back / 1e3))
                playing, rest, sent, back = map(median, zip(*rows, strict=True))
                print(
                    f"{name:16}{number:8}{playing:12.1f}{rest:9.1f}{sent:12.1f}{back:18.1f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=8, help="in the first table")
    parser.add_argument("--per-worker", type=int, default=8, help="in the second table")
    parser.add_argument("--num-steps", type=int, default=128, help="steps of a rollout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument(
        "--milliseconds", type=float, nargs="*", default=[0.0, 0.02, 0.05, 0.1, 0.3, 1.0, 5.0]
    )
    parser.add_argument("--busy", action="store_true", help="compute instead of sleeping")
    parser.add_argument(
        "--envs", nargs="*", default=["CartPole-v1", "HalfCheetah-v5", "ALE/Breakout-v5"]
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each measurement")
    args = parser.parse_args()
    with connected(RayWorkers(max(args.workers))):
        if args.milliseconds:
            print_step_times(args)
        if args.envs:
            print_costs(args)


if __name__ == "__main__":
    main()
