"""The model's forward pass: against scalar arithmetic, and padding that never changes a result."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers.modeling_outputs import Seq2SeqLMOutput

from tests.helpers.batches import CLOSE, SIDES, SOURCES, TARGETS, batch, pad
from tests.helpers.oracles import ScalarModel

# Against the oracle


def real_rows(values: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[keep.bool()] for row, keep in zip(values, mask, strict=True)]


@pytest.mark.parametrize("side", SIDES)
def test_every_number_is_the_oracles(model, side) -> None:
    oracle = ScalarModel(model)
    inputs = batch(side)
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    total = 0.0
    annotations = real_rows(outputs.encoder_last_hidden_state, inputs["attention_mask"])
    for i, (words, labels) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        source = oracle.encode(words)
        steps = oracle.run(source, [model.config.decoder_start_token_id, *labels[:-1]])
        T = len(labels)
        assert_close(outputs.logits[i, :T].tolist(), [step.logits for step in steps], **CLOSE)
        last = outputs.decoder_hidden_states[-1][i, :T].tolist()
        assert_close(last, [step.output for step in steps], **CLOSE)
        for layer in range(model.config.decoder_layers - 1):
            states = outputs.decoder_hidden_states[layer + 1][i, :T].tolist()
            assert_close(states, [step.states[layer] for step in steps], **CLOSE)
        if model.config.use_attention:
            alpha = outputs.cross_attentions[0][i, 0, :T]
            seen = inputs["attention_mask"][i].bool()
            assert_close(alpha[:, seen].tolist(), [step.alpha for step in steps], **CLOSE)
            assert (alpha[:, ~seen] == 0).all()
            assert_close(annotations[i].tolist(), source.annotations, **CLOSE)
        total += oracle.loss(source, labels)
    assert_close(outputs.loss.item(), total / sum(map(len, TARGETS)), **CLOSE)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("use_attention", [True, False])
def test_encoder_that_reads_padding(tiny_model, bidirectional, use_attention) -> None:
    """Checkpoints trained the tutorial's way: the state runs on, the attention looks away."""
    model = tiny_model(
        encoder_reads_padding=True,
        bidirectional_encoder=bidirectional,
        use_attention=use_attention,
        encoder_layers=2,
        decoder_layers=2,
    )
    oracle = ScalarModel(model)
    inputs = batch("right")
    with torch.no_grad():
        logits = model(**inputs).logits
    for i, labels in enumerate(TARGETS):
        seen = inputs["attention_mask"][i].bool().tolist()
        source = oracle.encode(inputs["input_ids"][i].tolist(), seen)
        steps = oracle.run(source, [model.config.decoder_start_token_id, *labels[:-1]])
        expected = [step.logits for step in steps]
        assert_close(logits[i, : len(labels)].tolist(), expected, **CLOSE)


def test_reading_padding_depends_on_the_padding(tiny_model) -> None:
    """Which is why the switch is off."""
    short, long = ({"input_ids": x, "attention_mask": m} for x, m in
                   (pad(SOURCES, "right", extra=extra) for extra in (0, 3)))  # fmt: skip
    words = torch.ones(4, 1).long()
    for reads, same in ((False, True), (True, False)):
        model = tiny_model(encoder_reads_padding=reads)
        with torch.no_grad():
            one = model(**short, decoder_input_ids=words).logits
            other = model(**long, decoder_input_ids=words).logits
        assert torch.allclose(one, other, rtol=1e-10) is same


# Padding


@pytest.mark.parametrize("side", SIDES)
def test_a_batch_is_its_sentences(model, side) -> None:
    inputs = batch(side)
    with torch.no_grad():
        together = model(**inputs, output_attentions=True)
        for i, (words, labels) in enumerate(zip(SOURCES, TARGETS, strict=True)):
            alone = model(
                input_ids=torch.tensor([words]),
                labels=torch.tensor([labels]),
                output_attentions=True,
            )
            assert_close(together.logits[i, : len(labels)], alone.logits[0], **CLOSE)
            if model.config.use_attention:
                seen = inputs["attention_mask"][i].bool()
                alpha = together.cross_attentions[0][i, 0, : len(labels)]
                assert_close(alpha[:, seen], alone.cross_attentions[0][0, 0], **CLOSE)


@pytest.mark.parametrize("side", SIDES)
def test_what_stands_in_the_padding_does_not_matter(model, side) -> None:
    """Other ids, and even NaN among the embeddings: same loss, same gradients."""
    inputs = batch(side)
    hidden = inputs["attention_mask"] == 0
    other_ids = inputs["input_ids"].masked_fill(hidden, 14)
    table = model.get_input_embeddings()
    embeds = table(inputs["input_ids"]).masked_fill(hidden.unsqueeze(-1), float("nan"))
    given: list[dict[str, Tensor]] = [
        {"input_ids": inputs["input_ids"]}, {"input_ids": other_ids}, {"inputs_embeds": embeds}
    ]  # fmt: skip
    losses, grads = [], []
    for source in given:
        model.zero_grad()
        loss = model(
            **source, attention_mask=inputs["attention_mask"], labels=inputs["labels"]
        ).loss
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for loss, grad in zip(losses[1:], grads[1:], strict=True):
        assert_close(loss, losses[0], **CLOSE)
        for name, expected in grads[0].items():
            assert_close(grad[name], expected, **CLOSE, msg=name)


