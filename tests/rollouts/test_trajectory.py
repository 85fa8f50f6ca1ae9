"""Steps become trajectories: literal arrays in, literal arrays out."""

import numpy as np
import pytest

from tfpg.core.arrays import map_arrays
from tfpg.errors import EnvDataError
from tfpg.models.policy import Decision
from tfpg.rollouts.loop import Step
from tfpg.rollouts.recording import arrange, record
from tfpg.rollouts.trajectory import (
    Columns,
    assembled,
    flatten,
    played_observations,
)


class Policy:
    """Its log-probability of an action is minus the action."""

    def distribution_of(self, outputs):
        return self

    def log_prob(self, actions):
        return -actions.astype(np.float32)


def played(*columns, lengths=None, named=False):
    """Steps of environments that each observe 10 times their episode plus their step.

    A column is a string with a letter for each step: ``.`` is a step, ``T`` one that terminated,
    ``C`` one that was cut off, ``x`` one in which the environment failed, ``r`` a reset in a step
    of its own, and ``-`` one after the last episode that counts.
    """
    count = len(columns)
    lengths = np.array(lengths or [0] * count)
    now, steps = np.array(lengths), []
    for letters in map(np.array, zip(*columns, strict=True)):
        ended, failed = np.isin(letters, ["T", "C"]), letters == "x"
        real = np.isin(letters, [".", "T", "C"])
        lengths = lengths + real
        observations = np.array(now, np.float32)
        begin = (now // 10 + 1) * 10  # the first observation of the next episode
        following = np.select([letters == "r", failed], [begin, 0], now + 1).astype(np.float32)
        next_letters = [column[len(steps) + 1 : len(steps) + 2] for column in columns]
        waits = np.isin(next_letters, ["r", "-"])  # acts on what the episode ended with
        now = np.where((ended & ~waits) | failed, begin, following).astype(int)
        actions = observations.astype(int)
        nest = (lambda x: {"a": x, "b": -x}) if named else (lambda x: x)
        steps.append(
            Step(
                nest(observations),
                Decision(actions, actions, np.zeros((count, 2))),
                np.where(real, observations.astype(float) + 0.5, 0.0),
                letters == "T",
                letters == "C",
                real,
                nest(following),
                ended,
                lengths,
                failed,
            )
        )
        lengths = np.where(ended | failed, 0, lengths)
    return steps


def recorded(*columns, lengths=None, named=False, **options):
    return record(played(*columns, lengths=lengths, named=named), Policy(), **options)


def check(data, observations, mask):
    """``observations`` and ``mask`` of one column; the rest follows from them."""
    np.testing.assert_array_equal(data.observations[:, 0], observations)
    np.testing.assert_array_equal(data.mask[:, 0], mask)
    real = np.array(mask) > 0
    expected = np.where(real, np.array(observations[:-1]) + 0.5, 0)
    np.testing.assert_array_equal(data.rewards[:, 0], expected)
    np.testing.assert_array_equal(data.actions[real, 0], np.array(observations)[:-1][real])
    np.testing.assert_array_equal(data.log_probs[real, 0], -data.actions[real, 0])
    assert not (data.terminated | data.truncated)[~real].any()
    assert data.rewards.dtype == data.mask.dtype == np.float64


def test_whole_episodes_are_padded_at_the_end():
    data = recorded("..T", ".C-", "T--")
    np.testing.assert_array_equal(data.mask, [[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(data.observations[:3, 1], [0, 1, 2])
    np.testing.assert_array_equal(data.observations[:2, 2], [0, 1])
    np.testing.assert_array_equal(data.rewards, [[0.5, 0.5, 0.5], [1.5, 1.5, 0], [2.5, 0, 0]])
    np.testing.assert_array_equal(data.terminated, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(data.truncated, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_a_masked_row_between_two_episodes_holds_the_last_observation():
    data = recorded(".T..")
    check(data, [0, 1, 2, 10, 11, 12], [1, 1, 0, 1, 1])
    np.testing.assert_array_equal(data.terminated[:, 0], [0, 1, 0, 0, 0])


def test_a_reset_in_a_step_of_its_own_gives_the_same_rows():
    check(recorded(".Tr.."), [0, 1, 2, 10, 11, 12], [1, 1, 0, 1, 1])
    # The one that was due when the fragment began is its first row.
    check(recorded("r..", num_steps=3), [0, 10, 11, 12], [0, 1, 1])


def test_an_end_in_the_last_step_needs_no_masked_row():
    check(recorded("..C"), [0, 1, 2, 3], [1, 1, 1])
    check(recorded("T.T"), [0, 1, 10, 11, 12], [1, 0, 1, 1])


def test_columns_with_fewer_ends_are_shorter():
    data = recorded("T.T.", "....")
    np.testing.assert_array_equal(data.mask, [[1, 1], [0, 1], [1, 1], [1, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 10, 11, 12, 20, 21])
    np.testing.assert_array_equal(data.observations[:5, 1], [0, 1, 2, 3, 4])
    # What fills the rest is an observation of the environment.
    np.testing.assert_array_equal(data.observations[5:, 1], 0)


def test_a_trajectory_is_as_long_as_the_steps_asked_for():
    data = recorded("r..", num_steps=3)
    assert data.mask.shape == (3, 1)
    assert recorded("T..", num_steps=3).mask.shape == (4, 1)


def test_an_episode_that_failed_leaves_nothing_behind():
    check(recorded("T..x.."), [0, 1, 20, 21, 22], [1, 0, 1, 1])
    check(recorded("..x.T"), [10, 11, 12], [1, 1])
    assert not recorded("..x").mask.any()


def test_the_first_row_is_masked_where_an_episode_of_an_earlier_fragment_failed():
    data = recorded(".x..", lengths=[3])
    np.testing.assert_array_equal(data.mask[:, 0], [0, 1, 1])
    np.testing.assert_array_equal(data.observations[1:, 0], [10, 11, 12])


def test_only_the_first_columns_are_returned():
    data = recorded(".T", "T-", "..", num_episodes=2)
    assert data.observations.shape == (3, 2)
    np.testing.assert_array_equal(data.mask, [[1, 1], [1, 0]])


@pytest.mark.parametrize("columns", [(".T..", "...."), ("..", "T-")])
def test_observations_in_a_dict(columns):
    named, plain = (recorded(*columns, named=named) for named in (True, False))
    np.testing.assert_array_equal(named.observations["a"], plain.observations)
    np.testing.assert_array_equal(named.observations["b"], -plain.observations)


@pytest.mark.parametrize(
    ("field", "when", "reported"),
    [("rewards", 1, 1), ("observations", 1, 1), ("following", 2, 3), ("following", 3, 1)],
)
def test_nan_is_reported_with_its_environment_and_step(field, when, reported):
    steps = played("....", "..T.")
    getattr(steps[when], field)[1] = np.nan
    with pytest.raises(EnvDataError) as caught:
        record(steps, Policy())
    assert (caught.value.env, caught.value.step) == (1, reported)


def test_nan_after_the_last_episode_that_counts_is_not_reported():
    steps = played("...", "T--")
    steps[2].observations[1] = steps[2].following[1] = np.nan
    np.testing.assert_array_equal(record(steps, Policy()).mask[:, 1], [1, 0, 0])


def test_rows_skip_one_after_each_end():
    real = np.array([[1, 1], [1, 0], [1, 1], [0, 1]]) > 0
    ended = np.array([[0, 1], [1, 0], [0, 0], [0, 0]]) > 0
    rows = arrange(real, ended, np.array([False, True]))
    np.testing.assert_array_equal(np.where(real, rows, -1), [[0, 1], [1, -1], [3, 3], [-1, 4]])


@pytest.mark.parametrize("named", [False, True])
def test_trajectories_are_joined_by_their_columns(named):
    one, other = recorded("..T", named=named), recorded("T", named=named)
    data = assembled([Columns(np.array([0]), one), Columns(np.array([1]), other)])
    np.testing.assert_array_equal(data.mask, [[1, 1], [1, 0], [1, 0]])
    first = data.observations["a"] if named else data.observations
    np.testing.assert_array_equal(first, [[0, 0], [1, 1], [2, 1], [3, 1]])
    assert data.terminated.dtype == bool


def test_real_steps_are_flattened_column_after_column():
    data = recorded(".T.", "..T")
    np.testing.assert_array_equal(flatten(data, data.rewards), [0.5, 1.5, 10.5, 0.5, 1.5, 2.5])
    twice = played_observations([data, data])
    np.testing.assert_array_equal(twice, [0, 1, 10, 0, 1, 2] * 2)
    assert map_arrays(len, twice) == 12
