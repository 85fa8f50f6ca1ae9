"""Tiny environments with known right answers."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Countdown(gymnasium.Env):
    """Observes the step and the episode, pays 1 for each step, and terminates after ``length``.

    With ``lengths``, episode k has ``lengths[k]`` steps. ``seeds`` holds the seeds of all resets.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, length=3, lengths=None, dtype=np.float32, render_mode=None):
        self.lengths = lengths or [length]
        self.observation_space = spaces.Box(-1, 1000, (2,), dtype)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self.seeds, self.episode, self.t = [], -1, 0

    def _observe(self):
        return np.array([self.t, self.episode], self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode += 1
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), repr(action)
        self.t += 1
        ended = self.t >= self.lengths[self.episode % len(self.lengths)]
        return self._observe(), 1.0, ended, False, {}

    def render(self):
        return np.full((32, 48, 3), 10 * self.t, np.uint8) if self.render_mode else None


class Endless(gymnasium.Env):
    """Never ends, and has no time limit."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Bandit(gymnasium.Env):
    """One step; observes a sign, and pays 1 for the action that matches it.

    ``space`` is the action space. In a Box, the reward is minus the squared distance to half the
    sign.
    """

    def __init__(self, space=None):
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = int(self.np_random.integers(2))
        return np.array([2 * self.sign - 1], np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), repr(action)
        if isinstance(self.action_space, spaces.Discrete):
            reward = float(action - self.action_space.start == self.sign)
        else:
            reward = -float(np.sum((action - (2 * self.sign - 1) * 0.5) ** 2))
        return np.zeros(1, np.float32), reward, True, False, {}


class Windowed(Countdown):
    """Only opens a window, 120 wide and 81 high, and draws the step into it.

    With ``when="asked"`` it draws when `render` is called, as few environments do.
    """

    metadata = {"render_modes": ["human"], "render_fps": 10}

    def __init__(self, length=5, render_mode="human", when="stepped"):
        super().__init__(length, render_mode=render_mode)
        self.when, self.screen = when, None

    def _draw(self):
        import pygame

        if self.screen is None:
            pygame.display.init()
            self.screen = pygame.display.set_mode((120, 81))
        self.screen.fill((10 * self.t, 100, 200))
        pygame.draw.rect(self.screen, (255, 255, 0), (10 * self.t, 0, 10, 81))
        pygame.display.flip()

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        if self.when == "stepped":
            self._draw()
        return result

    def step(self, action):
        result = super().step(action)
        if self.when == "stepped":
            self._draw()
        return result

    def render(self):
        if self.when == "asked":
            self._draw()

    def close(self):
        import pygame

        if self.screen is not None:
            pygame.display.quit()
            self.screen = None


class Listed(Countdown):
    """Renders a list of two frames after a step, and of one frame after a reset."""

    metadata = {"render_modes": ["rgb_array_list"], "render_fps": 10}

    def __init__(self, length=3, render_mode="rgb_array_list"):
        super().__init__(length, render_mode=render_mode)

    def render(self):
        last = np.full((32, 48, 3), 10 * self.t, np.uint8)
        return [last - 5, last] if self.t else [last]


class Walk(gymnasium.Env):
    """Random observations, and rewards that depend on the actions.

    Episodes have different lengths. Each is terminated or truncated at random.
    """

    def __init__(self, action_space=None, lengths=(5, 1, 9), integer_rewards=False):
        self.observation_space = spaces.Box(-9, 9, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.lengths, self.integer_rewards = lengths, integer_rewards

    def _observe(self):
        return self.np_random.normal(size=3).astype("float32")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, self.lengths[int(self.np_random.integers(len(self.lengths)))]
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.length
        reward = float(np.sum(np.asarray(action))) + float(self.np_random.normal(2.0))
        cut = bool(self.np_random.integers(2))
        if self.integer_rewards:
            reward = round(reward)
        return self._observe(), reward, over and not cut, over and cut, {}


class Camera(gymnasium.Env):
    """Episodes of four random images, 8 by 8."""

    observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def _observe(self):
        return self.np_random.integers(0, 255, (8, 8, 1), dtype=np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        return self._observe(), 1.0, self.t == 4, False, {}
