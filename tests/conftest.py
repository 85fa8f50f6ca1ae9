"""What all tests share: an honest Xvfb, a server without a display."""

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
