"""Run folders with given numbers."""

import json

COLUMNS = ("epoch", "episode_return", "env_steps", "val_episode_return")


def make_run(folder, returns, seed=0, algorithm="ppo", env="CartPole-v1", **settings):
    """Write a run folder in which the greedy policy was measured every 100 environment steps.

    Args:
        folder: Path of the run folder.
        returns: The returns of the greedy policy. None: not measured in this iteration.
        settings: ``rows`` to write instead, ``network``, ``learning_rate``, and options of the
            agent.
    """
    rows, network = settings.pop("rows", None), settings.pop("network", {})
    rate = settings.pop("learning_rate", 0.001)
    folder.mkdir(parents=True)
    config = {
        "algorithm": algorithm,
        "env": env,
        "seed": seed,
        "env_steps": 1000,
        "head": {},
        "network": network,
        "optimizer": {"config": {"learning_rate": rate}},
        "options": {"max_steps": None, **settings},
        "validation_episodes": 10,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if rows is None:
        rows = [
            f"{i},{i + seed / 10},{100.0 * (i + 1)},{'NA' if x is None else float(x)}"
            for i, x in enumerate(returns)
        ]
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    return folder
