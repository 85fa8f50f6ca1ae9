import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfpg.ops.returns import (
    discounted_returns,
    lambda_returns,
    n_step_returns,
    n_step_transitions,
    running_returns,
    standardize,
)

GOLDEN = [
    (0.99, [1, 2, 3, 4, 5], [14.604476049999999, 13.741895, 11.8605, 8.95, 5]),
    (0.9, [0, 0, 1, 0, 0, 1, 0], [1.40049, 1.5561, 1.729, 0.81, 0.9, 1, 0]),
    (0.5, [0, 0, 1, -2, 3, -4, 0], [0.0625, 0.125, 0.25, -1.5, 1, -4, 0]),
    (0.0, [0, 0, 1, 2, 3, 4, 0], [0, 0, 1, 2, 3, 4, 0]),
    (0.8, [10, 0, -50], [-22, -40, -50]),
    (0.8, [10, 20], [26, 20]),
    (0.95, [1, 2, 3, 4, 5], [13.10953125, 12.746875, 11.3125, 8.75, 5]),
]


def naive_returns(rewards, gamma, ends):
    """The definition, O(T^2): the discounted rewards up to and including the first end."""
    result = np.zeros(len(rewards))
    for t in range(len(rewards)):
        for k in range(t, len(rewards)):
            result[t] += gamma ** (k - t) * rewards[k]
            if ends[k]:
                break
    return result


def padded(columns):
    steps = max(map(len, columns))
    rewards, mask = np.zeros((steps, len(columns))), np.zeros((steps, len(columns)))
    for n, column in enumerate(columns):
        rewards[: len(column), n] = column
        mask[: len(column), n] = 1
    return rewards, mask


class TestDiscountedReturns:
    @pytest.mark.parametrize(("gamma", "rewards", "expected"), GOLDEN)
    def test_golden_values(self, gamma, rewards, expected):
        np.testing.assert_allclose(discounted_returns(rewards, gamma), expected, rtol=1e-6)

    def test_golden_to_the_last_digit(self):
        returns = discounted_returns([1, 2, 3, 4, 5], 0.99)
        assert returns[0] == pytest.approx(14.604476049999999, abs=1e-14)
        np.testing.assert_allclose(
            returns - returns.mean(),
            [3.77310184, 2.91052079, 1.02912579, -1.88137421, -5.83137421],
            atol=5e-9,
        )

    def test_integer_rewards_are_not_truncated(self):
        returns = discounted_returns(np.array([1, 2, 3, 4, 5]), 0.95)
        assert returns.dtype == np.float64
        np.testing.assert_allclose(returns.round(2), [13.11, 12.75, 11.31, 8.75, 5])

    @given(data=st.data(), gamma=st.floats(0, 1))
    @settings(max_examples=60, deadline=None)
    def test_equals_the_definition(self, data, gamma):
        steps, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
        shape = (steps, columns)
        rewards = data.draw(hnp.arrays(float, shape, elements=st.floats(-100, 100)))
        terminated = data.draw(hnp.arrays(bool, shape))
        truncated = data.draw(hnp.arrays(bool, shape))
        lengths = data.draw(hnp.arrays(int, (columns,), elements=st.integers(0, steps)))
        mask = np.arange(steps)[:, None] < lengths
        returns = discounted_returns(
            rewards, gamma, terminated=terminated, truncated=truncated, mask=mask
        )
        ends = terminated | truncated
        for n, length in enumerate(lengths):
            expected = naive_returns(rewards[:length, n], gamma, ends[:length, n])
            np.testing.assert_allclose(returns[:length, n], expected, rtol=1e-9, atol=1e-9)
            assert (returns[length:, n] == 0).all()

    def test_padding_does_not_matter_even_if_it_is_nan(self):
        rewards, mask = padded([[1, 2, 3], [4]])
        rewards[mask == 0] = np.nan
        returns = discounted_returns(rewards, 0.5, mask=mask)
        np.testing.assert_array_equal(returns, [[2.75, 4], [3.5, 0], [3, 0]])

    def test_the_order_of_episodes_does_not_matter(self):
        rewards, mask = padded([[1, 2, 3], [4], [5, 6]])
        order = [2, 0, 1]
        a = discounted_returns(rewards, 0.9, mask=mask)[:, order]
        b = discounted_returns(rewards[:, order], 0.9, mask=mask[:, order])
        np.testing.assert_array_equal(a, b)

    def test_gamma_one_is_the_sum_and_zero_the_reward(self):
        rewards = [1.0, -2.0, 5.0]
        np.testing.assert_array_equal(discounted_returns(rewards, 1), [4, 3, 5])
        np.testing.assert_array_equal(discounted_returns(rewards, 0), rewards)

    @pytest.mark.parametrize("flag", ["terminated", "truncated"])
    def test_both_kinds_of_end_cut_the_recursion(self, flag):
        returns = discounted_returns([1, 1, 1, 1], 0.5, **{flag: [False, True, False, False]})
        np.testing.assert_array_equal(returns, [1.5, 1, 1.5, 1])

    def test_wrong_shapes_are_named(self):
        with pytest.raises(ValueError, match=r"terminated has shape \(2,\).*\(3,\)"):
            discounted_returns([1, 2, 3], 0.9, terminated=[False, True])
        with pytest.raises(ValueError, match="mask has shape"):
            discounted_returns([1, 2, 3], 0.9, mask=[1])

    @pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan"), "high", None])
    def test_gamma_outside_its_range_is_refused(self, gamma):
        with pytest.raises(ValueError, match="gamma must be a number from 0 to 1"):
            discounted_returns([1.0], gamma)


