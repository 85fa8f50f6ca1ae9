"""Messages of native code that are hidden, and all others, which are not."""

import os
import subprocess
import sys
import threading

import pytest

from tfpg.core.messages import MUJOCO_DEPRECATIONS, hidden_messages


class TestHiddenMessages:
    def test_other_messages_appear_after_the_block(self, capfd):
        def write():
            os.write(2, b"another thread\n")

        with hidden_messages(r"^I\d+ .*\n"):
            os.write(2, b"I0000 oneDNN is on\nan error\n")
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            os.write(2, b"I0001 no GPU\n")
            assert capfd.readouterr().err == ""
        assert capfd.readouterr().err == "an error\nanother thread\n"
        os.write(2, b"I0002 later\n")
        assert capfd.readouterr().err == "I0002 later\n"

    def test_after_an_error_all_messages_appear(self, capfd):
        with pytest.raises(ImportError), hidden_messages(".*\n"):
            os.write(2, b"the cause\n")
            raise ImportError
        assert capfd.readouterr().err == "the cause\n"

    def test_blocks_may_be_nested(self, capfd):
        with hidden_messages("a"), hidden_messages("b"):
            os.write(2, b"abc")
        assert capfd.readouterr().err == "bc"

    def test_mujoco_warnings_of_deprecated_attributes(self, capfd):
        with hidden_messages(MUJOCO_DEPRECATIONS):
            os.write(
                2,
                b"WARNING: compiler attribute 'settotalmass' is deprecated and will be removed in "
                b"a future release: scale the masses\n\n"
                b"WARNING: Nan, Inf or huge value in QACC at DOF 0.\n\n",
            )
        expected = "WARNING: Nan, Inf or huge value in QACC at DOF 0.\n\n"
        assert capfd.readouterr().err == expected


FIT = """
import os, tfpg
agent = tfpg.A2C(tfpg.networks.actor_critic("CartPole-v1"))
agent.fit("CartPole-v1", 2, seed=0, verbose=0)
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""
MUJOCO = """
import tfpg
with tfpg.envs.open_vec("HalfCheetah-v5", 2) as envs:
    envs.reset(seed=0)
"""


def run(code, level=None, **options):
    env = {name: x for name, x in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    if level is not None:
        env["TF_CPP_MIN_LOG_LEVEL"] = level
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, "3"])
def test_importing_and_training_print_nothing(level):
    done = run(FIT, level)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{level}\n", "")


@pytest.mark.slow
def test_the_messages_that_the_user_asks_for_are_shown():
    assert "oneDNN" in run("import tfpg; tfpg.networks.mlp('CartPole-v1')", level="0").stderr


@pytest.mark.slow
def test_devices_can_be_configured_after_the_import():
    code = (
        "import tfpg; tfpg.networks.keras.Model\n"
        "import tensorflow as tf; tf.config.threading.set_inter_op_parallelism_threads(1)"
    )
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_importing_works_without_a_standard_error():
    done = run(f"import os; os.close(2)\n{FIT}")
    assert (done.returncode, done.stdout) == (0, "None\n")


@pytest.mark.slow
def test_mujoco_environments_print_nothing(tmp_path):
    pytest.importorskip("mujoco")
    done = run(f"import tfpg.envs{MUJOCO}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
