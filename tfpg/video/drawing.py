"""How a film looks: what of the picture is shown, how large, and what is written under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import Policy, as_policy, is_policy_like
from tfpg.video import OVERLAYS
from tfpg.video.episodes import Shot
from tfpg.video.explain import (
    Bar,
    Range,
    action_names,
    action_text,
    bar_labels,
    bars,
    entropy,
    two_digits,
    value_reader,
)
from tfpg.video.frames import Box, as_frame, cropped, fitted, scaled
from tfpg.video.saliency import saliency, sees_images
from tfpg.video.text import Item, Strip, number, tinted, under


class Look(NamedTuple):
    """How a film looks.

    Attributes:
        overlay: Of `OVERLAYS`, or ``("all",)``.
        scale: How much larger than it is rendered the picture is shown.
        crop: What is shown of it, before it is scaled: left, top, right and bottom.
        names: Of the actions. None: what is known of them.
    """

    overlay: tuple[str, ...] = ("caption",)
    scale: float = 1.0
    crop: Box | None = None
    names: Sequence[str] | None = None


def look_of(
    overlay: str | bool | Sequence[str] | None,
    scale: float,
    crop: Sequence[int] | None,
    names: Sequence[str] | None,
) -> Look:
    """A `Look` of what a user says.

    Raises:
        ValueError: A name is unknown, ``scale`` is not above 0, or ``crop`` is no four numbers.

    Example:
        >>> look_of("bars", 1.0, None, None).overlay, look_of(False, 1.0, None, None).overlay
        (('bars',), ())
    """
    if overlay is None or isinstance(overlay, bool):
        overlay = ("all",) if overlay else ()
    overlay = (overlay,) if isinstance(overlay, str) else tuple(overlay)
    for name in overlay:
        if name not in (*OVERLAYS, "all"):
            raise ValueError(
                f"Unknown overlay {name!r}: it is of {', '.join(OVERLAYS)}, or all of them."
            )
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be above 0, and it is {scale!r}.")
    if crop is not None and len(crop) != 4:
        raise ValueError(f"crop is four numbers, (left, top, right, bottom), and it is {crop!r}.")
    return Look(overlay, float(scale), None if crop is None else tuple(map(int, crop)), names)  # type: ignore[arg-type]


class Artist:
    """Draws the frames of one policy's episodes, all in one size.

    Args:
        policy: What plays.
        env: The environment it plays in.
        look: How.
        title: In front of what is written.
        titles: Of all that is in the film, so that the widest has its place.

    Raises:
        ValueError: The policy has not what the overlay is to show, or there are not as many
            ``names`` as actions.
    """

    def __init__(
        self,
        policy: Any,
        env: gymnasium.Env,
        look: Look,
        title: str = "",
        titles: Sequence[str] = (),
    ):
        self._look, self._title = look, title
        self._widest = max((*titles, title), key=len)
        self._policy: Any = as_policy(policy, env) if is_policy_like(policy) else None
        self._space = env.action_space
        self._wanted = _wanted(look.overlay, self._policy, self._space)
        self._names = _checked_names(look.names, action_names(env))
        self._seen = Range()
        self._value: Any = None
        self._salient: Any = None
        if self._policy is not None:
            if "value" in self._wanted:
                self._value = value_reader(self._policy)
            if "saliency" in self._wanted:
                self._salient = saliency(self._policy)
        self._size: tuple[int, int] | None = None
        self._strip: Strip

    def draw(self, shot: Shot) -> np.ndarray:
        """The frame of a shot, ``[height, width, 3]`` uint8."""
        picture = as_frame(shot.image)
        if self._salient is not None:
            picture = tinted(picture, self._salient(shot.observation[0]))
        if self._look.crop is not None:
            picture = cropped(picture, self._look.crop)
        picture = scaled(picture, self._look.scale)
        items = self._items(shot)
        if self._size is None:
            self._size = height, width = picture.shape[:2]
            labels = bar_labels(self._space, self._names) if "bars" in self._wanted else ()
            self._strip = Strip(height, width, items, labels)
        picture = fitted(picture, *self._size)
        if not self._strip.height:
            return picture
        chart: Sequence[Bar] = ()
        if "bars" in self._wanted and shot.decision is not None:
            chart = bars(self._policy, shot.decision, self._names, self._seen)
        return under(picture, self._strip.draw(items, chart))

    def _items(self, shot: Shot) -> list[Item]:
        """Always the same words, of which those that are not known now are empty."""
        items, decision, policy = [], shot.decision, self._policy
        if self._widest:
            items.append(Item("", self._title, self._widest))
        if "caption" in self._wanted:
            items.append(Item("step", str(shot.step), "00000"))
            items.append(Item("return", number(shot.episode_return)))
        if "action" in self._wanted:
            text = ""
            if decision is not None:
                text = action_text(self._space, decision.env_actions[0], self._names)
            items.append(Item("action", text, self._widest_action()))
        if "value" in self._wanted:
            items.append(
                self._number("value", decision and self._value(shot.observation, decision))
            )
        if "entropy" in self._wanted:
            items.append(self._number("entropy", decision and entropy(policy, decision)))
        if "epsilon" in self._wanted:
            items.append(self._number("epsilon", policy.head.epsilon))
        return items

    @staticmethod
    def _number(label: str, value: float | None) -> Item:
        return Item(label, "" if value is None else two_digits(value), "-0000.00")

    def _widest_action(self) -> str:
        if isinstance(self._space, gymnasium.spaces.Discrete):
            return max(self._names, key=len)
        return " ".join(["-0.00"] * len(self._names))


def _wanted(
    overlay: Sequence[str], policy: Policy | None, space: gymnasium.Space
) -> tuple[str, ...]:
    """What of the overlay to draw: all that a policy has, or just what is said, if it has that.

    Raises:
        ValueError: It has not.
    """
    has = {"caption", "action"}
    if policy is not None:
        q_values = isinstance(policy.head, EpsilonGreedyHead)
        has |= {"bars", "entropy"} | ({"epsilon"} if q_values else set())
        has |= {"value"} if policy.has_value or q_values else set()
        has |= {"saliency"} if sees_images(policy.observation_space) else set()
    if "all" in overlay:
        if not isinstance(space, gymnasium.spaces.Discrete):
            has -= {"action"}  # the bars say it, and shorter
        return tuple(name for name in OVERLAYS if name in has)
    missing = [name for name in overlay if name not in has]
    if missing:
        offered = ", ".join(name for name in OVERLAYS if name in has)
        raise ValueError(
            f"The overlay {missing[0]!r} is not for this policy, which has {offered}."
            + (" A bare Q-network: tfpg.Policy(model, env, epsilon=0)." * (missing[0] == "epsilon"))
        )
    return tuple(overlay)


def _checked_names(names: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if names is None:
        return tuple(known)
    if len(names) != len(known):
        raise ValueError(f"There are {len(known)} actions and {len(names)} names for them.")
    return tuple(map(str, names))
