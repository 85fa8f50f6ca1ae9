"""The progress of training: what is shown, in terminals of any width, logs and notebooks."""

import contextlib
import fcntl
import functools
import itertools
import logging
import os
import re
import struct
import sys
import termios
import threading
import time
from xml.etree import ElementTree

import keras
import pytest
from small import SMALL, prepared, q_network, small_agent
from toys import Countdown

import tfpg
from tfpg.callbacks import StopAtSteps
from tfpg.callbacks.progress import Curve, Progress, html, line, plain, svg

CODES = re.compile(r"\x1b\[[\d;]*m")
LOGS = {"episode_return": 123.44, "env_steps": 412_345.0, "loss": 0.0789, "epsilon": 0.05}
HALF = Progress(
    0.412,
    *(161, 390),
    env_steps=412_345,
    budget=1_000_000,
    mean_return=123.44,
    best=140.2,
    rate=35_200.0,
    left=42.0,
    logs=LOGS,
)


class TestLine:
    @pytest.mark.parametrize(
        ("width", "text"),
        [
            (1, ""),
            (4, " 41"),
            (12, " 41%"),
            (20, " 41%  412k/1.0M"),
            (40, " 41%  412k/1.0M  return 123.4   0:42"),
            (60, " 41% ━━━─────  412k/1.0M  return 123.4   best 140.2   0:42"),
            (70, " 41% ━━━━━━━───────────  412k/1.0M  return 123.4   best 140.2   0:42"),
            (80, " 41% ━━━━━╸────────  412k/1.0M  return 123.4   best 140.2   35k steps/s   0:42"),
            (
                120,
                " 41% ━━━━━━━━━━───────────────  412k/1.0M  return 123.4   best 140.2   35k steps/s"
                "   epsilon 0.05       0:42",
            ),
        ],
    )
    def test_a_narrow_terminal_shows_the_most_important_values(self, width, text):
        assert line(HALF, width) == text

    def test_it_never_fills_the_line(self):
        for progress in (
            HALF,
            HALF._replace(budget=None, validates=True, validation=-1e6, left=1e6),
            Progress(1.0, 9, 9, done=True, elapsed=1e7, mean_return=-99_999.0),
        ):
            for width in range(250):
                assert len(CODES.sub("", line(progress, width, color=True))) <= max(width - 1, 0)

    def test_colors_take_no_columns_and_mark_a_new_best_return(self):
        colored = line(HALF, 80, color=True)
        assert CODES.sub("", colored) == line(HALF, 80)
        assert "\x1b[1;32mbest" not in colored
        assert "\x1b[1;32mbest 140.2" in line(HALF._replace(mean_return=140.2), 80, color=True)

    def test_without_unicode(self):
        assert line(HALF, 60, unicode=False).startswith(" 41% ###-----  412k/1.0M  return")

    def test_iterations_are_counted_if_the_steps_are_not_known(self):
        progress = HALF._replace(budget=None)
        assert line(progress, 50) == " 41%  161/390 it  return 123.4   0:42"
        assert "  env_steps 412,345  " in line(progress, 120)

    def test_before_the_first_return(self):
        start = Progress(0.0, 0, 10, budget=5000, validates=True)
        expected = "  0% ──────     0/5.0k  return -       best -       val -       0:42"
        assert line(start._replace(left=42.0), 70) == expected
        assert line(start, 40) == "  0%     0/5.0k  return -       -:--"

    def test_the_end_has_the_time_it_took(self):
        end = HALF._replace(done=True, elapsed=83.0, fraction=1.0)
        assert line(end, 40) == "100%  412k/1.0M  return 123.4   in 1:23"


def test_a_line_of_a_log_has_all_logs_the_most_important_first():
    assert plain(HALF, {"steps/s": 35_200}) == (
        "161/390 (41%, 0:42 left) - episode_return: 123.4 - env_steps: 412,345 - steps/s: 35,200 - "
        "epsilon: 0.05 - loss: 0.0789"
    )
    assert plain(HALF._replace(iterations=None, left=None, logs={}), {}) == "161 (41%)"
    assert plain(HALF._replace(done=True, elapsed=83, logs={}), {}) == "161/390 (41% in 1:23)"


