"""What the decoder reads while it learns to write the labels."""

import torch
from torch import Tensor

IGNORED = -100


def decoder_input(labels: Tensor, start: int, pad: int) -> Tensor:
    """Return ids `(B, T)` for the decoder.

    Args:
        labels: what it is to write, `(B, T)`; -100 stands on padding.
        start: the id that begins every target sentence.
        pad: the id that stands on padding.
    """
    known = labels.masked_fill(labels == IGNORED, pad)
    first = torch.full_like(known[:, :1], start)
    return torch.cat([first, known[:, :-1]], dim=1)
