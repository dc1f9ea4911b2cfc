"""Greedy translation, to be scored against references."""

import torch
from torch import Tensor


@torch.no_grad()
def translate(model, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return a translation as long as its reference, `(B, T)`.

    Args:
        model: the package's model.
        input_ids: the source, `(B, S)`.
        labels: the references, `(B, T)`, which here only say how long to translate.
    """
    words = model.prepare_decoder_input_ids_from_labels(labels)
    logits = model(input_ids=input_ids, decoder_input_ids=words).logits
    return logits.argmax(dim=-1)
