"""``tfpg doctor``: explanations of given facts, and facts found with broken TensorFlows."""

import json
import os
import subprocess
import sys

import pytest

from tfpg.checks import doctor
from tfpg.checks.doctor import OPTIONAL, ask_tensorflow, cuda_libraries, library_exists, table
from tfpg.checks.doctor import why_no_gpu as explain

GPU = {"device": True, "driver": True, "cuda": "12.5.1"}
NO_GPU = "this machine has no NVIDIA GPU, or no driver for it"
UNKNOWN_DEVICE = "CUDA_VISIBLE_DEVICES is '7': nvidia-smi -L lists the GPUs"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, NO_GPU),
        ({"cuda": "12.5.1", "missing": ["libcudnn.so.9"]}, NO_GPU),
        ({"cuda": "12.5.1", "visible_devices": "-1"}, NO_GPU),
        (
            GPU | {"visible_devices": ""},
            "CUDA_VISIBLE_DEVICES is '', which hides all GPUs: unset it",
        ),
        (
            GPU | {"visible_devices": "-1,0", "cuda": None, "missing": ["libcudnn.so.9"]},
            "CUDA_VISIBLE_DEVICES is '-1,0', which hides all GPUs: unset it",
        ),
        (
            GPU | {"cuda": None},
            "this TensorFlow was built without CUDA: pip install 'tensorflow[and-cuda]'",
        ),
        (
            GPU | {"driver": False, "missing": ["libcudnn.so.9"]},
            "there is a GPU, but its driver's library libcuda.so.1 cannot be loaded: install the "
            "driver, or give the container access to the GPU (docker run --gpus all)",
        ),
        (
            GPU | {"driver_error": 803, "missing": ["libcudnn.so.9"]},
            "the NVIDIA driver does not start (error 803): run nvidia-smi; a driver that was just "
            "updated needs a restart",
        ),
        (
            GPU | {"missing": ["libcublas.so.12", "libcudnn.so.9"], "visible_devices": "0"},
            "TensorFlow was built for CUDA 12.5.1 and does not find libcublas.so.12, "
            "libcudnn.so.9: pip install 'tensorflow[and-cuda]'",
        ),
        (
            GPU | {"driver_error": 100, "missing": ["libcudnn.so.9"]},
            "there is an NVIDIA driver, but it finds no GPU: nvidia-smi -L lists the GPUs",
        ),
        (GPU | {"driver_error": 100, "visible_devices": "7"}, UNKNOWN_DEVICE),
        (GPU | {"visible_devices": "7"}, UNKNOWN_DEVICE),
        (
            GPU | {"device": False},  # a driver without a device file
            "TensorFlow's own messages explain it: python -c 'import tensorflow; "
            'tensorflow.config.list_physical_devices("GPU")\'',
        ),
    ],
)
def test_each_reason_for_no_gpu_has_its_explanation(facts, sentence):
    assert explain(facts) == sentence


FACTS = {
    "versions": {"tfpg": "0.1.0", "numpy": "2.4.6"},
    "optional": {"box2d": "2.3"},
    "cores": 4,
    "memory": 10**10,
    "gpu": {"gpus": [], "allow_growth": None},
    "dtype_policy": None,
    "video": {"display": None, "xvfb": True, "gl": "egl", "suffixes": doctor.SUFFIXES},
    "error": None,
    "why_no_gpu": NO_GPU,
    "works": True,
}


def with_video(**changes):
    return FACTS | {"video": FACTS["video"] | changes}


def test_the_table_is_aligned():
    assert table(FACTS | {"dtype_policy": "mixed_float16"}) == (
        "tfpg          0.1.0\n"
        "numpy         2.4.6\n"
        "box2d         2.3\n"
        "dtype policy  mixed_float16, where float32 is usual\n"
        "CPU cores     4\n"
        "memory        10.0 GB free\n"
        f"GPU           not used: {NO_GPU}\n"
        "videos        .mp4, .gif, .webm, .png\n"
        "windows       recorded with Xvfb\n"
        "MuJoCo        rendered off-screen with egl\n"
        "training      works"
    )


def test_missing_packages_come_with_the_command_that_installs_them():
    text = table(FACTS | {"versions": {"keras": None}, "optional": dict.fromkeys(OPTIONAL)})
    assert "keras        not installed: pip install 'keras" in text
    for package in ("ale-py", "'gymnasium[box2d]'", "'gymnasium[mujoco]'", "tensorboard"):
        assert f"not installed: pip install {package}" in text


def test_the_table_shows_gpus_and_how_their_memory_is_allocated():
    gpus = [
        {"name": "NVIDIA H200", "compute_capability": "9.0", "memory": 140 * 10**9},
        {"name": "/physical_device:GPU:1", "compute_capability": None, "memory": None},
    ]
    text = table(FACTS | {"gpu": {"gpus": gpus, "allow_growth": None}})
    assert "GPU         NVIDIA H200, compute capability 9.0, 140 GB for TensorFlow\n" in text
    assert "GPU         /physical_device:GPU:1\n" in text
    assert "GPU memory  allocated all at once: set TF_FORCE_GPU_ALLOW_GROWTH=true" in text
    text = table(FACTS | {"gpu": {"gpus": gpus, "allow_growth": "true"}})
    assert "GPU memory  allocated as needed" in text


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"suffixes": None}, "videos     none: pip install 'imageio[pyav]'"),
        (
            {"suffixes": [".gif", ".png"]},
            "videos     .gif, .png; not .mp4, .webm: pip install --force-reinstall "
            "--only-binary av av",
        ),
        ({"xvfb": False}, "windows    not recorded: apt-get install xvfb"),
        (
            {"gl": None},
            "MuJoCo     not rendered, because EGL and OSMesa are missing: apt-get install libegl1 "
            "libgl1-mesa-dri",
        ),
        ({"gl": None, "display": ":3"}, "MuJoCo     rendered on the display :3"),
    ],
)
def test_what_is_missing_for_videos_comes_with_its_remedy(changes, row):
    assert row in table(with_video(**changes)).splitlines()


