"""Heads: what the outputs of a Keras model mean as actions.

The head follows from the action space and the number of outputs:

======================  ==========  =======================================================
action space            outputs     head
======================  ==========  =======================================================
``Discrete(2)``         1           Bernoulli: the probability, or logit, of action 1
``Discrete(A)``         A           Categorical: A logits, or probabilities
``MultiDiscrete(n)``    sum(n)      MultiCategorical: the logits of each choice in turn
``MultiBinary(D)``      D           MultiBinary: a logit, or probability, for each bit
``Box``, D numbers      2D          DiagonalGaussian: D means, then D log standard deviations
``Box``, D numbers      D           DiagonalGaussian: D means; the log standard deviations are
                                    free weights that the head keeps beside the model
======================  ==========  =======================================================

``epsilon=`` reads A outputs as the values of ``Discrete(A)``'s actions (EpsilonGreedy).
``squash=True`` makes the normals of a bounded ``Box`` a SquashedGaussian. Boxes and MultiBinary
of several dimensions are flattened, row by row. A model that ends in a sigmoid or softmax gives
probabilities, any other gives logits; ``from_logits`` says otherwise where that is needed, in
Keras's own word.
"""

from tfpg.models.heads.choose import check_output_shape, head_for
from tfpg.models.heads.kinds import (
    BernoulliHead,
    CategoricalHead,
    EpsilonGreedyHead,
    GaussianHead,
    Head,
    MultiBinaryHead,
    MultiCategoricalHead,
    SquashedGaussianHead,
)

__all__ = [
    "BernoulliHead",
    "CategoricalHead",
    "EpsilonGreedyHead",
    "GaussianHead",
    "Head",
    "MultiBinaryHead",
    "MultiCategoricalHead",
    "SquashedGaussianHead",
    "check_output_shape",
    "head_for",
]
