"""Compare how long a model takes to act in NumPy and in a compiled TensorFlow call.

`acting="auto"` is based on this: small models act in NumPy, large ones in TensorFlow.

    python benchmarks/acting.py
"""

import argparse
import time
from statistics import median

import numpy as np


def microseconds(act, observations, noise, seconds: float = 0.3) -> float:
    """Return the median time of a call that is repeated for some seconds."""
    act(observations, noise)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        act(observations, noise)
        times.append(time.perf_counter() - start)
    return 1e6 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 10, 64, 256], help="observations per call"
    )
    args = parser.parse_args()
    import tfpg

    print("     hidden  parameters   rows      numpy us   tensorflow us")
    for hidden in [(20, 10), (64, 64), (256, 256), (512, 512), (1024, 1024)]:
        model = tfpg.networks.mlp("CartPole-v1", hidden)
        policies = [tfpg.Policy(model, "CartPole-v1", acting=a) for a in ("numpy", "tensorflow")]
        for rows in args.rows:
            rng = np.random.default_rng(0)
            observations = rng.normal(size=(rows, 4)).astype("float32")
            noise = policies[0].head.noise(rng, rows)
            in_numpy, in_tensorflow = (
                microseconds(policy.actor(), observations, noise) for policy in policies
            )
            name = "-".join(map(str, hidden))
            print(
                f"{name:>11}{model.count_params():12,}{rows:7}"
                f"{in_numpy:14,.1f}{in_tensorflow:16,.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
