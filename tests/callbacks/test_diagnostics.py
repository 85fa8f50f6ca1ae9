"""Diagnostics: greedy episodes during a training, and a figure of how they went."""

import keras
import numpy as np
import pytest
from PIL import Image
from small import EPISODES, SMALL, q_network, small_agent
from toys import Countdown

import tfpg
from tfpg.callbacks.diagnostics import Diagnostics


def test_greedy_episodes_are_played_every_so_many_episodes_and_drawn(tmp_path):
    figure = tmp_path / "figure.png"
    look = Diagnostics(figure, Countdown, every=25, episodes=3, solved=2.5)
    agent = tfpg.DQN(q_network(2), **SMALL)
    agent.fit(Countdown, 4, callbacks=[look], seed=0, verbose=0)
    counts = [each["episodes"] for each in look.measured]
    assert agent.episodes >= 75
    assert [count // 25 for count in counts[:-1]] == [1, 2, 3][: len(counts) - 1]
    assert counts[-1] == agent.episodes
    assert len(counts) >= 3
    assert all(each["returns"] == [3.0] * 3 for each in look.measured)
    epsilons = [each["epsilon"] for each in look.measured]
    assert epsilons == sorted(epsilons, reverse=True)
    height, width = np.asarray(Image.open(figure)).shape[:2]
    assert height > width * 0.9  # three panels


def test_iterations_are_counted_if_the_agent_does_not_log_episodes(tmp_path):
    look = Diagnostics(tmp_path / "figure.png", "CartPole-v1", 2, 2, max_steps=9)
    assert look.solved == 475.0
    agent = small_agent(tfpg.Reinforce, max_steps=9)
    agent.fit("CartPole-v1", 5, callbacks=[look], seed=0, verbose=0)
    assert [each["episodes"] for each in look.measured] == [2, 4, 5]
    assert "epsilon" not in look.measured[0]


def test_the_policy_is_read_as_the_agent_reads_it(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model.set_weights([np.array([[0.0], [0], [-9], [-3]], "float32"), np.zeros(1, "float32")])
    model.compile(keras.optimizers.SGD(1e-9))
    look = Diagnostics(tmp_path / "d.png", "CartPole-v1", every=1, episodes=5)
    agent = tfpg.Reinforce(model, positive_action=0, **{**EPISODES, "max_steps": 300})
    agent.fit("CartPole-v1", 1, callbacks=[look], seed=0, verbose=0)
    result = agent.evaluate("CartPole-v1", 5, seed=0)
    assert result["episode_return"] > 100
    assert np.minimum(look.measured[0]["returns"], 300).tolist() == result["episode_returns"]


def test_measurements_wait_for_their_number_of_episodes_and_have_different_seeds(tmp_path):
    look = Diagnostics(tmp_path / "d.png", "CartPole-v1", every=2, episodes=3)
    look.set_model(q_network())
    for count in (1, 3, 3, 4, 5, 7):
        look.on_epoch_end(0, {"episodes": count})
    assert [each["episodes"] for each in look.measured] == [3, 4, 7]
    assert len({tuple(each["returns"]) for each in look.measured}) > 1


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no/d.png", FileNotFoundError, "mkdir -p"),
        ("figure", ValueError, r"A figure must end in \.png, .*figure'"),
    ],
)
def test_a_figure_that_cannot_be_written_is_refused_at_once(tmp_path, path, error, message):
    with pytest.raises(error, match=message):
        Diagnostics(tmp_path / path, "CartPole-v1")