def test_labels_behind_the_end_do_not_matter(model) -> None:
    inputs = batch()
    with torch.no_grad():
        expected = model(**inputs).loss
        narrow = inputs["labels"][:, :5]
        assert_close(model(**(inputs | {"labels": narrow})).loss, expected, **CLOSE)


def test_every_parameter_learns(model) -> None:
    """Parameters without a gradient would stop a run over several processes."""
    model.train()
    model(**batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


# Loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("skip_logits", [True, False])
@pytest.mark.grid
def test_loss_is_the_oracles(model, smoothing, skip_logits) -> None:
    oracle = ScalarModel(model)
    pairs = zip(SOURCES, TARGETS, strict=True)
    total = math.fsum(oracle.loss(oracle.encode(x), y, smoothing) for x, y in pairs)
    options: dict[str, Any] = {"label_smoothing": smoothing, "skip_logits": skip_logits}
    mean = model(**batch(), **options)
    share = model(**batch(), **options, num_items_in_batch=torch.tensor(97))
    assert_close(mean.loss.item(), total / sum(map(len, TARGETS)), **CLOSE)
    assert_close(share.loss.item(), total / 97, **CLOSE)
    assert (mean.logits is None) == skip_logits


def test_skipping_logits_changes_no_gradient(model) -> None:
    grads = []
    for skip_logits in (False, True):
        model.zero_grad()
        model(**batch(), label_smoothing=0.1, skip_logits=skip_logits).loss.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert_close(one, other, **CLOSE)


def test_micro_batches_add_up(tiny_model) -> None:
    """Parts of a batch of any size, each divided by the whole's tokens, sum to the whole."""
    model, inputs = tiny_model(), batch()
    num_tokens = int((inputs["labels"] != -100).sum())
    whole = model(**inputs).loss
    parts = [{name: x[rows] for name, x in inputs.items()} for rows in (slice(0, 1), slice(1, 4))]
    losses = [model(**part, num_items_in_batch=num_tokens).loss for part in parts]
    assert_close(torch.stack(losses).sum(), whole, **CLOSE)


def test_loss_uses_labels_as_they_stand(tiny_model) -> None:
    """The decoder's input is shifted: shifting the labels as well would score the wrong word."""
    model, inputs = tiny_model(), batch()
    outputs = model(**inputs)
    real = inputs["labels"] != -100
    log_probs = outputs.logits.log_softmax(-1)
    picked = log_probs.gather(-1, inputs["labels"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert_close(outputs.loss, -picked[real].mean(), **CLOSE)


def test_labels_and_decoder_inputs_may_be_given_both(tiny_model) -> None:
    model, inputs = tiny_model(), batch()
    shifted = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    with torch.no_grad():
        expected = model(**inputs).loss
        assert_close(model(**inputs, decoder_input_ids=shifted).loss, expected)
        embeds = model.model.decoder.embed_tokens(shifted)
        assert_close(model(**inputs, decoder_inputs_embeds=embeds).loss, expected)


def test_shift(tiny_model) -> None:
    labels = torch.tensor([[5, 6, 2, -100], [2, -100, -100, -100]])
    expected = [[1, 5, 6, 2], [1, 2, 0, 0]]
    shifted = tiny_model().prepare_decoder_input_ids_from_labels(labels)
    assert shifted.tolist() == expected
    assert labels[1, 1] == -100, "the labels stay as they were"


# Outputs


def test_shapes_are_as_documented(model) -> None:
    c = model.config
    B, S, T = 4, 7, 6
    outputs = model(**batch(), output_attentions=True, output_hidden_states=True)
    assert isinstance(outputs, Seq2SeqLMOutput)
    assert outputs.loss.shape == ()
    assert outputs.logits.shape == (B, T, c.vocab_size)
    assert outputs.encoder_last_hidden_state.shape == (B, S, c.annotation_size)
    assert [tuple(x.shape) for x in outputs.encoder_hidden_states] == [
        (B, S, c.embedding_size), *[(B, S, c.annotation_size)] * c.encoder_layers
    ]  # fmt: skip
    assert outputs.encoder_hidden_states[-1] is outputs.encoder_last_hidden_state
    assert [tuple(x.shape) for x in outputs.decoder_hidden_states] == [
        (B, T, c.embedding_size),
        *[(B, T, c.hidden_size)] * (c.decoder_layers - 1),
        (B, T, c.output_size),
    ]
    if c.use_attention:
        assert [tuple(x.shape) for x in outputs.cross_attentions] == [(B, 1, T, S)]
        assert_close(outputs.cross_attentions[0].sum(-1), torch.ones(B, 1, T).double())
    else:
        assert outputs.cross_attentions is None
    assert outputs.decoder_attentions is None
    assert outputs.past_key_values is None, "labels switch the cache off"


def test_inner_model(model) -> None:
    inputs = batch()
    words = inputs.pop("labels").clamp(min=0)
    with torch.no_grad():
        inner = model.model(**inputs, decoder_input_ids=words, output_hidden_states=True)
        outer = model(**inputs, decoder_input_ids=words)
    assert inner.last_hidden_state is inner.decoder_hidden_states[-1]
    assert inner.past_key_values is not None
    assert_close(model.lm_head(inner.last_hidden_state), outer.logits)
    assert model.base_model is model.model


def test_nothing_that_was_not_asked_for(tiny_model) -> None:
    outputs = tiny_model()(**batch())
    assert set(outputs) == {"loss", "logits", "encoder_last_hidden_state"}
    words = torch.ones(4, 2).long()
    outputs = tiny_model()(**(batch() | {"labels": None}), decoder_input_ids=words, use_cache=False)
    assert set(outputs) == {"logits", "encoder_last_hidden_state"}


def test_settings_of_the_configuration_count(tiny_model) -> None:
    model = tiny_model(output_attentions=True, output_hidden_states=True, use_cache=False)
    outputs = model(batch()["input_ids"], decoder_input_ids=torch.ones(4, 1).long())
    assert len(outputs.cross_attentions) == 1
    assert len(outputs.decoder_hidden_states) == len(outputs.encoder_hidden_states) == 2
    assert outputs.past_key_values is None
    off = model(**batch(), output_attentions=False, output_hidden_states=False)
    assert set(off) == {"loss", "logits", "encoder_last_hidden_state"}


def test_tuple_and_dictionary_agree(model) -> None:
    options = batch() | {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        as_tuple = model(**options, return_dict=False)
        as_dict = model(**options, return_dict=True)
        model.config.return_dict = False
        by_default = model(**options)
    assert isinstance(as_tuple, tuple)
    assert isinstance(by_default, tuple)
    flat: list[list[Tensor]] = []
    for outputs in (as_tuple, as_dict.to_tuple(), by_default):
        flat.append([])
        for x in outputs:
            flat[-1] += x if isinstance(x, tuple) else [x]
    for values in zip(*flat, strict=True):
        assert all(torch.equal(x, values[0]) for x in values)


def test_gradients_reach_the_hidden_states(model) -> None:
    outputs = model(**batch(), output_hidden_states=True)
    hidden = (*outputs.encoder_hidden_states, *outputs.decoder_hidden_states)
    for x in hidden:
        x.retain_grad()
    outputs.loss.backward()
    assert outputs.encoder_hidden_states[0].grad is not None
    assert outputs.decoder_hidden_states[0].grad is not None
    assert outputs.decoder_hidden_states[-1].grad is not None
    if model.config.use_attention:
        assert all(x.grad is not None for x in outputs.encoder_hidden_states)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])])
