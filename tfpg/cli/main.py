"""The command line: ``tfpg train``, ``resume``, ``evaluate``, ``record`` and so on.

Arguments are parsed without TensorFlow, so help and usage errors appear at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

import tfpg
from tfpg.cli.command import Command, CommandGroup
from tfpg.cli.reporting import run_reporting
from tfpg.core import signals

_COMMANDS = {
    "train": "Train a model.",
    "sweep": "Train with several seeds and settings.",
    "tune": "Search for good options.",
    "resume": "Resume a stopped training run.",
    "evaluate": "Measure the return of a saved model.",
    "record": "Record a video of a saved model.",
    "plot": "Draw learning curves of runs.",
    "compare": "Compare the final scores of runs.",
    "report": "Write an HTML page about runs.",
    "export": "Write a file that acts without tfpg.",
    "pack": "Pack a run to share it.",
    "presets": "List the environments with tuned settings.",
    "check": "Find problems in an environment.",
    "bench": "Measure the speed of training.",
    "verify-resume": "Kill a run, resume it, and compare the results.",
    "doctor": "Check this machine and installation.",
}


class Commands(CommandGroup):
    """The commands, each of which is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        name = name.replace("-", "_")
        return getattr(importlib.import_module(f"tfpg.cli.{name}_command"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tfpg.__version__, message="tfpg %(version)s")
def tfpg_command() -> None:
    """Deep reinforcement learning for Keras.

    Try: tfpg train ppo CartPole-v1
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code.

    Returns:
        0 for success, 1 for an error, 2 for a usage error, 3 for NaN or infinity, 130 and 143 for
        a training run or another command that was stopped by Ctrl-C or a signal.

    Args:
        argv: The arguments. None: those of the process.
    """
    try:
        command = tfpg_command.main(argv, prog_name="tfpg", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "tfpg"
        text = " ".join(error.format_message().split())
        print(f"tfpg: error: {text}\nTry '{path} --help'.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of --help has gone
        return 1
    except OSError as error:  # --help or --version cannot be written
        print(f"tfpg: error: {error}", file=sys.stderr)
        return 1
    except click.Abort:
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130
    if not isinstance(command, Command):  # --help and --version return their exit code
        return command
    signals.raise_on_signals()
    return run_reporting(command.start, command.debug)
