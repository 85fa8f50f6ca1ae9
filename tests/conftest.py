"""What all tests share: a quiet TensorFlow, an honest Xvfb, small models."""

import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def xvfb():
    """For tests that need Xvfb. They are skipped without it, but never in CI."""
    if shutil.which("Xvfb") is None:
        if CI:
            pytest.fail("CI must have Xvfb: apt-get install xvfb")
        pytest.skip("Xvfb is not installed: apt-get install xvfb")


@pytest.fixture
def no_display(monkeypatch):
    """No display and no SDL driver, as on a server."""
    for name in ("DISPLAY", "SDL_VIDEODRIVER", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sigmoid_model():
    """The network of the textbook: 20-10-1, elu, elu, sigmoid."""
    import keras

    def make(seed=0):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(20, activation="elu"),
                keras.layers.Dense(10, activation="elu"),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        return model

    return make
