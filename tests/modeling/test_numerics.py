"""Training and number formats: determinism, dropout, half precision, compiling, learning."""

import pytest
import torch
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.modeling_bahdanau import DropoutMasks
from tests.helpers.batches import CLOSE, SOURCES, TARGETS, batch
from tests.helpers.oracles import ScalarModel
from tests.helpers.tiny_model import VARIANTS, make_model


def test_two_runs_are_the_same(model) -> None:
    first, second = (model(**batch()).logits for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("rate", "layers"),
    [("dropout", 2), ("embedding_dropout", 1), ("readout_dropout", 1), ("attention_dropout", 1)],
)
def test_dropout_works_in_training_alone(tiny_model, rate, layers) -> None:
    model = tiny_model(**{rate: 0.5}, encoder_layers=layers, decoder_layers=layers, readout="deep")
    plain = tiny_model(encoder_layers=layers, decoder_layers=layers, readout="deep")
    plain.load_state_dict(model.state_dict())
    expected = plain(**batch()).loss
    assert_close(model(**batch()).loss, expected, rtol=0, atol=0)
    model.train()
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(model(**batch()).loss)
        assert torch.isfinite(losses[-1])
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_layers": 3},
        {"decoder_layers": 3, "use_attention": False},
        {"conditional_gru": True},
    ],
    ids=str,
)
def test_dropout_stands_where_the_oracle_has_it(tiny_model, monkeypatch, changes) -> None:
    """With the factors known, on every way that a weight or a state takes."""
    model = tiny_model(readout="deep", encoder_layers=1, **changes)
    oracle, L = ScalarModel(model), model.config.decoder_layers
    factors = DropoutMasks(
        layers=torch.rand(4, L - 1, 1, 7).double() * 2 if L > 1 else None,
        attention=torch.rand(4, 1, 6).double() * 2 if model.config.use_attention else None,
    )
    monkeypatch.setattr(model.get_decoder(), "_dropout_masks", lambda *_: factors)
    words = torch.tensor([[1, 5, 12, 4]])
    with torch.no_grad():
        logits = model(torch.tensor([SOURCES[2]]), decoder_input_ids=words).logits[0]
    read = oracle.encode(SOURCES[2])
    states = read.start
    for t, word in enumerate(words[0].tolist()):
        on_alpha, on_layers = (None if x is None else x[t] for x in factors[::-1])
        step = oracle.step(
            *(read, states, word),
            None if on_alpha is None else on_alpha[0].tolist(),
            None if on_layers is None else on_layers[:, 0].tolist(),
        )
        states = step.states
        assert_close(logits[t].tolist(), step.logits, **CLOSE)


def test_embeddings_are_dropped_on_both_sides(tiny_model) -> None:
    model, inputs = tiny_model(embedding_dropout=0.5).train(), batch()
    outputs = model(**inputs, output_hidden_states=True)
    words = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    seen = inputs["attention_mask"].bool()
    source = model.get_input_embeddings()(inputs["input_ids"])[seen]
    target = model.get_decoder().embed_tokens(words)
    for dropped, whole in (
        (outputs.encoder_hidden_states[0][seen], source),
        (outputs.decoder_hidden_states[0], target),
    ):
        factors = dropped / whole
        assert set(factors.flatten().tolist()) == {0.0, 2.0}


def test_dropout_keeps_the_mean(tiny_model) -> None:
    """The attention weights are scaled up for those dropped, so contexts keep their size."""
    model = tiny_model(attention_dropout=0.5).train()
    torch.manual_seed(0)
    inputs = {"input_ids": torch.tensor([SOURCES[2]]).expand(4000, -1)}
    words = torch.ones(4000, 1).long()
    logits = model(**inputs, decoder_input_ids=words).logits
    sure = model.eval()(**inputs, decoder_input_ids=words).logits
    assert_close(logits.mean(0), sure.mean(0), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.grid
def test_half_precision_weights(model, dtype) -> None:
    inputs = batch()
    exact = model(**inputs).loss
    model.to(dtype)
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert outputs.loss.dtype == torch.float32
    assert outputs.logits.dtype == dtype
    assert_close(outputs.loss, exact.float(), rtol=0.05, atol=0)
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        assert_close(model(**inputs, skip_logits=True).loss, exact.float(), rtol=0.05, atol=0)
    tokens = model.generate(**{**inputs, "labels": None}, max_new_tokens=4, num_beams=2)
    assert tokens.shape[0] == 4


@pytest.mark.parametrize("skip_logits", [True, False])
@pytest.mark.grid
def test_autocast(model, skip_logits) -> None:
    model.float()
    exact = model(**batch()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch(), skip_logits=skip_logits).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, exact, rtol=0.05, atol=0)
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_learns_by_heart(tiny_model) -> None:
    model = tiny_model(hidden_size=16, embedding_size=8, vocab_size=13).float().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch(), skip_logits=True).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    outputs = model.eval().generate(
        batch()["input_ids"], attention_mask=batch()["attention_mask"], max_new_tokens=6
    )
    for row, labels in zip(outputs.tolist(), TARGETS, strict=True):
        assert row[1 : len(labels) + 1] == labels


def test_gradient_checkpointing_is_honestly_not_there(tiny_model) -> None:
    assert not BahdanauForConditionalGeneration.supports_gradient_checkpointing
    model = tiny_model()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    with pytest.raises(ValueError, match=r"does not support \w+ checkpointing"):
        enable()


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_attention_kernels_are_refused(tiny_config, implementation) -> None:
    with pytest.raises((ValueError, ImportError)):
        BahdanauForConditionalGeneration._from_config(
            tiny_config(), attn_implementation=implementation
        )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "one-way" else pytest.mark.slow) for name in VARIANTS],
)
def test_compiled_forward(name) -> None:
    """`torch.compile` gives the same loss and gradients (the graph alone, without a compiler)."""
    torch.compiler.reset()
    model = make_model(**VARIANTS[name])
    inputs = {key: x[1:2] for key, x in batch("left").items()}
    inputs["labels"] = inputs["labels"][:, :2]
    expected = model(**inputs).loss
    expected.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss = torch.compile(model, backend="eager")(**inputs).loss
    loss.backward()
    assert_close(loss, expected, **CLOSE)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert_close(parameter.grad, grad, **CLOSE)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # PyTorch's own GRU, while traced
def test_exported_forward(tiny_model) -> None:
    model, inputs = tiny_model(readout="deep", conditional_gru=True).float(), batch()
    labels = inputs.pop("labels").clamp(min=0)
    inputs["decoder_input_ids"] = labels
    exported = torch.export.export(
        model, (), inputs | {"use_cache": False, "return_dict": True}, strict=False
    ).module()
    actual = exported(**inputs, use_cache=False, return_dict=True)
    assert_close(actual.logits, model(**inputs).logits)