class TestCurve:
    RETURNS = ((0, -20.0), (50_000, 30.0), (100_000, 80.0))

    def test_the_corners_have_the_first_and_last_values(self):
        image = ElementTree.fromstring(svg(self.RETURNS, [(50_000, 60.0)], 320, 128))
        (curve,) = image.iter("polyline")
        assert curve.get("points") == "60.0,108.0 184.0,58.0 308.0,8.0"
        (point,) = image.iter("circle")
        assert (point.get("cx"), point.get("cy")) == ("184.0", "28.0")
        assert [x.text for x in image.iter("text")] == ["-20.0", "0", "80.0", "100k steps"]

    def test_texts_and_axes_have_the_color_of_the_page(self):
        image = ElementTree.fromstring(svg(self.RETURNS))
        assert next(image.iter("path")).get("stroke") == "currentColor"
        assert next(image.iter("g")).get("fill") == "currentColor"

    @pytest.mark.parametrize("returns", [[(5, 1.0)], [(5, 1.0), (9, 1.0)]])
    def test_equal_returns_are_drawn_in_the_middle(self, returns):
        image = ElementTree.fromstring(svg(returns, height=128))
        assert {x.split(",")[1] for x in next(image.iter("polyline")).get("points").split()} == {
            "58.0"
        }

    def test_nothing_is_drawn_before_the_first_return(self):
        assert svg([]) == ""

    def test_a_long_curve_is_thinned_out_evenly(self):
        curve = Curve()
        for i in range(12_345):
            curve.add(10 * i, i % 1000)
        steps = [step for step, _ in curve.points]
        gaps = {after - before for before, after in itertools.pairwise(steps[:-1])}
        assert steps[0] == 0
        assert steps[-1] == 123_440
        assert len(gaps) == 1
        assert 200 <= len(steps) <= 402
        assert (curve.last, curve.best) == (344, 999)

    def test_the_block_of_a_notebook_has_the_numbers_and_the_curve(self):
        block = html(HALF._replace(validates=True, validation=130.0), self.RETURNS)
        text = re.sub("<[^>]*>", "|", block)
        assert "|41% &middot; 412k/1.0M steps &middot; 35k steps/s &middot; 0:42 left|" in text
        assert "return 123.4 &middot; best 140.2 &middot; |&#9679;| validation 130.0|" in text
        assert "width:41.2%" in block
        assert block.count("<svg") == 1
        ElementTree.fromstring(block.replace("&middot;", ""))


class Screen:
    """A terminal that shows what is written to it, and what wraps.

    Attributes:
        rows: The lines on the screen.
        wrapped: Whether a line was too long.
    """

    def __init__(self, width):
        self.width, self.rows, self.wrapped = width, [""], False
        self.column = 0

    def write(self, text):
        for each in re.findall(r"\x1b\[[\d;]*[a-zA-Z]|.|\n|\r", text, re.S):
            row = self.rows[-1]
            if each == "\n":
                self.rows.append("")
                self.column = 0
            elif each == "\r":
                self.column = 0
            elif each == "\x1b[J":
                self.rows[-1] = row[: self.column]
            elif not each.startswith("\x1b"):
                self.wrapped |= self.column >= self.width - 1
                self.rows[-1] = row[: self.column] + each + row[self.column + 1 :]
                self.column += 1


class Terminal:
    """A pseudo-terminal as standard output and error. `read` returns what was written."""

    def __init__(self, width, encoding="utf-8"):
        master, self.slave = os.openpty()
        self.resize(width)
        self.file = open(self.slave, "w", encoding=encoding, errors="strict")  # noqa: SIM115
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._written = b""
        self._reader.start()

    def resize(self, width):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))

    def _read(self, master):
        with contextlib.suppress(OSError):  # the other end was closed
            while data := os.read(master, 4096):
                self._written += data
        os.close(master)

    def read(self):
        self.file.close()
        self._reader.join()
        return self._written.decode().replace("\r\n", "\n")


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes a terminal of a width the standard output and error."""

    def make(width, encoding="utf-8"):
        made = Terminal(width, encoding)
        monkeypatch.setattr(sys, "stdout", made.file)
        monkeypatch.setattr(sys, "stderr", made.file)
        return made

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield make
    monkeypatch.undo()


@functools.cache
def shared_agent():
    return prepared(small_agent(tfpg.Reinforce), "CartPole-v1")


def fit(iterations=4, callbacks=(), **options):
    return shared_agent().fit("CartPole-v1", iterations, [*callbacks], seed=0, **options)


class EachIteration(keras.callbacks.Callback):
    """Calls a function with the number of the iteration, and waits until the line is redrawn."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        self.function(epoch)
        time.sleep(0.11)


