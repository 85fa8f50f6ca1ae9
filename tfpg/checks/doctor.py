"""What this machine and this installation are, and what to mend: ``tfpg doctor``.

What is found (`Facts`) and what is said about it are apart: sentences follow from facts alone.
Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import tfpg
from tfpg.checks import trial
from tfpg.core.memory import available_memory, readable_bytes
from tfpg.video.display import INSTALL_GL, INSTALL_XVFB, gl_library
from tfpg.video.encoders import writable_suffixes
from tfpg.video.writer import SUFFIXES

REQUIRED = ("tensorflow", "keras", "gymnasium", "numpy")
# And their extras.
OPTIONAL = {"ale-py": "atari", "box2d": "box2d", "mujoco": "mujoco", "tensorboard": "tensorboard"}

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
Row = tuple[str, str]


class Gpu(NamedTuple):
    """A GPU that TensorFlow uses, and as much as TensorFlow tells of it."""

    name: str
    compute_capability: str | None = None
    memory: int | None = None


class GpuFacts(NamedTuple):
    """What decides whether TensorFlow uses a GPU.

    Attributes:
        gpus: Those that it uses.
        device: There is a device file of an NVIDIA GPU.
        driver: The driver's library can be loaded.
        driver_error: What the driver answers when it is started; 0 is well.
        visible_devices: ``CUDA_VISIBLE_DEVICES``.
        allow_growth: ``TF_FORCE_GPU_ALLOW_GROWTH``.
        cuda: The version of CUDA that TensorFlow was built for. None: it was built without.
        missing: The libraries of CUDA that TensorFlow would not find.
    """

    gpus: tuple[Gpu, ...] = ()
    device: bool = False
    driver: bool = False
    driver_error: int = 0
    visible_devices: str | None = None
    allow_growth: str | None = None
    cuda: str | None = None
    missing: tuple[str, ...] = ()


class FilmFacts(NamedTuple):
    """What decides what can be filmed.

    Attributes:
        display: ``DISPLAY``.
        xvfb: Xvfb is installed, for environments that need a display or open a window.
        gl: MuJoCo's name for the off-screen OpenGL there is, or None.
        codecs: Suffixes of films that can be written. None: PyAV or imageio is not installed.
    """

    display: str | None = None
    xvfb: bool = True
    gl: str | None = "egl"
    codecs: tuple[str, ...] | None = SUFFIXES


class Facts(NamedTuple):
    """What `probe` found.

    Attributes:
        versions: Of what tfpg needs. None: not installed.
        optional: Versions of what some environments and callbacks need.
        cores: CPU cores that this process may use.
        memory: Bytes that it can still take.
        gpu: None if TensorFlow did not start.
        dtype_policy: Keras's, likewise.
        error: Why training does not work, and what to do. None: it works.
        film: What can be filmed.
    """

    versions: dict[str, str | None]
    optional: dict[str, str | None]
    cores: int
    memory: int
    gpu: GpuFacts | None = None
    dtype_policy: str | None = None
    error: str | None = None
    film: FilmFacts = FilmFacts()


def probe() -> Facts:
    """Looks at the machine and the installation, and trains a tiny model once. Takes seconds."""
    told = trial.ask()
    versions = {"tfpg": tfpg.__version__, "python": platform.python_version()}
    gpu = None
    if "gpu" in told:
        growth = os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH")
        gpus = tuple(Gpu(**each) for each in told["gpu"].pop("gpus"))
        gpu = GpuFacts(gpus, allow_growth=growth, **told["gpu"])
    return Facts(
        # What was imported goes over what is said to be installed: tensorflow-cpu, for one.
        versions={**versions, **_versions(REQUIRED), **told.get("versions", {})},
        optional=_versions(OPTIONAL),
        cores=_cores(),
        memory=available_memory(),
        film=_film_facts(),
        gpu=gpu,
        dtype_policy=told.get("dtype_policy"),
        error=told.get("error"),
    )


def why_no_gpu(facts: GpuFacts) -> str:
    """One sentence: why TensorFlow uses no GPU, and what to do if that is not wanted.

    Example:
        >>> why_no_gpu(GpuFacts(device=True, driver=True, cuda="12.5.1", visible_devices="-1"))
        "hidden, CUDA_VISIBLE_DEVICES is '-1': unset it to use the GPU"
    """
    if not facts.device and not facts.driver:
        return "this machine has no NVIDIA GPU, or no driver for it"
    visible = facts.visible_devices
    if visible is not None and _hides_all(visible):
        return f"hidden, CUDA_VISIBLE_DEVICES is {visible!r}: unset it to use the GPU"
    if facts.cuda is None:
        return "this TensorFlow was built without CUDA: pip install 'tfpg[gpu]'"
    if not facts.driver:
        return (
            "there is a GPU, and its driver's library libcuda.so.1 cannot be loaded: install the "
            "driver, or give the container its GPUs (docker run --gpus all)"
        )
    unknown = f"CUDA_VISIBLE_DEVICES is {visible!r}: nvidia-smi -L lists the GPUs there are"
    if facts.driver_error == NO_DEVICE and visible is not None:
        return unknown
    if facts.driver_error == NO_DEVICE:
        return "there is an NVIDIA driver, and it finds no GPU: nvidia-smi -L lists those there are"
    if facts.driver_error:
        return (
            f"the NVIDIA driver does not start, error {facts.driver_error}: nvidia-smi tells "
            "more; a driver that was just updated needs a restart"
        )
    if facts.missing:
        return (
            f"TensorFlow was built for CUDA {facts.cuda} and does not find "
            f"{', '.join(facts.missing)}: pip install 'tfpg[gpu]'"
        )
    if visible is not None:
        return unknown
    return (
        "TensorFlow's own messages tell: python -c 'import tensorflow; "
        'tensorflow.config.list_physical_devices("GPU")\''
    )


def table(facts: Facts) -> str:
    """The facts as an aligned table, with what to do about whatever is missing.

    Example:
        >>> print(table(Facts({"tfpg": "0.1.0"}, {"ale-py": None}, 2, 8 * 10**9, GpuFacts())))
        tfpg       0.1.0
        ale-py     not installed: pip install 'tfpg[atari]'
        CPU cores  2
        memory     8.0 GB free
        GPU        none used: this machine has no NVIDIA GPU, or no driver for it
        films      .mp4, .gif, .webm, .png
        windows    filmed, by Xvfb
        MuJoCo     rendered off-screen, by egl
        training   works
    """
    film = _film_rows(facts.film)
    rows = [*_version_rows(facts), *_device_rows(facts), *film, *_training_rows(facts)]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in rows)


def as_dict(facts: Facts) -> dict[str, Any]:
    """The facts as JSON can hold them, and the judgements: ``works`` and ``why_no_gpu``.

    Example:
        >>> facts = as_dict(Facts({}, {}, cores=2, memory=8, gpu=GpuFacts()))
        >>> facts["works"], facts["gpu"]["gpus"], facts["why_no_gpu"]
        (True, [], 'this machine has no NVIDIA GPU, or no driver for it')
    """
    gpu, why = facts.gpu, None
    if gpu is not None and not gpu.gpus:
        why = why_no_gpu(gpu)
    return {
        **facts._asdict(),
        "film": facts.film._asdict(),
        "gpu": gpu and {**gpu._asdict(), "gpus": [g._asdict() for g in gpu.gpus]},
        "why_no_gpu": why,
        "works": facts.error is None,
    }


def _version_rows(facts: Facts) -> Iterator[Row]:
    for name, found in facts.versions.items():
        yield name, found or f"not installed: pip install '{trial.requirement(name)}'"
    for name, found in facts.optional.items():
        yield name, found or f"not installed: pip install 'tfpg[{OPTIONAL[name]}]'"
    if facts.dtype_policy not in (None, "float32"):
        yield "dtype policy", f"{facts.dtype_policy}, where float32 is usual"


def _device_rows(facts: Facts) -> Iterator[Row]:
    yield "CPU cores", str(facts.cores)
    yield "memory", f"{readable_bytes(facts.memory)} free"
    if facts.gpu is None:
        yield "GPU", "unknown, as TensorFlow did not start"
        return
    for gpu in facts.gpu.gpus:
        capability = f", compute capability {gpu.compute_capability}"
        memory = f", {readable_bytes(gpu.memory or 0)} for TensorFlow"
        yield (
            "GPU",
            gpu.name + capability * bool(gpu.compute_capability) + memory * bool(gpu.memory),
        )
    if not facts.gpu.gpus:
        yield "GPU", f"none used: {why_no_gpu(facts.gpu)}"
    elif facts.gpu.allow_growth == "true":
        yield "GPU memory", "taken as it is needed, as TF_FORCE_GPU_ALLOW_GROWTH is true"
    else:
        yield (
            "GPU memory",
            "all taken at the start: set TF_FORCE_GPU_ALLOW_GROWTH=true to share the GPU",
        )


def _film_rows(facts: FilmFacts) -> Iterator[Row]:
    if facts.codecs is None:
        yield "films", "none: pip install 'imageio[pyav]'"
    else:
        missing = [suffix for suffix in SUFFIXES if suffix not in facts.codecs]
        mend = (
            f"; {', '.join(missing)} not: pip install --force-reinstall --only-binary av av"
            * bool(missing)
        )
        yield "films", f"{', '.join(facts.codecs)}{mend}"
    yield "windows", "filmed, by Xvfb" if facts.xvfb else f"not filmed: {INSTALL_XVFB}"
    if facts.gl is not None:
        yield "MuJoCo", f"rendered off-screen, by {facts.gl}"
    elif facts.display is not None:
        yield "MuJoCo", f"rendered on the display {facts.display}"
    else:
        yield "MuJoCo", f"not rendered, there is neither EGL nor OSMesa: {INSTALL_GL}"


def _film_facts() -> FilmFacts:
    display = os.environ.get("DISPLAY")
    return FilmFacts(display, shutil.which("Xvfb") is not None, gl_library(), writable_suffixes())


def _training_rows(facts: Facts) -> Iterator[Row]:
    yield "training", "works" if facts.error is None else f"does not work: {facts.error}"


def _versions(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _hides_all(visible_devices: str) -> bool:
    # CUDA reads the list up to the first entry that is none.
    first = visible_devices.split(",")[0].strip()
    return first in ("", "NoDevFiles") or first.startswith("-")
