r"""DQN: Q-learning with a network, from a replay buffer of past transitions.

    loss = huber(r + gamma max_a Q_target(s', a) - Q(s, a))

averaged over transitions (s, a, r, s') that are sampled from the replay buffer. A termination stops
the bootstrap; a time limit does not. With ``double``, the online network chooses the next action,
and the target network evaluates it. With ``n_step``, r is the discounted sum of n rewards and s'
the state after them. With ``prioritized``, transitions with large errors are sampled more often,
and weighted less. Dueling is a property of the network: `tfpg.networks.dueling`.

Source: Mnih et al., "Human-level control through deep reinforcement learning", 2015,
https://doi.org/10.1038/nature14236; Double: van Hasselt et al., 2016,
https://arxiv.org/abs/1509.06461; prioritized: Schaul et al., 2016,
https://arxiv.org/abs/1511.05952; all of them: Hessel et al., 2018,
https://arxiv.org/abs/1710.02298.
"""

from __future__ import annotations

from tfpg.agents.q_learning import QLearning
from tfpg.core.backend import tf
from tfpg.core.options import one_of, option
from tfpg.ops.value_losses import (
    double_q_learning_targets,
    huber,
    q_learning_targets,
    td_errors,
)
from tfpg.rollouts.replay import Transitions


class DQN(QLearning):
    """Deep Q-learning, for environments with `Discrete` actions.

    Environment steps are counted over all environments together. After ``learning_starts`` steps
    of random play, ``updates_per_learn`` updates are made every ``learn_period`` steps, in one
    compiled call. An iteration is ``steps_per_iteration`` steps.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range.

    Source:
        Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu", seed=0)
        >>> agent = DQN(model, learning_starts=200, steps_per_iteration=256)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["updates"]
        [128.0, 256.0]
    """

    loss: str = option(
        default="huber",
        check=one_of("huber", "mse"),
        help="Loss function for the temporal-difference errors.",
    )

    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        next_q_values = self.target_network.outputs(batch.next_observations)
        if self.double:
            next_q_online = self.next_outputs(batch)
            targets = double_q_learning_targets(
                batch.rewards, batch.discounts, next_q_values, next_q_online
            )
        else:
            targets = q_learning_targets(batch.rewards, batch.discounts, next_q_values)
        q_values = self.outputs(batch.observations)
        errors = td_errors(q_values, batch.actions, targets)
        losses = huber(errors) if self.loss == "huber" else errors * errors
        return {
            "loss": batch.weights * losses,
            "mean_q": tf.reduce_max(q_values, axis=-1),
            "td_error": tf.abs(errors),
            "errors": errors,
        }
