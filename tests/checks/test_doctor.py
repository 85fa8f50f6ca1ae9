"""``tfpg doctor``: its judgements by literal facts, its probing with broken TensorFlows."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tfpg.checks import trial
from tfpg.checks.doctor import OPTIONAL, Facts, FilmFacts, Gpu, GpuFacts, as_dict, table, why_no_gpu

WELL = GpuFacts(device=True, driver=True, cuda="12.5.1")
NO_GPU = "this machine has no NVIDIA GPU, or no driver for it"


class TestWhyNoGpu:
    @pytest.mark.parametrize(
        ("facts", "sentence"),
        [
            (GpuFacts(), NO_GPU),
            (GpuFacts(cuda="12.5.1", missing=("libcudnn.so.9",)), NO_GPU),
            (GpuFacts(cuda="12.5.1", visible_devices="-1"), NO_GPU),
            (
                WELL._replace(visible_devices=""),
                "hidden, CUDA_VISIBLE_DEVICES is '': unset it to use the GPU",
            ),
            (
                WELL._replace(visible_devices="-1,0", cuda=None, missing=("libcudnn.so.9",)),
                "hidden, CUDA_VISIBLE_DEVICES is '-1,0': unset it to use the GPU",
            ),
            (
                WELL._replace(cuda=None),
                "this TensorFlow was built without CUDA: pip install 'tfpg[gpu]'",
            ),
            (
                WELL._replace(driver=False, missing=("libcudnn.so.9",)),
                "there is a GPU, and its driver's library libcuda.so.1 cannot be loaded: install "
                "the driver, or give the container its GPUs (docker run --gpus all)",
            ),
            (
                WELL._replace(driver_error=803, missing=("libcudnn.so.9",)),
                "the NVIDIA driver does not start, error 803: nvidia-smi tells more; a driver that "
                "was just updated needs a restart",
            ),
            (
                WELL._replace(missing=("libcublas.so.12", "libcudnn.so.9"), visible_devices="0"),
                "TensorFlow was built for CUDA 12.5.1 and does not find libcublas.so.12, "
                "libcudnn.so.9: pip install 'tfpg[gpu]'",
            ),
            (
                WELL._replace(driver_error=100, missing=("libcudnn.so.9",)),
                "there is an NVIDIA driver, and it finds no GPU: nvidia-smi -L lists those there "
                "are",
            ),
            (
                WELL._replace(driver_error=100, visible_devices="7", missing=("libcudnn.so.9",)),
                "CUDA_VISIBLE_DEVICES is '7': nvidia-smi -L lists the GPUs there are",
            ),
            (
                WELL._replace(visible_devices="7"),
                "CUDA_VISIBLE_DEVICES is '7': nvidia-smi -L lists the GPUs there are",
            ),
        ],
    )
    def test_each_reason_has_its_sentence(self, facts, sentence):
        assert why_no_gpu(facts) == sentence

    def test_an_unknown_reason_says_where_to_look(self):
        command = why_no_gpu(WELL).split(": ", 1)[1]
        assert command.startswith("python -c 'import tensorflow; ")
        assert command.endswith("'")

    def test_a_driver_without_a_device_file_counts(self):
        assert why_no_gpu(WELL._replace(device=False)) == why_no_gpu(WELL)


class TestTable:
    FACTS = Facts({"tfpg": "0.1.0", "numpy": "2.4.6"}, {"box2d": "2.3"}, 4, 10**10, WELL)

    def rows(self, **changes):
        lines = table(self.FACTS._replace(**changes)).splitlines()
        return {line[:14].rstrip(): line[14:] for line in lines}

    def test_is_aligned(self):
        rows = self.rows(dtype_policy="mixed_float16")  # the longest name
        assert rows["numpy"] == "2.4.6"
        assert rows["CPU cores"] == "4"
        assert rows["memory"] == "10.0 GB free"
        assert rows["dtype policy"] == "mixed_float16, where float32 is usual"
        assert "dtype policy" not in table(self.FACTS._replace(dtype_policy="float32"))

    def test_what_is_missing_has_its_mend(self):
        text = table(
            self.FACTS._replace(versions={"keras": None}, optional=dict.fromkeys(OPTIONAL))
        )
        assert "keras        not installed: pip install 'keras" in text
        for extra in ("atari", "box2d", "mujoco", "tensorboard"):
            assert f"not installed: pip install 'tfpg[{extra}]'" in text

    def test_gpus_and_how_their_memory_is_taken(self):
        gpus = (Gpu("NVIDIA H200", "9.0", 140 * 10**9), Gpu("/physical_device:GPU:1"))
        text = table(self.FACTS._replace(gpu=WELL._replace(gpus=gpus)))
        assert "GPU         NVIDIA H200, compute capability 9.0, 140 GB for TensorFlow\n" in text
        assert "GPU         /physical_device:GPU:1\n" in text
        assert "GPU memory  all taken at the start: set TF_FORCE_GPU_ALLOW_GROWTH=true" in text
        text = table(self.FACTS._replace(gpu=WELL._replace(gpus=gpus, allow_growth="true")))
        assert "GPU memory  taken as it is needed" in text

    def test_memory_growth_matters_only_with_a_gpu(self):
        assert "GPU memory" not in table(self.FACTS)
        assert "GPU        none used: TensorFlow's own messages tell" in table(self.FACTS)

    def film(self, **changes):
        return self.FACTS._replace(film=FilmFacts(**changes))

    def test_what_can_be_filmed(self):
        text = table(self.film())
        assert "films      .mp4, .gif, .webm, .png\n" in text
        assert "windows    filmed, by Xvfb\n" in text
        assert "MuJoCo     rendered off-screen, by egl\n" in text

    @pytest.mark.parametrize(
        ("changes", "row"),
        [
            ({"codecs": None}, "films      none: pip install 'imageio[pyav]'"),
            (
                {"codecs": (".gif", ".png")},
                "films      .gif, .png; .mp4, .webm not: pip install --force-reinstall "
                "--only-binary av av",
            ),
            ({"xvfb": False}, "windows    not filmed: apt-get install xvfb"),
            (
                {"gl": None},
                "MuJoCo     not rendered, there is neither EGL nor OSMesa: apt-get install libegl1 "
                "libgl1-mesa-dri",
            ),
            ({"gl": None, "display": ":3"}, "MuJoCo     rendered on the display :3"),
        ],
    )
    def test_what_cannot_has_its_mend(self, changes, row):
        assert row in table(self.film(**changes)).splitlines()

    def test_json_holds_the_facts_and_the_judgements(self):
        facts = self.FACTS._replace(gpu=WELL._replace(gpus=(Gpu("a GPU"),)), error="no")
        told = json.loads(json.dumps(as_dict(facts)))
        assert told["gpu"]["gpus"] == [
            {"name": "a GPU", "compute_capability": None, "memory": None}
        ]
        assert (told["why_no_gpu"], told["works"], told["cores"]) == (None, False, 4)
        assert told["film"]["codecs"] == [".mp4", ".gif", ".webm", ".png"]
        assert as_dict(self.FACTS._replace(gpu=GpuFacts()))["why_no_gpu"] == NO_GPU


class TestLibraries:
    def test_of_other_versions(self):
        by_13 = [names[0] for names in trial.libraries("13.0", "9.1.0")]
        assert by_13[0] == "libcudart.so.13"
        assert "libcufft.so.12" in by_13
        assert by_13[-1] == "libcudnn.so.9"
        assert trial.libraries("?", "") == []

    def test_where_they_are_looked_for(self, tmp_path, monkeypatch):
        library = "libtfpg_test.so.9"
        assert not trial._is_found(library)
        (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
        (tmp_path / "nvidia/cudnn/lib" / library).write_bytes(b"")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "nvidia", raising=False)
        assert trial._is_found(library)
        assert not trial._is_found("libtfpg_test.so.8")

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a library of Linux")
    def test_the_system_is_searched_too(self):
        assert trial._is_found("libc.so.6")


def tensorflow_like(gpus=(), cuda=True):
    """As much of TensorFlow as is asked about GPUs; ``gpus`` are their details."""
    devices = [SimpleNamespace(name=f"/physical_device:GPU:{i}", i=i) for i in range(len(gpus))]
    experimental = SimpleNamespace(get_device_details=lambda device: gpus[device.i])
    return SimpleNamespace(
        sysconfig=SimpleNamespace(
            get_build_info=lambda: {"cuda_version": "99.1", "cudnn_version": "98"} if cuda else {}
        ),
        test=SimpleNamespace(is_built_with_cuda=lambda: cuda),
        config=SimpleNamespace(
            list_physical_devices=lambda kind: devices, experimental=experimental
        ),
    )


class TestGpuFacts:
    def test_what_tensorflow_tells_of_gpus(self):
        details = [{"device_name": "NVIDIA H200", "compute_capability": (9, 0)}, {}]
        assert trial._gpu_facts(tensorflow_like(details)) == {
            "gpus": [
                {"name": "NVIDIA H200", "compute_capability": "9.0", "memory": None},
                {"name": "/physical_device:GPU:1", "compute_capability": None, "memory": None},
            ],
            "cuda": "99.1",
            "missing": [],
        }

    def test_libraries_are_missed_where_there_is_no_gpu(self):
        facts = trial._gpu_facts(tensorflow_like())
        assert facts["missing"][0] == "libcudart.so.99"
        assert facts["missing"][-1] == "libcudnn.so.98"

    def test_a_build_without_cuda_misses_nothing(self):
        facts = trial._gpu_facts(tensorflow_like(cuda=False))
        assert (facts["cuda"], facts["missing"]) == (None, [])


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A function that puts a tensorflow of these lines before the real one."""

    def write(text):
        (tmp_path / "tensorflow.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return write


class TestBrokenTensorflow:
    @pytest.mark.parametrize(
        ("code", "begins", "ends"),
        [
            (
                "raise ImportError('libfoo.so.1: cannot open\\nshared object file')",
                "TensorFlow cannot be imported: libfoo.so.1: cannot open shared object file. ",
                "'",
            ),
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
                "TensorFlow uses instructions that this CPU lacks (AVX). ",
                "built for this one.",
            ),
            (
                "import os, sys\nprint('F0000 Check failed', file=sys.stderr, flush=True)\n"
                "os.abort()",
                "TensorFlow ended its process (SIGABRT). F0000 Check failed. Reinstall: pip ",
                "'",
            ),
        ],
        ids=["import", "instructions", "abort"],
    )
    def test_the_error_says_what_and_the_mend(self, broken, code, begins, ends):
        broken(code)
        told = trial.ask()
        assert told["error"].startswith(begins)
        assert told["error"].endswith(ends)
        assert "gpu" not in told

    def test_another_backend_leaves_the_gpu_known(self, broken, monkeypatch):
        broken(
            "from types import SimpleNamespace\n__version__ = '2.0'\n"
            "sysconfig = SimpleNamespace(get_build_info=dict)\n"
            "test = SimpleNamespace(is_built_with_cuda=lambda: False)\n"
            "config = SimpleNamespace(list_physical_devices=lambda kind: [])\n"
        )
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        told = trial.ask()
        assert told["error"].endswith("Set KERAS_BACKEND=tensorflow before Keras is imported.")
        assert told["versions"] == {"tensorflow": "2.0"}
        assert told["gpu"]["cuda"] is None

    def test_one_that_never_answers(self, broken, monkeypatch):
        broken("import time; print('{\"versions\": 1}', flush=True); time.sleep(60)")
        monkeypatch.setattr(trial, "TIMEOUT", 1.0)
        told = trial.ask()
        assert told["error"].startswith("TensorFlow did not answer within 1 s.")
        assert told["versions"] == 1  # what was known is kept

    def test_none_at_all_still_prints_the_table(self, broken):
        folder = broken("raise ModuleNotFoundError('no tensorflow', name='tensorflow')")
        done = doctor(folder, "--debug")
        assert (done.returncode, done.stderr) == (1, "")
        rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        assert rows["GPU"] == "unknown, as TensorFlow did not start"
        assert "'tensorflow' is not installed: pip install 'tensorflow>=" in rows["training"]


def doctor(folder, *args):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "tfpg", "doctor", *args],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_this_machine_trains(tmp_path):
    done = doctor(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["works"]
    assert None not in facts["versions"].values()
    assert facts["versions"].keys() >= {"tfpg", "python", "tensorflow", "keras", "gymnasium"}
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert bool(facts["gpu"]["gpus"]) == (facts["why_no_gpu"] is None)
