"""``tfpg record RUN_OR_MODEL OUT...``: record videos of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfpg.cli.command import argument, click_command, setting
from tfpg.cli.playing import Playing
from tfpg.cli.values import each
from tfpg.core.backend import start_tensorflow
from tfpg.core.files import check_writable
from tfpg.core.messages import number
from tfpg.core.options import WithOptions, count, one_of, positive, whole
from tfpg.envs import same_env, spaces_of
from tfpg.sharing import runs
from tfpg.video import OVERLAYS


class Style(WithOptions):
    """The style of a video."""

    overlay: tuple[str, ...] = setting(
        "Information to show in the video.",
        each(one_of(*OVERLAYS, "all", "none")),
        default=("caption",),
    )
    action_names: tuple[str, ...] | None = setting(
        "Names of the actions. [default: the environment's, if known]"
    )
    scale: float | None = setting(
        "Scale factor of the picture. [default: 1, larger for tiny pictures]", positive
    )
    crop: tuple[int, ...] | None = setting(
        "Part of the picture to show: LEFT TOP RIGHT BOTTOM, in pixels.", each(whole)
    )
    fps: float | None = setting("Frames per second. [default: the environment's]", positive)
    speed: float = setting("Playback speed factor.", positive, default=1.0)
    max_seconds: float | None = setting("End the video after this many seconds.", positive)


class Record(Style, Playing):
    """Record a video of a saved model.

    Give several OUT files to write the same video in several formats.
    """

    out: tuple[Path, ...] = argument("Files: .mp4, .gif, .webm, or .png for a sheet of frames.")
    episodes: int = setting("Number of episodes.", count, default=1)
    rank: bool = setting("Record only the best, the median and the worst episode.", default=False)
    versus: Path | None = setting("Another run or model to play the same episodes.")
    snapshots: bool = setting("Record the run's snapshots, to show how it learned.", default=False)
    grid: bool | None = setting(
        "Show the episodes side by side. [default: on with --versus or --rank]"
    )
    columns: int | None = setting("Number of episodes per row of the grid.", count)

    def check_options(self) -> None:
        super().check_options()
        if self.rank and self.episodes < 2:
            raise ValueError("--rank needs several episodes: add --episodes 20, for example.")
        if "none" in self.overlay and len(self.overlay) > 1:
            raise ValueError("--overlay none cannot be combined with other overlays.")
        if self.versus is not None and self.snapshots:
            raise ValueError("--versus and --snapshots cannot be combined.")
        if self.crop is not None and len(self.crop) != 4:
            raise ValueError(f"--crop must be four numbers, got {len(self.crop)}.")

    def execute(self) -> None:
        from tfpg.video.writer import check_suffix

        for out in self.out:
            check_writable(check_suffix(out))
        source = self.source(self.run_or_model, self.env)
        grid = self.columns or self.grid
        models = {"": source}
        if self.versus is not None:
            models = self.both(source)
        elif self.snapshots:
            found = runs.snapshots(self.run_or_model)
            models = {title: source._replace(model=path) for title, path in found.items()}
            grid = grid or False
        start_tensorflow()
        from tfpg.video.record import record

        spaces = spaces_of(source.env)
        policies = {title: self.load(each, spaces) for title, each in models.items()}
        video = record(
            policies if len(policies) > 1 else next(iter(policies.values())),
            source.env,
            self.out,
            self.episodes,
            seed=self.seed,
            deterministic=not self.stochastic,
            max_steps=self.max_steps or source.max_steps,
            fps=self.fps,
            speed=self.speed,
            max_seconds=self.max_seconds,
            overlay=() if "none" in self.overlay else self.overlay,
            action_names=self.action_names,
            scale=self.scale,
            crop=self.crop,
            grid=grid,
            rank=self.rank,
        )
        returns = ", ".join(number(x) for x in video.episode_returns)
        for path in video.paths:
            print(f"{path}  ({video.frames} frames, return {returns})")

    def both(self, source: runs.Source) -> dict[str, Any]:
        """Return the two models to compare, by titles that tell them apart."""
        assert self.versus is not None
        env = runs.trained_in(self.versus)
        if env is not None and not same_env(env, source.env):
            raise ValueError(
                f"{str(self.versus)!r} was trained in {env}, but this video shows {source.env}."
            )
        one, other = self.run_or_model, self.versus
        titles = [one.stem, other.stem]
        if one.stem == other.stem:
            titles = [str(one), str(other) if one != other else f"{other} again"]
        return dict(zip(titles, [source, self.source(other, source.env)], strict=True))


record = click_command("record", Record)