class TestTerminal:
    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_one_line_is_redrawn_and_the_last_one_stays(self, terminal, width):
        tty, screen = terminal(width), Screen(width)
        fit(callbacks=[EachIteration(lambda _: None)], validation_envs="CartPole-v1")
        written = tty.read()
        screen.write(written)
        assert written.count("%") == 6  # at the start, after each iteration, and at the end
        assert not screen.wrapped
        assert len(screen.rows) == 2
        assert screen.rows[1] == ""
        assert re.match(r"100% (━+)?.* 4/4 it  return .* in 0:0\d$", screen.rows[0])

    def test_the_width_is_read_each_time(self, terminal):
        tty = terminal(80)
        fit(2, callbacks=[EachIteration(lambda epoch: tty.resize(40))])
        lines = [CODES.sub("", x).rstrip("\n") for x in tty.read().split("\r")]
        widths = [len(x.removesuffix("\x1b[J")) for x in lines if "%" in x]
        assert 60 < widths[0] < 80
        assert max(widths[1:]) < 40

    def test_what_others_print_appears_above_the_line(self, terminal):
        tty, screen = terminal(80), Screen(80)

        def disturb(epoch):
            print("printed", epoch)
            if epoch == 1:
                handler.emit(logging.makeLogRecord({"msg": "logged"}))
                print("to the error output\nin two lines", file=sys.stderr)

        handler = logging.StreamHandler(sys.stderr)
        fit(3, [EachIteration(disturb)])
        screen.write(tty.read())
        assert screen.rows[:-2] == [
            *("printed 0", "printed 1", "logged", "to the error output", "in two lines"),
            "printed 2",
        ]
        assert screen.rows[-2].startswith("100%")

    def test_an_unfinished_line_of_others_is_not_overwritten(self, terminal):
        tty, screen = terminal(80), Screen(80)
        fit(2, [EachIteration(lambda epoch: print("thinking", end=""))])
        screen.write(tty.read())
        assert screen.rows[:-2] == ["thinking", "thinking"]

    def test_after_an_error_the_line_stays_and_printing_is_as_before(self, terminal):
        tty, screen = terminal(80), Screen(80)
        write = sys.stdout.write

        def fail(epoch):
            if epoch == 2:
                raise RuntimeError("power cut")

        with pytest.raises(RuntimeError, match="power cut"):
            fit(callbacks=[EachIteration(fail)])
        assert sys.stdout.write == write
        print("after")
        screen.write(tty.read())
        assert screen.rows[0].startswith(" 50% ")
        assert screen.rows[1:] == ["after", ""]

    def test_colors_only_without_no_color(self, terminal, monkeypatch):
        tty = terminal(80)
        fit(1)
        assert CODES.search(tty.read())
        monkeypatch.setenv("NO_COLOR", "1")
        tty = terminal(80)
        fit(1)
        assert not CODES.search(tty.read())

    def test_ascii_if_the_encoding_has_no_lines(self, terminal):
        tty = terminal(80, encoding="latin-1")
        fit(1)
        assert "100% ####" in CODES.sub("", tty.read())

    def test_a_terminal_that_cannot_move_its_cursor_gets_lines(self, terminal, monkeypatch):
        tty = terminal(80)
        monkeypatch.setenv("TERM", "dumb")
        fit(1)
        assert tty.read().startswith("1/1 (100% in 0:0")