def test_logits_to_keep(tiny_model, keep) -> None:
    model, words = tiny_model(), torch.randint(13, (4, 5))
    every = model(batch()["input_ids"], decoder_input_ids=words).logits
    kept = model(batch()["input_ids"], decoder_input_ids=words, logits_to_keep=keep).logits
    expected = every[:, -keep:] if isinstance(keep, int) else every[:, keep]
    assert_close(kept, expected, **CLOSE)


def test_embeddings_instead_of_ids(model) -> None:
    inputs = batch()
    with torch.no_grad():
        expected = model(**inputs).logits
        ids = inputs.pop("input_ids")
        actual = model(**inputs, inputs_embeds=model.get_input_embeddings()(ids)).logits
    assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["output", "dict", "tuple"])
def test_encoder_outputs_in_any_form(model, form) -> None:
    inputs = batch("left")
    encoder = model.get_encoder()
    source = {"input_ids": inputs.pop("input_ids"), "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        read = encoder(**source, return_dict=form != "tuple")
        if form == "dict":
            read = dict(read)
        actual = model(**inputs, encoder_outputs=read)
        expected = model(**batch("left"))
    assert_close(actual.logits, expected.logits, rtol=0, atol=0)


def test_getters(model) -> None:
    inner = model.model
    assert model.get_encoder() is inner.encoder
    assert model.get_decoder() is inner.decoder
    assert model.get_input_embeddings() is inner.encoder.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    table = torch.nn.Embedding(17, 5).double()
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is inner.encoder.embed_tokens is table
    assert inner.decoder.embed_tokens is not table
    assert model.main_input_name == "input_ids"
