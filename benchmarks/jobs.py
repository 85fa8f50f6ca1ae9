"""What benchmarks with several seeds share: jobs in parallel, and the interval of their scores."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tfpg.results.statistics import bootstrap_interval, interquartile_mean


def in_processes(function: Callable, jobs: Iterable[tuple], count: int) -> Iterator[Any]:
    """Yield a function's results in the order in which they are ready, ``count`` jobs at a time.

    Every job has a new process with one thread for TensorFlow. One that fails is reported, and the
    others continue.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, max_tasks_per_child=1
    ) as pool:
        futures = {pool.submit(function, *job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            try:
                yield future.result()
            except Exception as error:
                print(f"{futures[future]} failed: {error}", flush=True)


def interval(scores: Iterable[float]) -> str:
    """Return the interquartile mean of scores and its 95% bootstrap interval."""
    scores = np.array(list(scores))
    low, high = bootstrap_interval(interquartile_mean, scores)
    return f"{interquartile_mean(scores):.1f} ({low:.1f} to {high:.1f})"
