import pytest

from tfpg.core.seeding import (
    check_seed,
    evaluation_rng,
    fragment_rng,
    shuffle_rng,
    training_rng,
)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        check_seed(seed)


def test_no_seed_is_a_new_one_each_time():
    assert check_seed(None) != check_seed(None)


def test_each_use_seed_and_number_has_its_own_stream():
    uses = training_rng, evaluation_rng, fragment_rng, shuffle_rng
    draws = {rng(seed, n).random() for rng in uses for seed in range(5) for n in range(5)}
    assert len(draws) == 100