@st.composite
def fragments(draw):
    """Columns of steps with ends, cuts and masked rows anywhere."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    reals = hnp.arrays(float, shape, elements=st.floats(-10, 10))
    flags = hnp.arrays(bool, shape)
    mask = draw(hnp.arrays(bool, shape, elements=st.booleans() | st.just(True)))
    return {
        "rewards": draw(reals),
        "values": draw(reals),
        "next_values": draw(reals),
        "terminated": draw(flags) & mask,
        "truncated": draw(flags) & mask,
        "mask": mask,
    }


def episode_from(data, t, n):
    """The steps that the return of step t consists of, and whether the last one terminated."""
    steps = []
    for k in range(t, len(data["mask"])):
        if not data["mask"][k, n]:
            break
        steps.append(k)
        if data["terminated"][k, n]:
            return steps, True
        if data["truncated"][k, n]:
            break
    return steps, False


def naive_n_step(data, t, n, gamma, count):
    """r_t + gamma r_{t+1} + ... + gamma^n V, by the book."""
    steps, terminated = episode_from(data, t, n)
    used = steps[:count]
    total = sum(gamma ** (k - t) * data["rewards"][k, n] for k in used)
    if not (terminated and used[-1] == steps[-1]):
        total += gamma ** len(used) * data["next_values"][used[-1], n]
    return total


def check_against(naive, result, data):
    for t, n in np.ndindex(result.shape):
        expected = naive(t, n) if data["mask"][t, n] else 0.0
        assert result[t, n] == pytest.approx(expected, rel=1e-9, abs=1e-8)


def without(data, *names):
    return {key: x for key, x in data.items() if key not in names}


class TestBootstrapping:
    """Returns against their definitions, on fragments with ends and gaps anywhere."""

    @given(data=fragments(), gamma=st.floats(0, 1), count=st.integers(1, 12))
    @settings(max_examples=80, deadline=None)
    def test_n_step_returns(self, data, gamma, count):
        result = n_step_returns(gamma=gamma, n=count, **without(data, "values"))
        check_against(lambda t, n: naive_n_step(data, t, n, gamma, count), result, data)

    @given(data=fragments(), gamma=st.floats(0, 1), lam=st.floats(0, 1))
    @settings(max_examples=80, deadline=None)
    def test_lambda_returns_are_weighted_means_of_n_step_returns(self, data, gamma, lam):
        def naive(t, n):
            last = len(episode_from(data, t, n)[0])
            weights = [(1 - lam) * lam ** (k - 1) for k in range(1, last)] + [lam ** (last - 1)]
            steps = [naive_n_step(data, t, n, gamma, k) for k in range(1, last + 1)]
            return sum(w * g for w, g in zip(weights, steps, strict=True))

        result = lambda_returns(gamma=gamma, gae_lambda=lam, **without(data, "values"))
        check_against(naive, result, data)

    @given(data=fragments(), gamma=st.floats(0, 1), lam=st.floats(0, 1))
    @settings(max_examples=80, deadline=None)
    def test_advantages_are_discounted_sums_of_td_errors(self, data, gamma, lam):
        # The definition holds where V(s_{t+1}) is one number, seen from both its steps.
        data["next_values"][:-1] = np.where(
            data["mask"][1:], data["values"][1:], data["next_values"][:-1]
        )

        def delta(k, n):
            going = 0.0 if data["terminated"][k, n] else data["next_values"][k, n]
            return data["rewards"][k, n] + gamma * going - data["values"][k, n]

        def naive(t, n):
            steps, _ = episode_from(data, t, n)
            return sum((gamma * lam) ** (k - t) * delta(k, n) for k in steps)

        returns = lambda_returns(gamma=gamma, gae_lambda=lam, **without(data, "values"))
        check_against(naive, np.where(data["mask"], returns - data["values"], 0), data)

    @given(data=fragments(), gamma=st.floats(0, 1))
    @settings(max_examples=40, deadline=None)
    def test_named_returns_are_special_cases_of_each_other(self, data, gamma):
        common = without(data, "values")
        one = lambda_returns(gamma=gamma, gae_lambda=0.0, **common)
        np.testing.assert_allclose(one, n_step_returns(gamma=gamma, n=1, **common), atol=1e-9)
        whole = lambda_returns(gamma=gamma, gae_lambda=1.0, **common)
        many = n_step_returns(gamma=gamma, n=len(whole), **common)
        np.testing.assert_allclose(whole, many, atol=1e-8)
        plain = discounted_returns(gamma=gamma, **without(common, "next_values"))
        zeros = lambda_returns(gamma=gamma, **{**common, "next_values": 0 * common["rewards"]})
        np.testing.assert_array_equal(plain, zeros)

    def test_returns_by_hand(self):
        # Three steps, the second truncated: the recursion stops and bootstraps there.
        common = {"next_values": [10, 20, 30], "truncated": [0, 1, 0]}
        np.testing.assert_allclose(lambda_returns([1, 2, 3], 0.5, **common), [7, 12, 18])
        np.testing.assert_allclose(
            lambda_returns([1, 2, 3], 0.5, terminated=[0, 1, 0], next_values=[10, 20, 30]),
            [2, 2, 18],
        )
        both = {"terminated": [0, 1, 0], "truncated": [0, 1, 0]}
        np.testing.assert_allclose(
            lambda_returns([1, 2, 3], 0.5, next_values=[10, 20, 30], **both), [2, 2, 18]
        )
        np.testing.assert_allclose(n_step_returns([1, 2, 3], 0.5, n=1, **common), [6, 12, 18])

    @pytest.mark.parametrize("n", [0, -1, 1.5, True])
    def test_n_must_be_a_count(self, n):
        with pytest.raises(ValueError, match="n must be an integer of at least 1"):
            n_step_returns([1.0], 0.9, n=n)

    @pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
    def test_lambda_outside_its_range_is_refused(self, lam):
        with pytest.raises(ValueError, match="gae_lambda must be a number from 0 to 1"):
            lambda_returns([1.0], 0.9, gae_lambda=lam)

    def test_wrong_shapes_of_values_are_named(self):
        with pytest.raises(ValueError, match=r"next_values has shape \(3,\)"):
            lambda_returns([1.0], 0.9, next_values=[1, 2, 3])


class TestNStepTransitions:
    def test_an_end_stops_the_sum_and_only_termination_the_bootstrap(self):
        rewards = np.array([[1.0] * 4, [2.0] * 4, [4.0] * 4])
        terminated = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
        truncated = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
        returns, discounts, lengths = n_step_transitions(rewards, 0.5, terminated, truncated)
        np.testing.assert_allclose(returns, [3.0, 1.0, 2.0, 3.0])
        np.testing.assert_allclose(discounts, [0.125, 0.0, 0.25, 0.0])
        np.testing.assert_array_equal(lengths, [3, 1, 2, 3])

    def test_integer_rewards_are_not_rounded(self):
        ends = np.zeros((2, 1), bool)
        returns, _, _ = n_step_transitions(np.array([[1], [1]]), 0.5, ends, ends)
        np.testing.assert_allclose(returns, [1.5])

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0, 1))
    def test_target_is_the_n_step_return_of_a_trajectory(self, seed, n, gamma):
        rng = np.random.default_rng(seed)
        steps = 12
        rewards, values = rng.normal(size=(2, steps + n))
        terminated, truncated = rng.random((2, steps + n)) < 0.2
        rows = np.arange(steps) + np.arange(n)[:, None]
        returns, discounts, lengths = n_step_transitions(
            rewards[rows], gamma, terminated[rows], truncated[rows]
        )
        following = values[np.arange(steps) + lengths - 1]
        expected = n_step_returns(
            rewards, gamma, values, n=n, terminated=terminated, truncated=truncated
        )
        np.testing.assert_allclose(returns + discounts * following, expected[:steps], atol=1e-12)


class TestStandardize:
    def test_each_episode_has_its_own_mean_and_scale(self):
        values, mask = padded([[1, 2, 3], [40, 60], [7]])
        scores = standardize(values, mask, per="episode")
        np.testing.assert_allclose(
            scores, [[-(1.5**0.5), -1, 0], [0, 1, 0], [1.5**0.5, 0, 0]], atol=1e-12
        )
        with pytest.raises(ValueError, match='per must be "batch" or "episode"'):
            standardize(values, mask, per="step")

    def test_golden_values(self):
        rewards, mask = padded([[10, 0, -50], [10, 20]])
        scores = standardize(discounted_returns(rewards, 0.8, mask=mask), mask)
        np.testing.assert_allclose(scores[:, 0], [-0.28435071, -0.86597718, -1.18910299], atol=5e-9)
        np.testing.assert_allclose(scores[:2, 1], [1.26665318, 1.0727777], atol=5e-8)
        assert scores[2, 1] == 0

    @given(
        values=hnp.arrays(float, st.integers(2, 30), elements=st.floats(-1e6, 1e6)),
        padding=hnp.arrays(float, st.integers(0, 10), elements=st.floats(-1e9, 1e9)),
    )
    @settings(max_examples=60, deadline=None)
    def test_padding_does_not_change_the_scores(self, values, padding):
        mask = np.concatenate([np.ones(len(values)), np.zeros(len(padding))])
        scores = standardize(np.concatenate([values, padding]), mask)
        np.testing.assert_allclose(scores[: len(values)], standardize(values), atol=1e-12)
        assert (scores[len(values) :] == 0).all()
        assert np.isfinite(scores).all()

    def test_mean_zero_and_population_std_one(self):
        scores = standardize(np.random.default_rng(0).normal(3, 7, 1000))
        assert abs(scores.mean()) < 1e-12
        assert scores.std(ddof=0) == pytest.approx(1)

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e9, -1e-9, 1 / 3])
    @pytest.mark.parametrize("count", [1, 2, 7, 1000])
    def test_equal_values_give_zeros(self, value, count):
        assert (standardize(np.full(count, value)) == 0).all()

    def test_no_real_steps_give_zeros(self):
        assert (standardize([[1.0, 2.0]], [[0, 0]]) == 0).all()

    def test_scores_do_not_depend_on_scale_and_shift(self):
        x = np.array([1.0, 2.0, 4.0])
        np.testing.assert_allclose(standardize(x), standardize(1e-9 * x - 5e-9), rtol=1e-6)


class TestTensors:
    """float32 in a compiled update stays close to the float64 reference."""

    @given(
        steps=st.integers(1, 1000),
        gamma=st.floats(0, 1),
        gae_lambda=st.floats(0, 1),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=40, deadline=None)
    def test_returns_and_scores_of_a_thousand_steps(self, steps, gamma, gae_lambda, seed):
        rng = np.random.default_rng(seed)
        shape = steps, 3
        rewards, values = rng.normal(1, 3, shape), rng.normal(5, 20, shape)
        ends = {
            "terminated": rng.random(shape) < 0.02,
            "truncated": rng.random(shape) < 0.02,
            "mask": rng.random(shape) < 0.9,
        }
        arguments = [
            (lambda_returns, {"next_values": values, "gae_lambda": gae_lambda}),
            (lambda_returns, {}),
            (n_step_returns, {"next_values": values, "n": 5}),
        ]
        for function, options in arguments:
            exact = function(rewards, gamma, **options, **ends)
            single = {
                name: tf.cast(x, tf.float32) if isinstance(x, np.ndarray) else x
                for name, x in {**options, **ends}.items()
            }
            close = function(tf.constant(rewards, tf.float32), gamma, **single)
            assert close.dtype == tf.float32
            np.testing.assert_allclose(close, exact, atol=1e-5 * np.abs(exact).max() + 1e-30)
            for per in ("batch", "episode"):
                expected = standardize(exact, ends["mask"], per)
                scores = standardize(tf.constant(exact, tf.float32), single["mask"], per)
                largest = np.abs(expected).max()
                np.testing.assert_allclose(scores, expected, atol=1e-5 * largest + 1e-30)

    @pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1e9, 1 / 3, -0.1])
    @pytest.mark.parametrize("per", ["batch", "episode"])
    def test_many_equal_values_have_no_scores(self, value, per):
        assert not standardize(np.full((10_000, 4), value), per=per).any()
        compiled = tf.function(lambda x: standardize(x, per=per), jit_compile=True)
        assert not compiled(tf.fill([128, 512], value)).numpy().any()


@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_running_returns_are_those_of_a_loop(steps):
    rng = np.random.default_rng(steps)
    rewards, ended = rng.normal(size=(steps, 3)), rng.random((steps, 3)) < 0.3
    mask, before = rng.random((steps, 3)) < 0.8, rng.normal(size=3)
    ended &= mask
    expected, running = [], before
    for t in range(steps):
        running = np.where(mask[t], 0.9 * running + rewards[t], running)
        expected.append(running)
        running = np.where(ended[t], 0.0, running)
    found, after = running_returns(rewards, 0.9, before, ended=ended, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(after, running, rtol=1e-12, atol=1e-12)
    tensors = [tf.constant(x, tf.float32) for x in (rewards, before, ended, mask)]
    found, after = running_returns(tensors[0], 0.9, tensors[1], ended=tensors[2], mask=tensors[3])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(after, running, atol=1e-5)
