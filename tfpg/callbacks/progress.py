"""The progress of training as text: a line of a terminal, a line of a log, or HTML.

Everything here is a pure function of a `Progress`; `tfpg.callbacks.progress_bar` displays it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tfpg.core.messages import number

_FIRST = (
    *("episode_return", "episode_length", "env_steps", "steps/s", "updates/s"),
    *("val_episode_return", "val_episode_length"),
    *("epsilon", "loss", "mean_q", "policy_loss", "value_loss", "entropy"),
)
# Logs at the end of a wide line, as many as fit.
_EXTRA = ("episode_length", "epsilon", "loss", "mean_q", "policy_loss", "value_loss", "entropy")

_SHORTEST_BAR, _LONGEST_BAR = 5, 25  # columns
_UNITS = "", "k", "M", "G", "T"
_UNKNOWN = "-"

_GREEN, _BOLD_GREEN, _DIM = "32", "1;32", "2"  # of a terminal
_BLUE, _ORANGE, _GRAY = "#2a7de1", "#e8710a", "rgba(128,128,128,.3)"  # on black and on white
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 8, 12, 20  # margins of the curve, in pixels

_MOST_POINTS = 400  # of a curve

Points = Sequence[tuple[float, float]]


class Curve:
    """Returns over environment steps, thinned out to a few hundred.

    Attributes:
        last: The last return. None: there is none.
        best: The highest one.

    Example:
        >>> curve = Curve()
        >>> for step in range(100_000):
        ...     curve.add(step, -step)
        >>> curve.last, curve.best, len(curve.points) <= 401, curve.points[-1]
        (-99999, 0, True, (99999, -99999))
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.best: float | None = None
        self._kept: list[tuple[float, float]] = []
        self._newest: list[tuple[float, float]] = []
        self._every, self._skip = 1, 0

    def add(self, env_steps: float, mean_return: float) -> None:
        """Add a return after a number of environment steps."""
        self.last, self._newest = mean_return, [(env_steps, mean_return)]
        if self.best is None or mean_return > self.best:
            self.best = mean_return
        if self._skip:
            self._skip -= 1
            return
        self._kept += self._newest
        if len(self._kept) > _MOST_POINTS:
            del self._kept[1::2]
            self._every *= 2
        self._skip = self._every - 1

    @property
    def points(self) -> list[tuple[float, float]]:
        """Pairs of environment steps and return: evenly chosen ones, and the last."""
        return self._kept if self._kept[-1:] == self._newest else self._kept + self._newest


class Progress(NamedTuple):
    """Where a training run is.

    Attributes:
        fraction: The part of the run that is done, from 0 to 1.
        iteration: Number of iterations so far.
        iterations: Number at the end. None: environment steps end the run.
        env_steps: Number of environment steps so far.
        budget: Number at the end. None: unknown.
        mean_return: The last ``episode_return``. None: there was none yet.
        best: The highest ``episode_return``.
        validation: The last ``val_episode_return``.
        validates: Whether there are validations.
        rate: Environment steps per second. None: unknown.
        left: Seconds until the end. None: unknown.
        elapsed: Seconds so far.
        done: Whether the run has ended.
        logs: The logs of the last iteration.
    """

    fraction: float = 0.0
    iteration: int = 0
    iterations: int | None = None
    env_steps: int = 0
    budget: int | None = None
    mean_return: float | None = None
    best: float | None = None
    validation: float | None = None
    validates: bool = False
    rate: float | None = None
    left: float | None = None
    elapsed: float = 0.0
    done: bool = False
    logs: Mapping[str, float] = MappingProxyType({})


