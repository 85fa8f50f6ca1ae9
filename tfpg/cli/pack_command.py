"""``tfpg pack RUN``: pack a run to share it."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli.command import Command, argument, click_command, setting
from tfpg.core.backend import start_tensorflow
from tfpg.core.memory import readable_bytes
from tfpg.core.messages import number
from tfpg.core.options import count, whole


class Pack(Command):
    """Pack a run to share it.

    The pack has the model, its config, a card with the score, and the video of the run. Other
    commands accept it in place of the run.
    """

    run: Path = argument("Run folder.")
    out: Path | None = setting("Zip file, or a new folder. [default: RUN.zip]")
    license: str | None = setting("License of the model, for the card, such as CC-BY-4.0.")
    episodes: int = setting("Number of episodes to measure the return.", count, default=100)
    seed: int | None = setting("Seed of the episodes. [default: random]", whole)

    def execute(self) -> None:
        start_tensorflow()
        from tfpg.sharing.pack import pack

        run = self.run.absolute()
        packed = pack(
            self.run,
            self.out or self.run.parent / f"{run.name}.zip",
            license=self.license,
            episodes=self.episodes,
            seed=self.seed,
        )
        mean = number(packed.evaluation["episode_return"])
        total = readable_bytes(sum(packed.files.values()))
        print(f"{packed.path}  ({total}; mean return {mean} over {self.episodes} episodes)")
        for name, size in packed.files.items():
            print(f"  {name:11}  {readable_bytes(size)}")
        print(f"To play it: tfpg evaluate {packed.path}")


pack = click_command("pack", Pack)
