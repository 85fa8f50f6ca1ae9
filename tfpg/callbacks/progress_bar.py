"""A display of the progress of training: in a terminal, in a notebook, or in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tfpg.callbacks.progress import Curve, Progress, html, line, plain
from tfpg.core.backend import keras
from tfpg.core.messages import show

_RATE_SECONDS = 5.0  # over which steps per second are averaged
_COUNTS = "env_steps", "updates"
# Clears from the cursor to the end of the screen: a line takes several rows after the terminal has
# become narrower.
_CLEAR = "\x1b[J"


class ProgressBar(keras.callbacks.Callback):
    """The progress of training in environment steps, with returns, speed and the time left.

    With ``verbose=1`` or ``"auto"``, it is a line that is redrawn in place in a terminal, a block
    with a learning curve in a notebook, and a line of text every two seconds elsewhere, as in the
    log of a job. With ``verbose=2``, it is a line of text for each iteration. Set the environment
    variable ``NO_COLOR`` for a line without colors.

    Training ends after its last iteration, or when it has used the budget of `StopAtSteps`. The
    percentage is that of whichever comes first. The time left assumes the mean speed since the
    first iteration, which compiles.

    Logs contain no speeds, so that the same seed gives the same logs.

    Example:
        >>> import tfpg
        >>> agent = tfpg.PPO(tfpg.networks.actor_critic("CartPole-v1", seed=0), num_steps=16)
        >>> bar = [ProgressBar()]  # the default
        >>> _ = agent.fit("CartPole-v1", 2, bar, seed=0, verbose=2)  # doctest: +ELLIPSIS
        1/2 (50%) - ...env_steps: 12... - steps/s: ...
        2/2 (100% in 0:...) - ...env_steps: ...
    """

    def __init__(self) -> None:
        super().__init__()
        self._display: Any = None
        self._logs: Any

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._display is None and self.params["verbose"]:
            self._begin(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._display is None:
            return
        self._iteration, self._logs = epoch + 1, logs
        if "episode_return" in logs:
            self._returns.add(logs.get("env_steps", epoch), logs["episode_return"])
        if "val_episode_return" in logs:
            self._validations.add(logs.get("env_steps", epoch), logs["val_episode_return"])
        if time.monotonic() >= self._due:
            self._show()

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Show the last iteration and end the display, also after an error."""
        try:
            if self._display is not None:
                self._show(done=True)
        finally:
            self._display = None

    def _begin(self, epoch: int) -> None:
        steps = self.params.get("env_steps", 0)
        self._began = time.monotonic(), steps
        self._first = self._iteration = epoch
        self._logs = {"env_steps": steps}
        self._returns, self._validations = Curve(), Curve()
        past = self.params.get("history", {})  # of a run that resumes
        returns = past.get("episode_return", [])
        for pair in zip(past.get("env_steps", [])[-len(returns) :], returns, strict=False):
            self._returns.add(*pair)
        self._mark: tuple[float, float, float] | None = None
        self._samples: deque[tuple[float, float]] = deque()
        self._display = _display(self.params, epoch)
        self._show()
        self._due = 0.0

    def _show(self, done: bool = False) -> None:
        self._display.show(self._progress(done), self._returns.points, self._validations.points)
        self._due = time.monotonic() + self._display.period

    def _progress(self, done: bool) -> Progress:
        params, logs, now = self.params, self._logs, time.monotonic()
        steps, epochs = logs.get("env_steps", 0), params["epochs"]
        planned, limit = params.get("planned_env_steps"), params.get("max_env_steps")
        limited = limit is not None and (planned is None or limit < planned)
        fraction = min(max(self._iteration / epochs, steps / limit if limit else 0.0), 1.0)
        if self._iteration > self._first:  # the first iteration takes longer than the others
            self._mark = self._mark or (now, steps, fraction)
            self._samples.append((now, steps))
        while len(self._samples) > 2 and self._samples[1][0] < now - _RATE_SECONDS:
            self._samples.popleft()
        time_then, steps_then, fraction_then = self._mark or (now, steps, fraction)
        made = fraction - fraction_then
        since = self._samples[0] if self._samples else (now, steps)
        if done:
            since = (time_then, steps_then) if steps > steps_then else self._began
        return Progress(
            fraction,
            self._iteration,
            iterations=None if limited else epochs,
            env_steps=steps,
            budget=limit if limited else planned,
            mean_return=self._returns.last,
            best=self._returns.best,
            validation=self._validations.last,
            validates=bool(params.get("validates")) or self._validations.last is not None,
            rate=(steps - since[1]) / (now - since[0]) if now > since[0] else None,
            left=(now - time_then) * (1 - fraction) / made if made > 0 else None,
            elapsed=now - self._began[0],
            done=done,
            logs=logs,
        )