def line(progress: Progress, width: int, color: bool = False, unicode: bool = True) -> str:
    """Return the progress on one line of a terminal.

    If the terminal is narrow, the bar is shorter, and the least important values are left out.

    Args:
        progress: The progress.
        width: Columns of the terminal. One of them stays free, so that the line never wraps.
        color: Whether to add colors, as escape sequences that take no columns.
        unicode: Whether the terminal has line-drawing characters.

    Example:
        >>> at = Progress(
        ...     0.4, env_steps=400_000, budget=1_000_000, mean_return=21.5, best=23, left=42
        ... )
        >>> print(line(at, 60, unicode=False))
         40% ###-----  400k/1.0M  return 21.5    best 23.0    0:42
        >>> print(line(at, 40))
         40%  400k/1.0M  return 21.5    0:42
    """
    percent, room = f"{_percent(progress):3d}%", width - 1
    room -= len(percent)
    if room < 0:
        return percent[: max(width - 1, 0)]
    shown, bar = {"percent": percent}, 0
    for name, text in _values(progress):  # the most important first
        size = 1 + _SHORTEST_BAR if name == "bar" else 2 + len(text)
        if size > room:
            break
        room -= size
        shown[name] = text
    if "bar" in shown:
        bar = min(_SHORTEST_BAR + room, _LONGEST_BAR)
        room -= bar - _SHORTEST_BAR
    extra = []
    for text in _extra(progress):
        if "rate" in shown and 2 + len(text) <= room:
            room -= 2 + len(text)
            extra.append(text)
    if bar:
        shown["percent"] += " " + _bar(progress.fraction, bar, color, unicode)
    is_best = progress.mean_return is not None and progress.mean_return == progress.best
    if color and is_best and "best" in shown:
        shown["best"] = _painted(shown["best"], _BOLD_GREEN)
    order = ("percent", "count", "return", "best", "validation", "rate")
    texts = [shown[name] for name in order if name in shown] + extra
    return "  ".join([*texts, *([shown["time"]] if "time" in shown else [])]).rstrip()


def plain(progress: Progress, rates: Mapping[str, float]) -> str:
    """Return the progress as a line of a log, with all logs.

    Args:
        progress: The progress.
        rates: More values to print, such as ``{"steps/s": 1200}``.

    Example:
        >>> at = Progress(0.5, 1, 2, left=61, logs={"loss": 0.25, "env_steps": 4096})
        >>> plain(at, {"steps/s": 1200})
        '1/2 (50%, 1:01 left) - env_steps: 4,096 - steps/s: 1,200 - loss: 0.25'
    """
    count = f"{progress.iteration}"
    if progress.iterations is not None:
        count += f"/{progress.iterations}"
    when = f", {clock(progress.left)} left" if progress.left is not None else ""
    if progress.done or progress.fraction == 1:
        when = f" in {clock(progress.elapsed)}"
    logs = sorted({**progress.logs, **rates}.items(), key=lambda item: rank(item[0]))
    values = "".join(f" - {name}: {number(x)}" for name, x in logs if name != "val_env_steps")
    return f"{count} ({_percent(progress)}%{when}){values}"


def html(progress: Progress, returns: Points, validations: Points = ()) -> str:
    """Return the progress as HTML: a bar, the most important values, and the learning curve.

    Args:
        progress: The progress.
        returns: The learning curve; see `svg`.
        validations: The returns of validations.
    """
    count = f"{_count(progress).strip()}{' steps' * (progress.budget is not None)}"
    first = [f"{_percent(progress)}%", count, _rate(progress), _time(progress)]
    if progress.left is not None and not progress.done:
        first[-1] += " left"
    second = [
        f'<span style="color:{_BLUE}">&#9679;</span> return {value(progress.mean_return)}',
        f"best {value(progress.best)}",
    ]
    if progress.validates:
        circle = f'<span style="color:{_ORANGE}">&#9679;</span>'
        second.append(f"{circle} validation {value(progress.validation)}")
    full = f"width:{100 * progress.fraction:.1f}%;height:6px;border-radius:3px;background:{_BLUE}"
    lines = "".join(f"<div>{' &middot; '.join(each)}</div>" for each in (first, second))
    return (
        '<div style="max-width:640px;font:13px/1.6 monospace">'
        f'<div style="border-radius:3px;background:{_GRAY}"><div style="{full}"></div></div>'
        f"{lines}{svg(returns, validations)}</div>"
    )


