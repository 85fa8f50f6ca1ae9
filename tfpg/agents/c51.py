r"""C51: Q-learning with a distribution of the return of each action, over fixed atoms.

    loss = -sum_i p_i log softmax(f(s, a))_i

where ``p`` is the distribution of ``r + gamma z``, with the atoms ``z`` distributed as the target
network predicts for the next action, projected onto the atoms. Transitions are prioritized by the
Kullback-Leibler divergence from ``p``.

Source: Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning", 2017,
https://arxiv.org/abs/1707.06887; with Double Q-learning, n-step returns and prioritized replay:
Hessel et al., 2018, https://arxiv.org/abs/1710.02298.
"""

from __future__ import annotations

from typing import cast

from tfpg.agents.q_learning import QLearning
from tfpg.core.backend import tf
from tfpg.core.options import finite, option, optional
from tfpg.ops.distributional import cross_entropy, project_distribution
from tfpg.ops.value_losses import taken
from tfpg.rollouts.replay import Transitions


class C51(QLearning):
    """Categorical deep Q-learning, for environments with `Discrete` actions.

    The model has N outputs for each action: logits of atoms, N equally spaced returns from
    ``v_min`` to ``v_max``.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range.

    Source:
        Bellemare, Dabney and Munos, 2017, https://arxiv.org/abs/1707.06887.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu", atoms=51, seed=0)
        >>> agent = C51(model, v_min=0, v_max=100, learning_starts=200, steps_per_iteration=256)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["updates"]
        [128.0, 256.0]
    """

    v_min: float | None = option(
        default=None,
        check=optional(finite),
        help="The lowest discounted return. None: that of a trained model, or -10 for a new one.",
    )
    v_max: float | None = option(
        default=None,
        check=optional(finite),
        help="The highest discounted return. None: that of a trained model, or 10 for a new one.",
    )

    def check_options(self) -> None:
        super().check_options()
        known = self.known_support()
        low, high = (-10.0, 10.0) if known is None or isinstance(known, str) else known
        self.v_min = low if self.v_min is None else self.v_min
        self.v_max = high if self.v_max is None else self.v_max
        if not self.v_min < self.v_max:
            raise ValueError(f"v_max must be above v_min ({self.v_min:g}), got {self.v_max:g}.")

    @property
    def support(self) -> tuple[float, float]:
        return cast(float, self.v_min), cast(float, self.v_max)

    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        head, atoms = self.head, self.head.atoms
        following = tf.nn.softmax(self.next_distribution(batch))
        returns = batch.rewards[:, None] + batch.discounts[:, None] * atoms
        targets = project_distribution(returns, following, atoms)
        outputs = self.outputs(batch.observations)
        logits = taken(head.per_action(outputs), batch.actions)
        losses = cross_entropy(logits, targets)
        q_values = head.q_values(outputs)
        errors = tf.linalg.matvec(targets, atoms) - taken(q_values, batch.actions)
        entropy = -tf.reduce_sum(tf.math.xlogy(targets, targets), axis=-1)
        return {
            "loss": batch.weights * losses,
            "mean_q": tf.reduce_max(q_values, axis=-1),
            "td_error": tf.abs(errors),
            "errors": losses - entropy,
        }
