"""Drawing frames: the part of the picture, its size, and the panel below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import Policy, as_policy, is_policy_like
from tfpg.video import OVERLAYS
from tfpg.video.episodes import RenderedStep
from tfpg.video.explain import (
    RunningRange,
    action_bars,
    action_names,
    action_text,
    entropy,
    two_decimals,
    value_function,
    widest_bar_labels,
)
from tfpg.video.frames import add_below, as_frame, crop, enlargement, letterbox, rescale, tint
from tfpg.video.panel import Field, Panel
from tfpg.video.saliency import saliency_function, sees_images

_DECIMALS = "-0000.00"


@dataclass
class DrawingOptions:
    """The drawing options of `tfpg.record`, checked as far as possible without a policy.

    Afterwards ``overlay`` is a tuple of names from `OVERLAYS`, or ``("all",)``.

    Example:
        >>> DrawingOptions("bars").overlay, DrawingOptions(False).overlay
        (('bars',), ())
    """

    overlay: Any = "caption"
    scale: float | None = None
    crop: Any = None
    action_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.overlay is None or isinstance(self.overlay, bool):
            self.overlay = ("all",) if self.overlay else ()
        self.overlay = (self.overlay,) if isinstance(self.overlay, str) else tuple(self.overlay)
        for name in self.overlay:
            if name not in (*OVERLAYS, "all"):
                raise ValueError(
                    f"Unknown overlay {name!r}. Expected some of {', '.join(OVERLAYS)}, or "
                    "overlay=True for all of them."
                )
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be positive, but it is {self.scale!r}.")
        if self.crop is not None:
            if len(self.crop) != 4:
                raise ValueError(
                    f"crop must be (left, top, right, bottom), but it is {self.crop!r}."
                )
            self.crop = tuple(map(int, self.crop))


class FrameDrawer:
    """Draws the frames of one policy's episodes, all in one size.

    The widest of all ``titles`` of the video decides how much room a title gets.

    Attributes:
        color: The color of all pixels of all pictures so far. None: there is more than one.

    Raises:
        ValueError: The policy does not have what the overlay is to show, or the number of action
            names is not the number of actions.
    """

    def __init__(
        self,
        policy: Any,
        env: gymnasium.Env,
        options: DrawingOptions,
        title: str = "",
        titles: Sequence[str] = (),
    ):
        self._policy: Any = as_policy(policy, env) if is_policy_like(policy) else None
        self._options, self._space = options, env.action_space
        self._overlay = _checked_overlay(options.overlay, self._policy, self._space)
        self._names = _checked_names(options.action_names, action_names(env))
        self._q_range = RunningRange()
        self._saliency: Any = None
        if self._policy is not None and "saliency" in self._overlay:
            self._saliency = saliency_function(self._policy)
        texts = list(self._texts(title, max((*titles, title), key=len)))
        self._fields, self._readers = [field for field, _ in texts], [read for _, read in texts]
        self.color: tuple[int, ...] | None = None
        self._size: tuple[int, int] | None = None
        self._panel: Panel

    def draw(self, step: RenderedStep) -> np.ndarray:
        """Return the frame of a step, ``[height, width, 3]`` uint8."""
        picture = as_frame(step.image)
        if self._size is None:
            self.color = tuple(picture[0, 0].tolist())
        if self.color is not None and (picture != self.color).any():
            self.color = None
        if self._saliency is not None:
            picture = tint(picture, self._saliency(step.observation[0]))
        scale = self._options.scale or enlargement(*picture.shape[:2])
        if self._options.crop is not None:
            picture = crop(picture, self._options.crop)
        picture = rescale(picture, scale)
        has_bars = "bars" in self._overlay
        if self._size is None:
            self._size = picture.shape[:2]
            labels = widest_bar_labels(self._space, self._names) if has_bars else ()
            self._panel = Panel(*self._size, self._fields, labels)
        picture = letterbox(picture, *self._size)
        if not self._panel.height:
            return picture
        bars = []
        if has_bars and step.decision is not None:
            bars = action_bars(self._policy, step.decision, self._names, self._q_range)
        return add_below(picture, self._panel.draw([read(step) for read in self._readers], bars))

    def _texts(
        self, title: str, widest: str
    ) -> Iterator[tuple[Field, Callable[[RenderedStep], str]]]:
        """The fields of the panel, and how to read the text of each from a step."""
        policy, space, names = self._policy, self._space, self._names

        def if_decided(read: Callable[[RenderedStep, Any], str]) -> Callable[[RenderedStep], str]:
            return lambda step: "" if step.decision is None else read(step, step.decision)

        if widest:
            yield Field("", widest), lambda _: title
        if "caption" in self._overlay:
            yield Field("step", "00000"), lambda step: str(step.step)
            yield Field("return"), lambda step: short_number(step.episode_return)
        if "action" in self._overlay:
            is_discrete = isinstance(space, gymnasium.spaces.Discrete)
            width = max(names, key=len) if is_discrete else " ".join(["-0.00"] * len(names))
            read = if_decided(
                lambda _, decision: action_text(space, decision.env_actions[0], names)
            )
            yield Field("action", width), read
        if "value" in self._overlay:
            value: Any = value_function(policy)
            read = if_decided(lambda step, made: two_decimals(value(step.observation, made)))
            yield Field("value", _DECIMALS), read
        if "entropy" in self._overlay:
            read = if_decided(lambda _, decision: two_decimals(entropy(policy, decision)))
            yield Field("entropy", _DECIMALS), read
        if "epsilon" in self._overlay:
            yield Field("epsilon", _DECIMALS), lambda _: two_decimals(policy.head.epsilon)


def short_number(value: float) -> str:
    """Format a whole number without decimals, and others with one.

    Example:
        >>> short_number(21.0), short_number(-3.25), short_number(float("nan"))
        ('21', '-3.2', 'nan')
    """
    text = str(int(value)) if float(value).is_integer() else f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _checked_overlay(
    overlay: Sequence[str], policy: Policy | None, space: gymnasium.Space
) -> tuple[str, ...]:
    """The parts of the overlay to draw: everything the policy has, or what was asked for."""
    available = {"caption", "action"}
    if policy is not None:
        is_q_network = isinstance(policy.head, EpsilonGreedyHead)
        available |= {"bars", "entropy"}
        available |= {"epsilon"} if is_q_network else set()
        available |= {"value"} if policy.has_value or is_q_network else set()
        available |= {"saliency"} if sees_images(policy.observation_space) else set()
    if "all" in overlay:
        if not isinstance(space, gymnasium.spaces.Discrete):
            available -= {"action"}  # the bars show the same numbers in less space
        return tuple(name for name in OVERLAYS if name in available)
    for name in overlay:
        if name not in available:
            offered = ", ".join(each for each in OVERLAYS if each in available)
            hint = " A Q-network is tfpg.Policy(model, env, epsilon=0)." * (name == "epsilon")
            raise ValueError(
                f"The overlay {name!r} is not available for this policy, only {offered}.{hint}"
            )
    return tuple(overlay)


def _checked_names(names: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if names is None:
        return tuple(known)
    if len(names) != len(known):
        raise ValueError(f"Expected {len(known)} action_names, but got {len(names)}.")
    return tuple(map(str, names))