class TestBudget:
    """What the first and last lines say, in a terminal."""

    def lines(self, tty):
        lines = CODES.sub("", tty.read()).replace("\x1b[J", "").split("\r")
        lines = [" ".join(x.split()) for x in lines if "%" in x]
        return lines[0], lines[-1]

    def test_rollouts_have_a_known_number_of_steps(self, terminal):
        agent, tty = small_agent(tfpg.A2C, Countdown, num_envs=2, num_steps=50), terminal(100)
        agent.fit(Countdown, 3, seed=0)
        first, last = self.lines(tty)
        assert re.match("0% ─+ 0/300 return - best - - steps/s -:--$", first)
        assert re.match(r"100% ━+ \d+/300 return \d", last)

    def test_random_steps_before_the_first_update_count(self, terminal):
        agent, tty = tfpg.DQN(q_network(2), **{**SMALL, "learning_starts": 200}), terminal(100)
        agent.fit(Countdown, 3, seed=0)
        first, last = self.lines(tty)
        assert re.match(r"0% ─+ 200/392 ", first)
        assert re.match(r"100% ━+ 392/392 ", last)

    def test_the_smaller_budget_counts(self, terminal):
        agent = tfpg.DQN(q_network(2), **{**SMALL, "learning_starts": 200})
        tty = terminal(100)
        agent.fit(Countdown, 99, [StopAtSteps(300), StopAtSteps(10**6)], seed=0)
        first, last = self.lines(tty)
        assert re.match(r"66% ━+╸?─+ 200/300 ", first)
        assert re.match(r"88% ━+╸?─+ 264/300 ", last)

    def test_episodes_count_against_a_budget_of_steps(self, terminal):
        agent, tty = small_agent(tfpg.Reinforce, Countdown, episodes_per_update=10), terminal(100)
        agent.fit(Countdown, 99, [StopAtSteps(95)], seed=0)
        assert re.match(r"94% ━+╸?─+ 90/95 return ", self.lines(tty)[1])

    def test_a_resumed_run_starts_where_it_was(self, terminal, tmp_path):
        options = {"seed": 0, "checkpoints": tmp_path}
        small = {"num_envs": 2, "num_steps": 150, "max_steps": 50}
        history = small_agent(tfpg.A2C, **small).fit("CartPole-v1", 2, verbose=0, **options).history
        tty = terminal(100)
        small_agent(tfpg.A2C, **small).fit("CartPole-v1", 4, **options)
        first, last = self.lines(tty)
        returns = history["episode_return"]
        shown = f"return {returns[-1]:.1f} best {max(returns):.1f}"
        assert re.match(rf"50% ━+╸─+ 600/1.2k {shown} ", first)
        assert last.startswith("100% ")


class TestLog:
    def test_lines_are_seconds_apart_and_the_last_iteration_is_shown(self, capsys):
        began = time.monotonic()
        fit(200)
        lines = capsys.readouterr().out.splitlines()
        assert [x.split()[0] for x in (lines[0], lines[-1])] == ["1/200", "200/200"]
        assert len(lines) <= 2 + (time.monotonic() - began) / 2

    def test_a_single_iteration_is_shown_once(self, capsys):
        fit(1)
        assert capsys.readouterr().out.count("\n") == 1

    def test_an_arbitrary_number_of_iterations_is_not_shown(self, capsys):
        agent = small_agent(tfpg.Reinforce, Countdown, episodes_per_update=10)
        agent.fit(Countdown, 9999, [StopAtSteps(95)], seed=0, verbose=2)
        lines = capsys.readouterr().out.splitlines()
        assert [re.split("[,)]", x)[0] for x in lines[:2]] == ["1 (31%", "2 (63%"]
        assert len(lines) == 3

    def test_a_closed_output_does_not_stop_training(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        assert len(fit(2).epoch) == 2


@pytest.fixture
def notebook():
    """A list of what IPython sends to the notebook."""
    pytest.importorskip("IPython")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.kernel = None  # in ipykernel, the shell has one
    shell.display_pub = CapturingDisplayPublisher(parent=shell)
    yield shell.display_pub.outputs
    InteractiveShell.clear_instance()


class TestNotebook:
    def test_one_output_is_updated_in_place(self, notebook, capsys):
        fit(2)
        began = time.monotonic()
        fit(8, [EachIteration(lambda _: None)])
        ids = [each["transient"]["display_id"] for each in notebook]
        assert len(set(ids)) == 2  # of two calls
        mine = [each for each in notebook if each["transient"]["display_id"] == ids[-1]]
        assert [each["update"] for each in mine] == [False] + [True] * (len(mine) - 1)
        assert len(mine) <= 3 + (time.monotonic() - began) / 0.5
        assert capsys.readouterr().out == ""
        last = mine[-1]["data"]
        assert last["text/plain"].startswith("100% ")
        points = re.search('<polyline points="(.*?)"', last["text/html"])[1].split()
        assert 2 <= len(points) <= 8

    @pytest.mark.slow
    def test_in_a_real_kernel(self):
        pytest.importorskip("ipykernel")
        nbclient = pytest.importorskip("nbclient")
        from nbformat.v4 import new_code_cell, new_notebook

        code = (
            "import tfpg\n"
            "agent = tfpg.Reinforce(tfpg.networks.mlp('CartPole-v1'))\n"
            "history = agent.fit('CartPole-v1', 10, validation_envs='CartPole-v1')"
        )
        book = new_notebook(cells=[new_code_cell(code)])
        nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
        (output,) = book.cells[0].outputs
        assert output.output_type == "display_data"
        assert output.data["text/plain"].startswith("100% ")
        assert "<polyline" in output.data["text/html"]
        assert "<circle" in output.data["text/html"]
