"""Videos in a notebook, displayed by a real IPython."""

import base64
import subprocess
import sys

import numpy as np
import pytest
from toys import Countdown

import tfpg
from tfpg.video.writer import video_writer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A short video in every format, by suffix."""
    folder = tmp_path_factory.mktemp("videos")
    paths = {suffix: folder / f"a{suffix}" for suffix in (".mp4", ".webm", ".gif", ".png")}
    with video_writer(list(paths.values()), 25) as write:
        for shade in range(3):
            write(np.full((32, 48, 3), 50 * shade, np.uint8))
    return paths


@pytest.fixture
def shown():
    """A function that shows something, and returns what was displayed by MIME type."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()

    def show(*args, **kwargs):
        with capture_output() as captured:
            tfpg.show(*args, **kwargs)
        (output,) = captured.outputs
        return output.data

    yield show
    InteractiveShell.clear_instance()


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_videos_are_embedded_in_the_notebook(files, shown, suffix):
    html = shown(files[suffix], width=96)["text/html"]
    assert base64.b64encode(files[suffix].read_bytes()).decode() in html
    for part in (f"video/{suffix[1:]}", 'width="96"', "loop"):
        assert part in html


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "image/gif"), (".png", "image/png")])
def test_images_are_embedded_in_the_notebook(files, shown, suffix, kind):
    assert base64.b64decode(shown(str(files[suffix]))[kind]) == files[suffix].read_bytes()


def test_the_result_of_record_can_be_shown(tmp_path, shown, no_display):
    env = Countdown(render_mode="rgb_array")
    recording = tfpg.record(lambda x: np.zeros(len(x), int), env, tmp_path / "a.gif")
    assert base64.b64decode(shown(recording)["image/gif"]) == recording.path.read_bytes()


def test_missing_files_and_other_formats_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no video at"):
        tfpg.show(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="Expected a file ending in"):
        tfpg.show(tmp_path / "a.avi")


def test_without_ipython_the_error_says_what_to_install(files):
    code = (
        "import sys\nsys.modules['IPython'] = None\nimport tfpg\n"
        "try: tfpg.show(sys.argv[1])\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, files[".gif"]], capture_output=True, text=True, check=True
    )
    assert done.stdout == "tfpg.show needs IPython: pip install ipython\n"
