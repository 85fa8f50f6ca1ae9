"""Films in a notebook, by a real IPython."""

import base64
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tfpg
from tfpg.video.writer import VideoWriter


@pytest.fixture
def shown():
    """What is displayed: the data of each by MIME type."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()

    def show(*args, **kwargs):
        with capture_output() as captured:
            tfpg.show(*args, **kwargs)
        return [output.data for output in captured.outputs]

    yield show
    InteractiveShell.clear_instance()


def written(path):
    with VideoWriter(path, 25) as video:
        for shade in range(3):
            video.write(np.full((32, 48, 3), 50 * shade, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_films_are_inside_the_notebook(tmp_path, shown, suffix):
    path = written(tmp_path / f"film{suffix}")
    (data,) = shown(path, width=96)
    html = data["text/html"]
    assert base64.b64encode(path.read_bytes()).decode() in html
    assert f"video/{suffix[1:]}" in html
    assert 'width="96"' in html
    assert "loop" in html


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "image/gif"), (".png", "image/png")])
def test_pictures_too(tmp_path, shown, suffix, kind):
    path = written(tmp_path / f"film{suffix}")
    (data,) = shown(str(path))
    assert base64.b64decode(data[kind]) == path.read_bytes()


def test_what_record_returned_is_shown(tmp_path, shown, no_display):
    model = tfpg.networks.mlp("CartPole-v1", hidden=(4,), seed=0)
    film = tfpg.record(model, "CartPole-v1", tmp_path / "film.gif", max_steps=2)
    (data,) = shown(film)
    assert base64.b64decode(data["image/gif"]) == (tmp_path / "film.gif").read_bytes()
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == film.frames


def test_what_is_not_there_or_no_film(tmp_path):
    with pytest.raises(FileNotFoundError, match="No film at"):
        tfpg.show(tmp_path / "film.gif")
    with pytest.raises(ValueError, match="A film ends in"):
        tfpg.show(tmp_path / "film.avi")


def test_without_ipython_the_mend_is_said(tmp_path):
    path = written(tmp_path / "film.gif")
    code = (
        "import sys\nsys.modules['IPython'] = None\nimport tfpg\n"
        "try: tfpg.show(sys.argv[1])\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Notebooks display by IPython: pip install ipython\n"
