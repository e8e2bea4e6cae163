"""The trained model and its trained linearisation as classifiers."""

import numpy as np
from jaxtyping import Array

from lazyscope.examples import Batch
from lazyscope.problems import IGNORED, Loss, cross_entropy, token_cross_entropy


def classification(loss: Loss, f: Array, f_linear: Array, y: Batch) -> dict[str, float]:
    """Accuracy of both, and the share of held-out labels on which they agree; empty for other losses.

    For tokens every position that counts is one decision.
    """
    if loss not in (cross_entropy, token_cross_entropy):
        return {}
    labels = np.asarray(y)
    counted = labels != IGNORED if loss is token_cross_entropy else np.ones(labels.shape, bool)
    ours, linear = (np.argmax(np.asarray(v), axis=-1) for v in (f, f_linear))

    def share(same: np.ndarray) -> float:
        return float(np.mean(same[counted]))

    return {
        "accuracy, trained": share(ours == labels),
        "accuracy, linearised": share(linear == labels),
        "same answer": share(ours == linear),
    }
