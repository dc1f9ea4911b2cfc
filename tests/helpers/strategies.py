"""For Hypothesis: any model, and anything that `generate` may be asked."""

from typing import Any

import torch
from hypothesis import strategies as st

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from tests.helpers.batches import SIDES, pad
from tests.helpers.decisive_model import decisive
from tests.helpers.tiny_model import TINY

START, END, PAD = 1, 2, 0


@st.composite
def models(draw) -> BahdanauForConditionalGeneration:
    """Of any shape; float64, where no two scores are equal by rounding."""
    two_ways = draw(st.booleans())
    layers, attention = draw(st.integers(1, 3)), draw(st.booleans())
    config = BahdanauConfig(
        **TINY
        | {
            "vocab_size": draw(st.integers(7, 17)),
            "bidirectional_encoder": two_ways,
            "encoder_layers": draw(st.integers(1, 3)) if two_ways else layers,
            "decoder_layers": layers,
            "use_attention": attention,
            "conditional_gru": attention and layers == 1 and draw(st.booleans()),
            "readout": draw(st.sampled_from(["linear", "deep"])),
            "encoder_reads_padding": draw(st.booleans()),
            "pad_token_id": draw(st.sampled_from([PAD, 3])),
            "dropout": 0.3,
            "attention_dropout": 0.3,
            "initializer_range": draw(st.sampled_from([1.0, 2.0, 3.0])),
        }
    )
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return decisive(BahdanauForConditionalGeneration(config).double().eval())


@st.composite
def calls(draw, vocab_size: int) -> dict[str, Any]:
    """Sentences, padded anywhere, and what else `generate` is told."""
    sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9)
    sources = [[4 + i % 13 for i in range(7 * n, 8 * n)] for n in draw(sizes)]
    ids, mask = pad(sources, draw(st.sampled_from(SIDES)), extra=draw(st.integers(0, 2)))
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if draw(st.booleans()):
        tokens = st.integers(0, vocab_size - 1)
        length = draw(st.integers(1, 3))
        rows = st.lists(tokens, min_size=length, max_size=length)
        prefix = draw(st.lists(rows, min_size=len(sources), max_size=len(sources)))
        call["decoder_input_ids"] = torch.tensor([[START, *row] for row in prefix])
    call["max_new_tokens"] = draw(st.integers(1, 12))
    ends = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=3, unique=True)
    call["eos_token_id"] = draw(st.none() | st.just(END) | ends)
    if draw(st.booleans()):
        beams = draw(st.integers(2, 5))
        call |= {
            "num_beams": beams,
            "num_return_sequences": draw(st.integers(1, beams)),
            "length_penalty": draw(st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0])),
            "early_stopping": draw(st.sampled_from([True, False, "never"])),
        }
    return call
