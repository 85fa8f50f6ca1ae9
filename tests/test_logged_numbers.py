"""The page of logged numbers has all numbers that agents log, and no others."""

import csv
import re
from pathlib import Path

import keras
import pytest
from small import small_agent, small_model, small_sac

import tfpg

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
AGENTS = {"REINFORCE": tfpg.Reinforce, "A2C": tfpg.A2C, "PPO": tfpg.PPO, "DQN": tfpg.DQN}
AGENTS |= {"C51": tfpg.C51, "QR-DQN": tfpg.QRDQN, "Rainbow": tfpg.Rainbow, "PQN": tfpg.PQN}
AGENTS |= {"SAC": tfpg.SAC}
SHORT = {"max_steps": 20}
VARIANTS = [
    ("REINFORCE", "CartPole-v1", {}),
    ("REINFORCE", "Pendulum-v1", {"gradient": "accumulated", "baseline": "mean", **SHORT}),
    ("REINFORCE", "CartPole-v1", {"baseline": "value", "value_updates": 2}),
    ("REINFORCE", "CartPole-v1", {"gradient": "accumulated", "baseline": None, **SHORT}),
    ("REINFORCE", "functional/CartPole", SHORT),
    ("A2C", "Pendulum-v1", SHORT),
    ("A2C", "functional/CartPole", {}),
    ("PPO", "CartPole-v1", {"value_clip": 0.2, "standardize": None}),
    ("PPO", "Pendulum-v1", {"target_kl": 0.01, **SHORT}),
    ("DQN", "CartPole-v1", {}),
    ("DQN", "CartPole-v1", {"prioritized": True, "tau": 0.1, "loss": "mse"}),
    ("C51", "CartPole-v1", {}),
    ("QR-DQN", "CartPole-v1", {"prioritized": True}),
    ("Rainbow", "CartPole-v1", {}),
    ("PQN", "CartPole-v1", {}),
    ("PQN", "functional/CartPole", {}),
    ("SAC", "Pendulum-v1", SHORT),
]


def keys_by_section():
    """The names that begin the entries of each section's list."""
    sections = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.MULTILINE)
    return {
        title: re.findall(r"^- `(\w+)`", text, re.MULTILINE)
        for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def keys_of_page(name):
    """The names that the page says an agent logs."""
    return {
        key
        for title, keys in keys_by_section().items()
        if title == "Every agent" or name in re.split(", | and ", title)
        for key in keys
    }


def logged(name, env, options, folder):
    """The names that an agent logs in two iterations, as history and as columns of a file."""
    agent_class = AGENTS[name]
    options = dict(options)
    model = small_model(agent_class, env)
    if options.get("value_updates"):
        options["value_model"] = tfpg.networks.critic(env, hidden=(8,), seed=0)
    if agent_class is tfpg.SAC:
        agent = small_sac(env, **options)
    else:
        agent = small_agent(agent_class, env, model, **options)
    history = agent.fit(
        env,
        iterations=2,
        seed=1,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda _: 1e-3),
            tfpg.callbacks.MetricsLogger(folder / "metrics.csv"),
        ],
        validation_envs=env,
        validation_freq=1,
        validation_episodes=1,
    )
    with open(folder / "metrics.csv") as file:
        columns = next(csv.reader(file))
    assert set(history.history) <= set(columns)
    return set(columns)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_page_has_exactly_the_numbers_that_an_agent_logs(name, tmp_path):
    found = set()
    for agent, env, options in VARIANTS:
        if agent == name:
            found |= logged(agent, env, options, tmp_path)
    assert found == keys_of_page(name)


def test_every_number_has_a_unit_a_meaning_and_a_normal_value():
    entries = re.findall(r"^- .*\n(?:  .*\n)*", PAGE.read_text(), re.MULTILINE)
    assert len(entries) == sum(map(len, keys_by_section().values())) > 20
    wanted = re.compile(r"- `\w+` \([\w ]+\): .{5,}\. \*\*Normal:\*\* .")
    assert [x for x in entries if not wanted.match(" ".join(x.split()))] == []
