"""What happens in an environment does not depend on which others a player has."""

import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import tfpg
from tfpg.core.arrays import map_arrays
from tfpg.envs import open_vec
from tfpg.models.policy import Policy
from tfpg.rollouts.env_state import with_earlier
from tfpg.rollouts.player import Player
from tfpg.rollouts.trajectory import assembled

ENVS = ["Acrobot-v1", "Pendulum-v1"]


def policy_for(env):
    hidden = (64, 64) if env == "Pendulum-v1" else (20, 10)
    return Policy(tfpg.networks.mlp(env, hidden=hidden, normalize=True, seed=0), env)


def split(total, sizes):
    firsts = np.cumsum([0, *sizes])
    assert firsts[-1] == total
    return zip(firsts.tolist(), sizes, strict=False)


def check_equal(one, other):
    for name in one._fields:
        a, b = getattr(one, name), getattr(other, name)
        if name == "observations":  # padding may differ
            a, b = (map_arrays(lambda x: x[:-1] * (one.mask > 0)[..., None], x) for x in (a, b))
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(
    ("total", "sizes"), [(5, (2, 2, 1)), (8, (3, 5)), (8, (8,)), (20, (7, 6, 7)), (20, (1, 19))]
)
def test_fragments_and_episodes_are_the_same_in_parts(env, total, sizes):
    actor = policy_for(env).actor()

    def play(first, count):
        with open_vec(env, count) as envs:
            player = Player(envs, seed=3, first=first, total=total)
            steps = [player.steps(actor, n, 30, max_steps=25).played for n in range(3)]
            return steps, player.episodes(actor, 7, total + 2, max_steps=20)

    steps, episodes = play(0, total)
    parts = [play(*share) for share in split(total, sizes)]
    for n in range(3):
        check_equal(steps[n].data, assembled([part[0][n] for part in parts]))
    rounds = [each for part in parts for each in part[1]]
    check_equal(assembled(episodes), assembled(rounds))


def test_the_noise_of_an_environment_depends_on_its_index():
    actor = policy_for("Acrobot-v1").actor()

    def actions(seed, fragment, first=0):
        with open_vec("Acrobot-v1", 3) as envs:
            player = Player(envs, seed, first=first, total=9)
            return player.steps(actor, fragment, 40).played.data.actions.tobytes()

    found = {actions(1, 0), actions(2, 0), actions(1, 1), actions(1, 0, first=6)}
    assert len(found) == 4


def test_seeds_of_episodes_in_fragments_do_not_depend_on_when_others_end():
    def seeds(lengths):
        made = []

        class Seen(gymnasium.Env):
            observation_space = gymnasium.spaces.Box(-1, 1, (6,))
            action_space = gymnasium.spaces.Discrete(3)

            def __init__(self):
                self.length, self.seeds = lengths[len(made)], []
                made.append(self)

            def reset(self, *, seed=None, options=None):
                self.t = 0
                self.seeds.append(seed)
                return np.zeros(6, np.float32), {}

            def step(self, action):
                self.t += 1
                return np.zeros(6, np.float32), 0.0, self.t >= self.length, False, {}

        with open_vec(Seen, 2) as envs:
            Player(envs, 0).steps(policy_for("Acrobot-v1").actor(), 0, 12)
        return [env.seeds for env in made]

    (fast, other), (slow, same) = seeds([2, 5]), seeds([6, 5])
    assert same == other
    assert fast[: len(slow)] == slow
    assert len({*fast, *other}) == len(fast) + len(other)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("env", ENVS)
def test_states_with_new_actions_add_up_to_the_state_and_restore_a_player(env, whole):
    actor = policy_for(env).actor()

    def play(player, n):
        if whole:
            return assembled(player.episodes(actor, 3 * n, 3, max_steps=15))
        return player.steps(actor, n, 11, max_steps=30).played.data

    state = None
    with open_vec(env, 3) as envs, open_vec(env, 3) as others:
        player, follower = Player(envs, 5), Player(others, 5)
        player.follow()
        follower.follow()
        for n in range(6):
            play(player, n)
            play(follower, n)
            found = player.get_state(new=True)
            before = state and state["position"]
            found["position"] = with_earlier(found["position"], before)
            state = found
        expected = follower.get_state()
        np.testing.assert_equal(state["position"]["actions"], expected["position"]["actions"])
        assert state["position"]["seen"] == expected["position"]["seen"]
        with open_vec(env, 3) as new:
            restored = Player(new, 5)
            assert not restored.set_state(pickle.loads(pickle.dumps(state))).any()
            check_equal(play(restored, 6), play(follower, 6))


def test_another_process_acts_without_tensorflow(tmp_path):
    policy, x = policy_for("Pendulum-v1"), np.random.default_rng(0).normal(size=(20, 3))
    noise = policy.head.noise(np.random.default_rng(1), 20)
    (tmp_path / "actor").write_bytes(pickle.dumps((policy.actor(), x, noise)))
    program = f"""
import pickle, sys
from pathlib import Path
import tfpg.rollouts.player
actor, x, noise = pickle.loads(Path({str(tmp_path / "actor")!r}).read_bytes())
actions = actor(x, noise).env_actions
assert not {{"tensorflow", "keras"}} & {{*sys.modules}}
Path({str(tmp_path / "actions")!r}).write_bytes(actions.tobytes())
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    expected = policy.actor()(x, noise).env_actions
    assert (tmp_path / "actions").read_bytes() == expected.tobytes()
