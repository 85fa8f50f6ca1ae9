"""What learns in no time, for tests of anything but how well it learns, and keeps everything."""

import keras

import tfpg

SMALL = {
    "num_envs": 4,
    "batch_size": 8,
    "capacity": 2000,
    "learn_period": 16,
    "updates_per_learn": 4,
    "target_update_period": 6,
    "learning_starts": 32,
    "steps_per_iteration": 64,
    "jit_compile": False,
}


def q_network(inputs=4, outputs=2, seed=0, optimizer=None):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(8, "tanh"), layers.Dense(outputs)]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.01))
    return model


def every_checkpoint(folder):
    """Checkpoints after each iteration."""
    return tfpg.Checkpoints(folder, every_seconds=0)
