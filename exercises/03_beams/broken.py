"""Beam search for one sentence."""

import torch
from torch import Tensor

from bahdanau_hf.modeling.modeling_bahdanau import BahdanauCache


@torch.no_grad()
def beam_search(model, input_ids: Tensor, num_beams: int, num_tokens: int) -> tuple[Tensor, float]:
    """Return the best translation found, `(num_tokens,)`, and its summed log-probability.

    The translation has no end token: it stops after `num_tokens`. The source is `(1, S)`.
    """
    start = model.config.decoder_start_token_id
    source = model.model.encoder(input_ids.expand(num_beams, -1))
    words = torch.full((num_beams, 1), start)
    # All beams are equal at first: only one may go on, or all would stay equal.
    totals = torch.full((num_beams, 1), -torch.inf, dtype=model.dtype)
    totals[0] = 0.0
    cache = BahdanauCache()  # the decoder's states, a row for each beam
    for _ in range(num_tokens):
        output = model(
            encoder_outputs=source, decoder_input_ids=words[:, -1:], past_key_values=cache
        )
        candidates = totals + output.logits[:, -1].log_softmax(dim=-1)  # (K, V)
        best, places = candidates.flatten().topk(num_beams)
        parents, tokens = places // candidates.shape[1], places % candidates.shape[1]
        totals = best.unsqueeze(1)
        words = torch.cat([words[parents], tokens.unsqueeze(1)], dim=1)
    return words[0, 1:], float(totals[0])
