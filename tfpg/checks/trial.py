"""TensorFlow put to the trial: what it is, which GPUs it sees, and whether it trains.

It is asked in a process of its own: a library that does not fit the machine may end the process
that loads it, and a broken driver may never answer. Its messages do not reach the terminal.
Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import tfpg
from tfpg.core.backend import require_tensorflow

TIMEOUT = 180.0  # seconds in which TensorFlow must have answered


def requirement(name: str) -> str:
    """What tfpg asks pip for: a package with its range of versions, if it is known.

    Example:
        >>> requirement("a-package-of-others")
        'a-package-of-others'
    """
    with suppress(PackageNotFoundError):
        for each in requires("tfpg") or ():
            if re.match(rf"{re.escape(name)}(?![-\w])", each) and ";" not in each:
                return each
    return name


def ask() -> dict[str, Any]:
    """What `answer` prints in a process of its own, and why that did not come to its end.

    Returns:
        As much as became known of ``gpu`` (the fields of `doctor.GpuFacts`), ``versions``,
        ``dtype_policy``, and ``error``: why training does not work, and what to do.
    """
    code = "import sys; sys.path[:] = sys.argv[1:]; from tfpg.checks.trial import answer; answer()"
    # Another training may hold most of the GPU.
    environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    error = None
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *sys.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,
        )
        output = done.stdout
        if done.returncode:
            error = _how_it_ended(done.returncode, done.stderr.decode(errors="replace"))
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        error = (
            f"TensorFlow did not answer within {TIMEOUT:.0f} s. "
            "If nvidia-smi does not answer either, restart the machine."
        )
    told: dict[str, Any] = {} if error is None else {"error": error}
    for line in output.decode(errors="replace").splitlines():
        with suppress(ValueError, TypeError):
            told |= json.loads(line)
    return told


def _how_it_ended(code: int, messages: str) -> str:
    if code == -signal.SIGILL:
        return (
            "TensorFlow uses instructions that this CPU lacks (AVX). "
            "Use another machine, or a TensorFlow that is built for this one."
        )
    how = f"exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    last = messages.strip().splitlines()[-1:] or ["It said nothing"]
    return f"TensorFlow ended its process ({how}). {last[0][:300]}. {_reinstall()}"


def _reinstall() -> str:
    wanted = " ".join(f"'{requirement(name)}'" for name in ("tensorflow", "keras"))
    return f"Reinstall: pip install --force-reinstall {wanted}"


def answer() -> None:
    """Prints what TensorFlow tells, a JSON object a line as soon as it is known."""
    try:
        for told in _tensorflow_tells():
            print(json.dumps(told), flush=True)
    except Exception as error:
        print(json.dumps({"error": " ".join(str(error).split())[:600]}), flush=True)


def _tensorflow_tells() -> Iterator[dict[str, Any]]:
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
        mend = "CUDA_VISIBLE_DEVICES=-1 trains on the CPU" if gpu["gpus"] else _reinstall()
        raise RuntimeError(f"{type(error).__name__}: {str(error)[:300]}. {mend}") from error
    for each, memory in zip(gpu["gpus"], _gpu_memory(), strict=False):
        each["memory"] = memory
    yield {"gpu": gpu}


def _import_tensorflow() -> Any:
    try:
        import tensorflow
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"TensorFlow cannot be imported: {str(error)[:300]}. {_reinstall()}"
        ) from error
    return tensorflow


def _driver_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "device": any(Path("/dev").glob("nvidia*")),
        "driver": False,
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
        wanted = libraries(cuda, str(build.get("cudnn_version", "")))
        missing = [names[0] for names in wanted if not any(map(_is_found, names))]
    return {"gpus": gpus, "cuda": cuda, "missing": missing}


def libraries(cuda: str, cudnn: str) -> list[tuple[str, ...]]:
    """The libraries that a build of TensorFlow loads for a GPU, each by the names it may have.

    Args:
        cuda: Version of CUDA that it was built for.
        cudnn: Version of cuDNN.

    Example:
        >>> libraries("12.5.1", "9")[:2], libraries("12.5.1", "9")[-1]
        ([('libcudart.so.12',), ('libcublas.so.12',)], ('libcudnn.so.9',))
    """
    major = cuda.split(".")[0]
    if not major.isdigit():
        return []
    names = [(f"lib{name}.so.{major}",) for name in ("cudart", "cublas", "cublasLt")]
    # Some are numbered one behind CUDA, which of them changes with its versions.
    before = int(major) - 1
    both = [(f"lib{x}.so.{before}", f"lib{x}.so.{major}") for x in ("cufft", "cusolver")]
    both.append((f"libcusparse.so.{major}", f"libcusparse.so.{before}"))
    return [*names, *both, (f"libcudnn.so.{cudnn.split('.')[0]}",)]


def _is_found(library: str) -> bool:
    """Where TensorFlow looks: beside itself, where pip puts NVIDIA's packages, and where all do."""
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
    """The bytes that TensorFlow may use of each GPU."""
    with suppress(Exception):  # not a public module
        from tensorflow.python.client import device_lib

        devices = device_lib.list_local_devices()
        return [d.memory_limit for d in devices if d.device_type == "GPU"]
    return []
