"""Warnings that teach: said once, when a sign lasts, and not without one."""

import warnings

import keras
import numpy as np
import pytest
from gymnasium import spaces
from test_estimators import Walk
from toys import Countdown

import tfpg
from tfpg.agents.warnings import TrainingWarnings as Advice
from tfpg.errors import TrainingWarning
from tfpg.models.heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    MultiBinaryHead,
    MultiCategoricalHead,
)

BOX = spaces.Box(-1, 1, (2,), np.float32)
HEADS = {
    "bernoulli": (BernoulliHead(spaces.Discrete(2), True, 1), np.log(2)),
    "categorical": (CategoricalHead(spaces.Discrete(4), True), np.log(4)),
    "multi-categorical": (MultiCategoricalHead(spaces.MultiDiscrete([3, 2]), True), np.log(6)),
    "multi-binary": (MultiBinaryHead(spaces.MultiBinary(3), True), 3 * np.log(2)),
}
FINE = {"entropy": 0.5, "grad_norm": 1.0}


def said(*iterations, head=HEADS["bernoulli"][0]):
    """The warnings of iterations, each given as its logs and the returns that ended in it."""
    advice = Advice(head)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logs, returns in iterations:
            advice.look({**FINE, **logs}, returns)
    assert all(issubclass(w.category, TrainingWarning) for w in caught)
    return [str(w.message) for w in caught]


def test_nothing_is_said_of_a_training_that_goes_well():
    assert said(*[({}, [1.0, 2.0])] * 50) == []


@pytest.mark.parametrize("name", HEADS)
def test_a_collapsed_entropy(name):
    head, largest = HEADS[name]
    fallen, low = {"entropy": 0.009 * largest}, {"entropy": 0.011 * largest}
    (text,) = said(*[(fallen, [1.0, 2.0])] * 30, head=head)
    assert "hardly explores any more" in text
    assert said(*[(low, [1.0, 2.0])] * 30, head=head) == []
    # A dip is no collapse.
    assert said(*[(fallen, [1.0, 2.0])] * 4, ({}, [1.0]), *[(fallen, [1.0])] * 4, head=head) == []


def test_a_collapsed_normal():
    head = GaussianHead(BOX, 4)
    std = lambda x: 2 * (np.log(x) + 0.5 * np.log(2 * np.pi * np.e))  # noqa: E731
    assert len(said(*[({"entropy": std(1e-4)}, [1.0, 2.0])] * 9, head=head)) == 1
    assert said(*[({"entropy": std(1e-2)}, [1.0, 2.0])] * 9, head=head) == []
    unbounded = GaussianHead(spaces.Box(-np.inf, np.inf, (2,)), 4)
    assert said(*[({"entropy": std(1e-2)}, [1.0, 2.0])] * 9, head=unbounded) == []


def test_returns_that_never_differ():
    (text,) = said(*[({"grad_norm": 0.0}, [-500.0] * 4)] * 20)
    assert "episodes so far returned -500.0: nothing tells one action from another" in text
    # Found once, or solved since: nothing to say.
    assert said(({}, [-400.0]), *[({}, [-500.0] * 4)] * 20) == []


def test_a_vanished_gradient():
    (text,) = said(*[({"grad_norm": 1e-12}, [1.0, 2.0])] * 20)
    assert "gradient has vanished" in text
    assert said(*[({"grad_norm": 1e-12}, [1.0, 1.0])] * 3, *[({}, [2.0])] * 9) == []


def test_clipped_actions():
    (text,) = said(*[({"clipped_actions": 0.8}, [1.0, 2.0])] * 20)
    assert "80% of the actions were outside the bounds" in text
    assert "squash=True" in text
    assert said(*[({"clipped_actions": 0.4}, [1.0, 2.0])] * 20) == []


class TestInTraining:
    def test_an_environment_that_pays_always_the_same(self):
        agent = tfpg.Reinforce(tfpg.networks.mlp(Countdown), episodes_per_update=8)
        with pytest.warns(TrainingWarning, match="All .* episodes so far returned 3.0"):
            agent.fit(Countdown, 12, seed=0, verbose=0)

    def test_actions_far_outside_the_bounds(self):
        model = tfpg.networks.actor_critic(lambda: Walk(BOX), log_std=2.0)
        model.compile(keras.optimizers.SGD(0.0))
        agent = tfpg.A2C(model, num_steps=8, jit_compile=False)
        with pytest.warns(TrainingWarning, match="of the actions were outside the bounds"):
            history = agent.fit(lambda: Walk(BOX), 8, seed=0, verbose=0).history
        # Both of two normals of standard deviation 7 seldom stay within 1.
        assert 0.9 < np.mean(history["clipped_actions"]) <= 1.0
        squashed = tfpg.A2C(model, num_steps=8, jit_compile=False, squash=True)
        assert "clipped_actions" not in squashed.fit(lambda: Walk(BOX), 2, verbose=0).history

    def test_dead_units(self):
        x = keras.Input((3,))
        dead = keras.layers.Dense(
            4, "relu", kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-1)
        )
        model = keras.Model(x, keras.layers.Dense(2, use_bias=False)(dead(x)))
        agent = tfpg.Reinforce(model, episodes_per_update=8)
        with pytest.warns(TrainingWarning, match="gradient has vanished"):
            agent.fit(Walk, 8, seed=0, verbose=0)
