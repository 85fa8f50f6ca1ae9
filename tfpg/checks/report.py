"""The report of a check: rows of a table."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfpg.envs.contracts import PROBLEM


class Row(NamedTuple):
    """A row of a report.

    Attributes:
        what: The name of the check.
        verdict: ``"ok"``, ``"warning"`` (tfpg can handle it) or ``"problem"``.
        detail: Description for the user.
    """

    what: str
    verdict: str
    detail: str


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `tfpg.check_env`. Printing it shows a table.

    Attributes:
        env: Name of the environment.
        seed: Seed of the first episode.
        rows: The rows of the table.

    Example:
        >>> report = Report("Mine-v0", 0, (Row("rewards", "problem", "nan (step 7, seed 0)"),))
        >>> report.ok
        False
        >>> report
        rewards  problem  nan (step 7, seed 0)
    """

    env: str
    seed: int
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems. There may be warnings."""
        return all(row.verdict != PROBLEM for row in self.rows)

    def table(self, width: int = 80) -> str:
        """Return the rows as a table whose lines have at most this width, or 60 if that is more."""
        first = max(len(row.what) for row in self.rows) + 2
        second = max(len(row.verdict) for row in self.rows) + 2
        indent, width = " " * (first + second), max(width, 60)
        lines = []
        for what, verdict, detail in self.rows:
            text = f"{what:{first}}{verdict:{second}}{detail}"
            lines += textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report in a form that can be written as JSON."""
        rows = [row._asdict() for row in self.rows]
        return {"env": self.env, "seed": self.seed, "ok": self.ok, "rows": rows}

    @classmethod
    def from_dict(cls, report: dict[str, Any]) -> Report:
        """Return the report that `as_dict` described."""
        return cls(report["env"], report["seed"], tuple(Row(**row) for row in report["rows"]))

    def __repr__(self) -> str:
        return self.table(min(shutil.get_terminal_size().columns, 100))
