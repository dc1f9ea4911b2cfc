"""The loss of a batch of sentences of unequal length."""

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the real labels.

    Args:
        logits: `(B, T, V)`.
        labels: `(B, T)`, -100 on padding.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.mean()