def svg(returns: Points, validations: Points = (), width: int = 640, height: int = 180) -> str:
    """Return a learning curve as an SVG image that takes the color of the text around it.

    Args:
        returns: Environment steps and mean return, pair by pair: a line.
        validations: The same of validations: points.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        The image, or an empty text if there is nothing to draw.
    """
    points = [*returns, *validations]
    if not points:
        return ""
    (x0, x1), (y0, y1) = ((min(each), max(each)) for each in zip(*points, strict=True))
    right, bottom = width - _RIGHT, height - _BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = (point[0] - x0) / (x1 - x0) if x1 > x0 else 0.0
        y = (point[1] - y0) / (y1 - y0) if y1 > y0 else 0.5
        return _LEFT + x * (right - _LEFT), bottom - y * (bottom - _TOP)

    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, returns))
    circles = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_ORANGE}"/>'
        for x, y in map(at, validations)
    )
    labels = [(_LEFT - 6, bottom, "end", value(y0)), (_LEFT, height - 5, "start", short(x0))]
    if y1 > y0:
        labels.append((_LEFT - 6, _TOP + 8, "end", value(y1)))
    if x1 > x0:
        labels.append((right, height - 5, "end", f"{short(x1)} steps"))
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in labels
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" style="width:100%" role="img" '
        'aria-label="Mean return over environment steps">'
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="currentColor" '
        'stroke-opacity="0.4"/>'
        f'<g fill="currentColor" font-size="11" font-family="monospace">{texts}</g>'
        f'<polyline points="{curve}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>'
        f"{circles}</svg>"
    )


def short(count: float) -> str:
    """Return a count with at most four characters.

    Example:
        >>> [short(x) for x in (0, 412, 4_120, 99_600, 412_345, 999_700, 1_000_000, 25e9)]
        ['0', '412', '4.1k', '100k', '412k', '1.0M', '1.0M', '25G']
    """
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    digits = 1 if unit and count < 9.95 else 0
    return f"{count:.{digits}f}{_UNITS[unit]}"


def value(x: float | None) -> str:
    """Return a return with at most six characters.

    Example:
        >>> [value(x) for x in (None, -0.256, 21.04, -123.44, 4120.4, -2.5e6)]
        ['-', '-0.26', '21.0', '-123.4', '4120', '-2.5M']
    """
    if x is None:
        return _UNKNOWN
    size = abs(x)
    if size >= 99_999.5:
        return "-" * (x < 0) + short(size)
    return f"{x:.{2 if size < 9.995 else 1 if size < 999.95 else 0}f}"


def clock(seconds: float) -> str:
    """Return a duration in minutes and seconds, or in hours or days if it is long.

    Example:
        >>> [clock(x) for x in (0.4, 42, 754, 3723, 180_000)]
        ['0:00', '0:42', '12:34', '1:02:03', '2d 2h']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days = hours // 24
    if days:
        return f"{days}d {hours % 24}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rank(name: str) -> tuple[int, str]:
    """Return a sort key that puts the most important logs first."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST)), name


def _values(progress: Progress) -> Iterator[tuple[str, str]]:
    """The parts of a line with fixed widths, so that they stay where they are."""
    yield "count", _count(progress)
    yield "return", f"return {value(progress.mean_return):6}"
    yield "time", f"{_time(progress):5}"
    yield "best", f"best {value(progress.best):6}"
    yield "bar", ""
    if progress.validates:
        yield "validation", f"val {value(progress.validation):6}"
    yield "rate", f"{_rate(progress):12}"


def _extra(progress: Progress) -> Iterator[str]:
    names = _EXTRA if progress.budget is not None else ("env_steps", *_EXTRA)
    for name in names:
        if name in progress.logs:
            yield f"{name.removeprefix('episode_')} {number(progress.logs[name]):9}"


def _count(progress: Progress) -> str:
    if progress.budget is not None:
        return f"{short(progress.env_steps):>4}/{short(progress.budget)}"
    total = str(progress.iterations)
    return f"{progress.iteration:{len(total)}d}/{total} it"


def _rate(progress: Progress) -> str:
    rate = _UNKNOWN if progress.rate is None else short(progress.rate)
    return f"{rate} steps/s"


def _time(progress: Progress) -> str:
    if progress.done:
        return f"in {clock(progress.elapsed)}"
    return "-:--" if progress.left is None else clock(progress.left)


def _percent(progress: Progress) -> int:
    return int(100 * progress.fraction + 1e-9)


def _bar(fraction: float, width: int, color: bool, unicode: bool) -> str:
    full, half, rest = "━╸─" if unicode else "#--"
    halves = int(2 * width * fraction + 1e-9)
    done = full * (halves // 2) + half * (halves % 2)
    left = rest * (width - len(done))
    return _painted(done, _GREEN) + _painted(left, _DIM) if color else done + left


def _painted(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if text else ""
