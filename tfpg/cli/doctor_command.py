"""``tfpg doctor``: check this machine and installation."""

from __future__ import annotations

from tfpg.cli.command import WithJson, click_command


class Doctor(WithJson):
    """Check this machine and installation.

    Print versions and devices, and explain how to fix any problems. The exit code is 0 if training
    works, and 1 otherwise.
    """

    def execute(self) -> int:
        from tfpg.checks.doctor import probe, table

        facts = probe()
        if self.json:
            self.print_json(facts)
        else:
            print(table(facts))
        return 0 if facts["works"] else 1


doctor = click_command("doctor", Doctor)
