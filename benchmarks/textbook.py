"""Compare the environment steps per second of REINFORCE with a textbook training loop.

Both do the same work: CartPole-v1, a 20-10-1 network, 10 episodes of at most 200 steps per update,
gamma 0.95, Adam 0.01. The textbook loop (scripts/reinforce_in_one_file.py) is measured over its
first iterations; its time per step does not change during training. tfpg is measured over 150
iterations, compilation included, and with 64 episodes per update as well.

    python benchmarks/textbook.py

The last column is the limit of tfpg on this machine: the environments alone with random actions.
"""

import contextlib
import io
import sys
import time
from pathlib import Path

from peers import compare, env_steps_per_second

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

ENV = "CartPole-v1"
EPISODES = {"10 episodes": 10, "64 episodes": 64}  # of an update of tfpg


def of_textbook(name: str) -> float:
    """Return the steps per second of the textbook loop."""
    import gymnasium
    import keras
    import reinforce_in_one_file as textbook

    env, model = gymnasium.make(ENV), textbook.make_model(0)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        returns = textbook.train(env, model, keras.optimizers.Adam(0.01), 3, 10, 200, 0.95, 0)
    steps = 10 * sum(returns)  # the return of an episode of CartPole is its number of steps
    return steps / (time.perf_counter() - start)


def of_tfpg(name: str) -> float:
    """Return the steps per second of a whole call of fit."""
    import keras
    import reinforce_in_one_file as textbook

    import tfpg

    def agent():
        model = textbook.make_model(0)
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        options = {
            "gamma": 0.95,
            "episodes_per_update": EPISODES[name],
            "baseline": None,
            "entropy_coef": 0.0,
            "max_steps": 200,
        }
        return tfpg.Reinforce(model, **options)

    agent().fit(ENV, 1, seed=0, verbose=0)  # starts TensorFlow
    measured = agent()
    start = time.perf_counter()
    measured.fit(ENV, 150, seed=0, verbose=0)
    return measured.env_steps / (time.perf_counter() - start)


def of_environments(name: str) -> float:
    """Return the steps per second of the environments alone."""
    return env_steps_per_second(ENV, EPISODES[name], 2000 * EPISODES[name])


SIDES = {"tfpg": of_tfpg, "peer": of_textbook, "environments": of_environments}


if __name__ == "__main__":
    compare(__doc__, __file__, SIDES, EPISODES, None, "textbook")
