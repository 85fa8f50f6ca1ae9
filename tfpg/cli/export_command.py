"""``tfpg export RUN_OR_MODEL``: write a file that acts without tfpg."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli.command import click_command, setting
from tfpg.cli.playing import SavedModel
from tfpg.core.backend import start_tensorflow
from tfpg.core.memory import readable_bytes
from tfpg.core.options import count, one_of, positive, whole
from tfpg.envs import spaces_of
from tfpg.sharing.programs import SUFFIXES


class Export(SavedModel):
    """Write a saved model as a file that acts without tfpg.

    The file maps observations to the actions of the environment. It is checked to take the same
    actions as the model.
    """

    format: str | None = setting(
        "Format: onnx for ONNX Runtime, litert for LiteRT (.tflite), saved_model for TensorFlow. "
        "[default: by the suffix of --out, or onnx]",
        one_of(*SUFFIXES),
    )
    out: Path | None = setting(
        "The file, or for a saved_model the folder. [default: next to the model]"
    )
    sampled: bool = setting(
        "Sample actions from a second input, the noise, instead of taking the best ones.",
        default=False,
    )
    steps: int = setting("Number of observations to compare actions on.", count, default=1000)
    seed: int | None = setting("Seed of these observations. [default: random]", whole)
    tolerance: float = setting("Relative tolerance of the comparison.", positive, default=1e-5)

    def execute(self) -> None:
        source = self.source(self.run_or_model, self.env)
        format = self.format or ("onnx" if self.out is None else None)
        out = self.out
        if out is None:
            assert format is not None
            given = self.run_or_model
            place = given / "policy" if given.is_dir() else given.with_suffix("")
            place = place if given.exists() else Path(given.name)  # of the zoo
            out = place.with_name(place.name + (SUFFIXES[format] or "_saved_model"))
        start_tensorflow()
        from tfpg.sharing.export import export

        exported = export(
            self.load(source, spaces_of(source.env)),
            out,
            source.env,
            format=format,
            sampled=self.sampled,
            steps=self.steps,
            seed=self.seed,
            tolerance=self.tolerance,
        )
        within = f", within {exported.difference:.0e}" if exported.difference else ""
        print(
            f"{exported.path}  ({readable_bytes(exported.bytes)}; equal actions for "
            f"{exported.steps:,} observations{within})"
        )
        width = max(map(len, (*exported.inputs, "action")))
        for name, (dtype, shape) in {**exported.inputs, "action": exported.output}.items():
            kind = "output" if name == "action" else "input"
            sizes = ", ".join("N" if n is None else str(n) for n in shape)
            print(f"  {kind:6}  {name:{width}}  {dtype} [{sizes}]")
        print(f"To play it:\n\n{exported.code}")


export = click_command("export", Export)
