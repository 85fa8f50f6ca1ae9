"""What tests of agents share."""

import pytest
import tensorflow as tf


@pytest.fixture
def eager():
    """Run compiled functions eagerly. Without a trace, a few updates take a fifth of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