def test_cuda_libraries_of_another_version():
    names = [names[0] for names in cuda_libraries("13.0", "9.1.0")]
    assert names[0] == "libcudart.so.13"
    assert "libcufft.so.12" in names
    assert names[-1] == "libcudnn.so.9"
    assert cuda_libraries("?", "") == []


def test_libraries_are_found_in_pip_packages(tmp_path, monkeypatch):
    library = "libtfpg_test.so.9"
    assert not library_exists(library)
    (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
    (tmp_path / "nvidia/cudnn/lib" / library).write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert library_exists(library)
    assert not library_exists("libtfpg_test.so.8")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a library of Linux")
def test_libraries_are_found_in_the_system():
    assert library_exists("libc.so.6")


# A TensorFlow that knows its GPUs and its build, and nothing else.
FAKE = """
from types import SimpleNamespace as N
__version__ = '2.0'
details = {details}
devices = [N(name=f"/physical_device:GPU:{{i}}", i=i) for i in range(len(details))]
build = {{"cuda_version": "99.1", "cudnn_version": "98"}} if {cuda} else {{}}
sysconfig = N(get_build_info=lambda: build)
test = N(is_built_with_cuda=lambda: {cuda})
experimental = N(get_device_details=lambda device: details[device.i])
config = N(list_physical_devices=lambda kind: devices, experimental=experimental)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a tensorflow.py before the real TensorFlow."""

    def write(text):
        (tmp_path / "tensorflow.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("details", "cuda", "gpus", "version", "missing"),
    [
        (
            [{"device_name": "NVIDIA H200", "compute_capability": (9, 0)}, {}],
            True,
            [("NVIDIA H200", "9.0"), ("/physical_device:GPU:1", None)],
            "99.1",
            [],
        ),
        ([], True, [], "99.1", ["libcudart.so.99", "libcudnn.so.98"]),
        ([], False, [], None, []),
    ],
    ids=["gpus", "missing", "no cuda"],
)
def test_facts_about_gpus(install, monkeypatch, details, cuda, gpus, version, missing):
    install(FAKE.format(details=details, cuda=cuda))
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # the fake one goes no further
    found = ask_tensorflow()
    assert found["error"].endswith("Set KERAS_BACKEND=tensorflow before Keras is imported.")
    assert found["versions"] == {"tensorflow": "2.0"}
    gpu = found["gpu"]
    assert [(each["name"], each["compute_capability"]) for each in gpu["gpus"]] == gpus
    assert gpu["cuda"] == version
    assert [gpu["missing"][0], gpu["missing"][-1]] == missing if missing else not gpu["missing"]


@pytest.mark.parametrize(
    ("code", "begins", "ends"),
    [
        (
            "raise ImportError('libfoo.so.1: cannot open\\nshared object file')",
            "Cannot import TensorFlow: libfoo.so.1: cannot open shared object file. ",
            "'",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "TensorFlow uses instructions that this CPU lacks (AVX). ",
            "built for this one.",
        ),
        (
            "import os, sys\nprint('F0000 Check failed', file=sys.stderr, flush=True)\nos.abort()",
            "TensorFlow ended its process (SIGABRT). F0000 Check failed. Reinstall: pip ",
            "'",
        ),
    ],
    ids=["import", "instructions", "abort"],
)
def test_a_broken_tensorflow_is_reported_with_its_remedy(install, code, begins, ends):
    install(code)
    found = ask_tensorflow()
    assert found["error"].startswith(begins)
    assert found["error"].endswith(ends)
    assert "gpu" not in found


def test_a_tensorflow_that_never_answers(install, monkeypatch):
    install("import time; print('{\"versions\": 1}', flush=True); time.sleep(60)")
    monkeypatch.setattr(doctor, "TIMEOUT", 1.0)
    found = ask_tensorflow()
    assert found["error"].startswith("TensorFlow did not answer within 1 s.")
    assert found["versions"] == 1  # earlier answers are kept


def run_doctor(folder, *args):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "tfpg", "doctor", *args],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_command_prints_a_table_without_tensorflow(install):
    folder = install("raise ModuleNotFoundError('no tensorflow', name='tensorflow')")
    done = run_doctor(folder, "--debug")
    assert (done.returncode, done.stderr) == (1, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["GPU"] == "unknown, because TensorFlow did not start"
    assert "'tensorflow' is not installed: pip install 'tensorflow>=" in rows["training"]


@pytest.mark.slow
def test_the_command_prints_json_and_this_machine_trains(tmp_path):
    done = run_doctor(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["works"]
    assert None not in facts["versions"].values()
    assert facts["versions"].keys() >= {"tfpg", "python", "tensorflow", "keras", "gymnasium"}
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert bool(facts["gpu"]["gpus"]) == (facts["why_no_gpu"] is None)
    assert table(facts).endswith("training     works")