def resolve_verbose(verbose: Any) -> int:
    """Return 0, 1 or 2 for a ``verbose`` argument.

    Raises:
        ValueError: It is not ``"auto"``, 0, 1 or 2.
    """
    if verbose == "auto":
        return 1
    if verbose not in (0, 1, 2):
        raise ValueError(f'verbose must be "auto", 0, 1 or 2, got {verbose!r}.')
    return int(verbose)


def _display(params: Any, iteration: int) -> Any:
    if params["verbose"] == 2:
        return _Log(0.0, params, iteration)
    if hasattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel"):
        return _Notebook()
    if _is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb":
        return _Terminal(sys.stdout)
    return _Log(2.0, params, iteration)


class _Log:
    """Lines of text.

    Attributes:
        period: Seconds between them, at least.
    """

    def __init__(self, period: float, params: Any, iteration: int):
        self.period = period
        self._counts = {name: params.get(name, 0) for name in _COUNTS}
        self._at, self._iteration = time.monotonic(), iteration

    def show(self, progress: Progress, *_: Any) -> None:
        if progress.iteration == self._iteration:
            return
        now, counts = time.monotonic(), {x: progress.logs.get(x) for x in _COUNTS}
        rates = {
            f"{name.removeprefix('env_')}/s": round((count - before) / (now - self._at))
            for (name, count), before in zip(counts.items(), self._counts.values(), strict=True)
            if count is not None and now > self._at
        }
        self._counts, self._at, self._iteration = counts, now, progress.iteration
        show(plain(progress, rates))


class _Terminal:
    """A line that is redrawn in place.

    The cursor stays at its start. What other code prints appears above it: for this, the methods
    with which the standard output and error write are replaced while the line is visible.
    """

    period = 0.1

    def __init__(self, file: Any):
        self._file, self._write = file, file.write
        self._color = not os.environ.get("NO_COLOR")
        self._lock = threading.RLock()
        self._hooks: dict[Any, Callable[[str], int]] = {}
        self._is_visible, self._is_at_start = False, True

    def show(self, progress: Progress, *_: Any) -> None:
        with self._lock:
            text = line(progress, _columns(self._file), self._color, _has_unicode(self._file))
            end = "\n" if progress.done else "\r"
            self._draw(f"{'' if self._is_at_start else chr(10)}\r{text}{_CLEAR}{end}")
            self._is_visible, self._is_at_start = not progress.done, True
            if progress.done:
                self._unhook()
            elif not self._hooks:
                self._hook()

    def _draw(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the terminal was closed
            self._write(text)
            self._file.flush()

    def _hook(self) -> None:
        stream: Any
        for stream in dict.fromkeys([sys.stdout, sys.stderr]):
            if _is_terminal(stream):
                with suppress(AttributeError):
                    stream.write = self._hooks[stream] = partial(self._write_above, stream.write)

    def _unhook(self) -> None:
        for stream, hook in self._hooks.items():
            if stream.write is hook:  # no other line was begun after this one
                del stream.write
        self._hooks.clear()

    def _write_above(self, write: Callable[[str], int], text: str) -> int:
        with self._lock:
            if self._is_visible:
                self._draw(f"\r{_CLEAR}")
                self._is_visible = False
            if text:
                self._is_at_start = text.endswith("\n")
            return write(text)


class _Notebook:
    """An output of a notebook's cell that is updated in place."""

    period = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, progress: Progress, returns: Any, validations: Any) -> None:
        from IPython.display import display

        text = line(progress, 100)
        data = {"text/plain": text, "text/html": html(progress, returns, validations)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _is_terminal(file: Any) -> bool:
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # there is no output, or it is closed
        return False


def _columns(file: Any) -> int:
    with suppress(OSError, ValueError):
        return os.get_terminal_size(file.fileno()).columns or 80
    return 80


def _has_unicode(file: Any) -> bool:
    try:
        "━╸─".encode(file.encoding)
    except (UnicodeEncodeError, LookupError, TypeError):
        return False
    return True
