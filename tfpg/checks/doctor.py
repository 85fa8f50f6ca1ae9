"""The state of this machine and installation, and how to fix problems: ``tfpg doctor``.

`probe` collects facts, and `table` and `why_no_gpu` explain them. TensorFlow is tried in another
process: a library that does not fit the machine may crash it, and a broken driver may never answer.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import tfpg
from tfpg.core.backend import require_tensorflow
from tfpg.core.memory import available_cores, available_memory, readable_bytes
from tfpg.core.messages import one_line
from tfpg.video.display import INSTALL_GL, INSTALL_XVFB, gl_library
from tfpg.video.encoders import writable_suffixes
from tfpg.video.writer import SUFFIXES

REQUIRED = ("tensorflow", "keras", "gymnasium", "numpy")
# Optional packages and the extras that install them.
OPTIONAL = {  # and what to install
    "ale-py": "ale-py opencv-python-headless",
    "box2d": "'gymnasium[box2d]'",
    "mujoco": "'gymnasium[mujoco]' packaging",
    "tensorboard": "tensorboard",
}
TIMEOUT = 180.0  # seconds that TensorFlow has to answer

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def probe() -> dict[str, Any]:
    """Collect facts about the machine and the installation, and train a tiny model, in seconds.

    Returns:
        A dict that can be written as JSON:

        - ``versions`` and ``optional``: versions of packages, or None if they are not installed.
        - ``cores``: number of CPU cores that this process may use.
        - ``memory``: bytes that this process can still allocate.
        - ``gpu``: see `why_no_gpu`; None if TensorFlow did not start.
        - ``dtype_policy``: Keras's dtype policy, or None if Keras did not start.
        - ``video``: ``display`` (the variable ``DISPLAY``), ``xvfb`` (whether it is installed),
          ``gl`` (MuJoCo's name of the off-screen OpenGL, or None) and ``suffixes`` (of video
          files that can be written; None if PyAV is missing).
        - ``error``: why training does not work, and what to do; or None.
        - ``why_no_gpu``: why TensorFlow uses no GPU, or None.
        - ``works``: whether training works.
    """
    found = ask_tensorflow()
    gpu, error = found.get("gpu"), found.get("error")
    if gpu is not None:
        gpu["allow_growth"] = os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH")
    own = {"tfpg": tfpg.__version__, "python": platform.python_version()}
    return {
        # What can be imported takes precedence over metadata, for example of tensorflow-cpu.
        "versions": {**own, **_versions(REQUIRED), **found.get("versions", {})},
        "optional": _versions(OPTIONAL),
        "cores": available_cores(),
        "memory": available_memory(),
        "gpu": gpu,
        "dtype_policy": found.get("dtype_policy"),
        "video": {
            "display": os.environ.get("DISPLAY"),
            "xvfb": shutil.which("Xvfb") is not None,
            "gl": gl_library(),
            "suffixes": writable_suffixes(),
        },
        "error": error,
        "why_no_gpu": why_no_gpu(gpu) if gpu and not gpu["gpus"] else None,
        "works": error is None,
    }


def why_no_gpu(gpu: dict[str, Any]) -> str:
    """Explain in one sentence why TensorFlow uses no GPU, and what to do about it.

    Args:
        gpu: Facts. ``device``: there is a device file of an NVIDIA GPU. ``driver``: the driver's
            library can be loaded. ``driver_error``: its error when it starts, or 0.
            ``visible_devices``: the variable ``CUDA_VISIBLE_DEVICES``, or None. ``cuda``: version
            of CUDA that TensorFlow was built for, or None. ``missing``: CUDA's libraries that
            TensorFlow would not find.

    Example:
        >>> gpu = {"device": True, "driver": True, "cuda": "12.5.1", "visible_devices": "-1"}
        >>> why_no_gpu(gpu)
        "CUDA_VISIBLE_DEVICES is '-1', which hides all GPUs: unset it"
    """
    visible, cuda, error = gpu.get("visible_devices"), gpu.get("cuda"), gpu.get("driver_error", 0)
    unknown = f"CUDA_VISIBLE_DEVICES is {visible!r}: nvidia-smi -L lists the GPUs"
    if not gpu.get("device") and not gpu.get("driver"):
        return "this machine has no NVIDIA GPU, or no driver for it"
    if visible is not None and _hides_all(visible):
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all GPUs: unset it"
    if cuda is None:
        return "this TensorFlow was built without CUDA: pip install 'tensorflow[and-cuda]'"
    if not gpu.get("driver"):
        return (
            "there is a GPU, but its driver's library libcuda.so.1 cannot be loaded: install the "
            "driver, or give the container access to the GPU (docker run --gpus all)"
        )
    if error == _NO_DEVICE and visible is not None:
        return unknown
    if error == _NO_DEVICE:
        return "there is an NVIDIA driver, but it finds no GPU: nvidia-smi -L lists the GPUs"
    if error:
        return (
            f"the NVIDIA driver does not start (error {error}): run nvidia-smi; a driver that was "
            "just updated needs a restart"
        )
    if missing := gpu.get("missing"):
        return (
            f"TensorFlow was built for CUDA {cuda} and does not find {', '.join(missing)}: "
            "pip install 'tensorflow[and-cuda]'"
        )
    if visible is not None:
        return unknown
    return (
        "TensorFlow's own messages explain it: python -c 'import tensorflow; "
        'tensorflow.config.list_physical_devices("GPU")\''
    )


def table(facts: dict[str, Any]) -> str:
    """Return the facts of `probe` as an aligned table, with instructions for anything missing."""
    rows = [
        *((name, found or _install(name)) for name, found in facts["versions"].items()),
        *((name, found or _install(name)) for name, found in facts["optional"].items()),
        *_device_rows(facts),
        *_video_rows(**facts["video"]),
        ("training", "works" if facts["works"] else f"does not work: {facts['error']}"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in rows)


def _install(name: str) -> str:
    return f"not installed: pip install {OPTIONAL.get(name) or repr(requirement(name))}"


def _device_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["dtype_policy"] not in (None, "float32"):
        yield "dtype policy", f"{facts['dtype_policy']}, where float32 is usual"
    yield "CPU cores", str(facts["cores"])
    yield "memory", f"{readable_bytes(facts['memory'])} free"
    if facts["gpu"] is None:
        yield "GPU", "unknown, because TensorFlow did not start"
        return
    for gpu in facts["gpu"]["gpus"]:
        capability, memory = gpu["compute_capability"], gpu["memory"]
        text = f", compute capability {capability}" if capability else ""
        text += f", {readable_bytes(memory)} for TensorFlow" if memory else ""
        yield "GPU", gpu["name"] + text
    if not facts["gpu"]["gpus"]:
        yield "GPU", f"not used: {facts['why_no_gpu']}"
    elif facts["gpu"]["allow_growth"] == "true":
        yield "GPU memory", "allocated as needed (TF_FORCE_GPU_ALLOW_GROWTH=true)"
    else:
        growth = "set TF_FORCE_GPU_ALLOW_GROWTH=true to share the GPU"
        yield "GPU memory", f"allocated all at once: {growth}"


def _video_rows(
    display: str | None, xvfb: bool, gl: str | None, suffixes: Iterable[str] | None
) -> Iterator[tuple[str, str]]:
    if suffixes is None:
        yield "videos", "none: pip install 'imageio[pyav]'"
    else:
        missing = ", ".join(suffix for suffix in SUFFIXES if suffix not in suffixes)
        hint = f"; not {missing}: pip install --force-reinstall --only-binary av av"
        yield "videos", ", ".join(suffixes) + hint * bool(missing)
    if sys.platform != "linux":
        return
    yield "windows", "recorded with Xvfb" if xvfb else f"not recorded: {INSTALL_XVFB}"
    if gl is not None:
        yield "MuJoCo", f"rendered off-screen with {gl}"
    elif display is not None:
        yield "MuJoCo", f"rendered on the display {display}"
    else:
        yield "MuJoCo", f"not rendered, because EGL and OSMesa are missing: {INSTALL_GL}"


def _versions(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _hides_all(visible_devices: str) -> bool:
    # CUDA reads the list up to the first invalid entry.
    first = visible_devices.split(",")[0].strip()
    return first in ("", "NoDevFiles") or first.startswith("-")


def requirement(name: str) -> str:
    """Return tfpg's requirement for a package: its name and range of versions.

    Example:
        >>> requirement("some-other-package")
        'some-other-package'
    """
    with suppress(PackageNotFoundError):
        for each in requires("tfpg") or ():
            if re.match(rf"{re.escape(name)}(?![-\w])", each) and ";" not in each:
                return each
    return name


def ask_tensorflow() -> dict[str, Any]:
    """Try TensorFlow in another process.

    Returns:
        Facts about ``gpu``, ``versions``, ``dtype_policy`` and ``error``; see `probe`.
    """
    serve = "from tfpg.checks.doctor import try_tensorflow; try_tensorflow()"
    error, environment = None, {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,  # another process may use most of the GPU
        )
        output = done.stdout
        if done.returncode:
            error = _crash(done.returncode, done.stderr.decode(errors="replace"))
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        error = (
            f"TensorFlow did not answer within {TIMEOUT:.0f} s. "
            "If nvidia-smi does not answer either, restart the machine."
        )
    found: dict[str, Any] = {} if error is None else {"error": error}
    for line in output.decode(errors="replace").splitlines():
        with suppress(ValueError, TypeError):
            found |= json.loads(line)
    return found


def _crash(code: int, messages: str) -> str:
    if code == -signal.SIGILL:
        return (
            "TensorFlow uses instructions that this CPU lacks (AVX). "
            "Use another machine, or a TensorFlow that is built for this one."
        )
    how = f"exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    last = messages.strip().splitlines()[-1:] or ["It printed no message"]
    return f"TensorFlow ended its process ({how}). {one_line(last[0], 300)}. {_reinstall()}"


def _reinstall() -> str:
    packages = " ".join(f"'{requirement(name)}'" for name in ("tensorflow", "keras"))
    return f"Reinstall: pip install --force-reinstall {packages}"


def try_tensorflow() -> None:
    """Print facts about TensorFlow as JSON objects, one per line, as soon as each is known."""
    try:
        for facts in _tensorflow_facts():
            print(json.dumps(facts), flush=True)
    except Exception as error:
        print(json.dumps({"error": " ".join(str(error).split())[:600]}), flush=True)


def _tensorflow_facts() -> Iterator[dict[str, Any]]:
    gpu = _driver_facts()
    with suppress(ModuleNotFoundError):  # require_tensorflow has a better message
        tf = _import_tensorflow()
        gpu |= _gpu_facts(tf)
        yield {"versions": {"tensorflow": tf.__version__}, "gpu": gpu}
    require_tensorflow()
    import keras

    yield {
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "dtype_policy": keras.config.dtype_policy().name,
    }
    try:
        model = tfpg.networks.mlp("CartPole-v1", hidden=(4,), seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=2, max_steps=8)
        agent.fit("CartPole-v1", iterations=1, seed=0, verbose=0)
    except Exception as error:
        hint = "CUDA_VISIBLE_DEVICES=-1 trains on the CPU" if gpu["gpus"] else _reinstall()
        raise RuntimeError(f"{type(error).__name__}: {one_line(error, 300)}. {hint}") from error
    for each, memory in zip(gpu["gpus"], _gpu_memory(), strict=False):
        each["memory"] = memory
    yield {"gpu": gpu}


def _import_tensorflow() -> Any:
    try:
        import tensorflow
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = one_line(error, 300)
        raise RuntimeError(f"Cannot import TensorFlow: {reason}. {_reinstall()}") from error
    return tensorflow


def _driver_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "device": any(Path("/dev").glob("nvidia*")),
        "driver": False,
        "driver_error": 0,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with suppress(OSError, AttributeError):
        facts["driver_error"] = ctypes.CDLL("libcuda.so.1").cuInit(0)
        facts["driver"] = True
    return facts


def _gpu_facts(tf: Any) -> dict[str, Any]:
    build = tf.sysconfig.get_build_info()
    cuda = str(build.get("cuda_version", "")) if tf.test.is_built_with_cuda() else None
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        name = details.get("device_name", device.name)
        gpus.append({"name": name, "compute_capability": capability or None, "memory": None})
    missing = []
    if cuda and not gpus:
        wanted = cuda_libraries(cuda, str(build.get("cudnn_version", "")))
        missing = [names[0] for names in wanted if not any(map(library_exists, names))]
    return {"gpus": gpus, "cuda": cuda, "missing": missing}


def cuda_libraries(cuda: str, cudnn: str) -> list[tuple[str, ...]]:
    """Return the libraries that TensorFlow loads for a GPU, each with its possible names.

    Args:
        cuda: Version of CUDA that TensorFlow was built for.
        cudnn: Version of cuDNN.

    Example:
        >>> cuda_libraries("12.5.1", "9")[:2], cuda_libraries("12.5.1", "9")[-1]
        ([('libcudart.so.12',), ('libcublas.so.12',)], ('libcudnn.so.9',))
    """
    major = cuda.split(".")[0]
    if not major.isdigit():
        return []
    names = [(f"lib{name}.so.{major}",) for name in ("cudart", "cublas", "cublasLt")]
    # The numbers of some are one behind CUDA's; which ones differs between versions of CUDA.
    before = int(major) - 1
    both = [(f"lib{x}.so.{before}", f"lib{x}.so.{major}") for x in ("cufft", "cusolver")]
    both.append((f"libcusparse.so.{major}", f"libcusparse.so.{before}"))
    return [*names, *both, (f"libcudnn.so.{cudnn.split('.')[0]}",)]


def library_exists(library: str) -> bool:
    """Look for a library where TensorFlow does: in NVIDIA's pip packages, and in the system.

    Example:
        >>> library_exists("libnothing.so.1")
        False
    """
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("nvidia")
        for place in (spec and spec.submodule_search_locations) or ():
            if any(Path(place).glob(f"*/lib/{library}")):
                return True
    with suppress(OSError):
        ctypes.CDLL(library)
        return True
    return False


def _gpu_memory() -> list[int]:
    """Return the number of bytes that TensorFlow may use on each GPU."""
    with suppress(Exception):  # not a public module
        from tensorflow.python.client import device_lib

        devices = device_lib.list_local_devices()
        return [d.memory_limit for d in devices if d.device_type == "GPU"]
    return []
