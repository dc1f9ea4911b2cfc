"""In training a device is not waited for: nothing looks at numbers that it computes.

There is no device here, so the CPU plays one: `look_costs` says so, and a dispatch mode sees every
operation whose result the host has to know (its value, or how long it is).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bahdanau_hf.alignment.guided_loss import guided_attention_loss
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.modeling.matmul_bahdanau import linear_cross_entropy
from tests.helpers.looks import Looks
from tests.helpers.tiny_model import make_model


def test_the_mode_sees_what_it_is_to_see() -> None:
    x = torch.ones(3)
    with Looks() as looks:
        float(x[0]), x[x > 0], bool((x > 0).any()), x.nonzero(), torch.equal(x, x)
        x + x, x.sum(), x[torch.tensor([0, 1])], torch.where(x > 0, x, -x)
    assert len(looks.seen) == 5


SHAPES: list[dict[str, Any]] = [
    {},
    {"readout": "deep", "tie_word_embeddings": False},
    {"conditional_gru": True},
    {"encoder_layers": 2, "decoder_layers": 2},
    {"use_attention": False},
    {"bidirectional_encoder": False},
]


@pytest.mark.parametrize("way", ["auto", "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_waits_for_nothing_and_learns_the_same(
    shape: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(vocab_size=20, encoder_vocab_size=24, **shape).double().train()
    if way == "reference":
        model.set_implementation("reference")
    ids = torch.randint(4, 24, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    labels = torch.randint(4, 24, (3, 6))  # some are unknown to the target side
    labels[0, 4:] = labels[2, 1:] = modeling_bahdanau.IGNORED_LABEL
    places = torch.zeros(3, 6, dtype=torch.long)
    looks_for_links = model.config.use_attention

    def gradients() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            skip_logits=True,
            num_items_in_batch=11,
            label_smoothing=0.1,
            output_attentions=looks_for_links,
        )
        loss = outputs.loss
        if looks_for_links:
            loss = loss + guided_attention_loss(outputs.cross_attentions[0][:, 0], places)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()]

    expected_loss, expected = gradients()
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    with Looks() as looks:
        loss, found = gradients()
    assert looks.seen == []
    torch.testing.assert_close(loss, expected_loss, atol=1e-12, rtol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("rows", [7, 1300])  # one chunk, several
def test_rows_that_count_nothing_are_as_if_they_were_not_there(rows: int, smoothing: float) -> None:
    hidden = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (rows,))
    real = torch.rand(rows) < 0.6
    labels[~real] = modeling_bahdanau.IGNORED_LABEL
    results = []
    for some in (real, None):
        h, y = (hidden, labels) if some is not None else (hidden[real], labels[real])
        loss = linear_cross_entropy(h, weight, bias, y, smoothing, some)
        results.append([loss, *torch.autograd.grad(loss, (hidden, weight, bias))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_ids": 24}, "an id of input_ids"),
        ({"labels": 24}, "an id of labels"),
        ({"attention_mask": 0}, "no real token"),
    ],
)
def test_what_is_wrong_is_still_refused(
    changed: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU by the device itself; on the CPU the same operation raises at once."""
    model = make_model(vocab_size=20, encoder_vocab_size=24).train()
    given = {"input_ids": 5, "attention_mask": 1, "labels": 5} | changed
    batch = {name: torch.full((2, 3), value) for name, value in given.items()}
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    with pytest.raises(RuntimeError, match=message):
        model(**batch)
    with torch.no_grad(), pytest.raises(ValueError, match=r"input_ids|labels|no real token"):
        model(**batch)  # where nothing is trained, the message names it
