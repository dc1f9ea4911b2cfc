"""The ledger measures what it says: each method against its definition."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.made_pairs import PAIRS, write_tsv

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are not installed

from bahdanau_hf.data.tokenization import EOS_ID, UNK_ID, target_vocab_size
from bahdanau_hf.inference.translator import Translation
from bahdanau_hf.training.arguments import parse_arguments
from benchmarks import ledger_methods as methods
from benchmarks import synthetic_pairs
from benchmarks.study_systems import batch_loss
from benchmarks.study_training import Learner, prepare_study

BATCHES = 4


@pytest.fixture
def made(tmp_path) -> Any:
    """A study of made pairs; flags may be given."""
    path = write_tsv(tmp_path / "pairs.tsv", PAIRS)

    def make(*flags: str) -> Any:
        command = [f"--train_file={path}", f"--validation_file={path}", "--max_length_ratio=20"]
        command += ["--hidden_size=8", "--embedding_size=6", f"--output_dir={tmp_path / 'run'}"]
        command += ["--per_device_train_batch_size=8", "--tokenizer_kind=word-char", *flags]
        return prepare_study(*parse_arguments(command), bf16=False)

    return make


def first_batch(study: Any) -> dict[str, torch.Tensor]:
    return next(study.batches(seed=0))


def test_words_are_dropped_and_ends_are_not(made) -> None:
    study = made()
    model, batch = study.make("attention", 0).eval(), first_batch(study)
    with torch.no_grad():
        kept = methods.WordDropout(0.0).loss(model, batch, 0.1)
        lost = methods.WordDropout(1.0).loss(model, batch, 0.1)
        unknown = batch["input_ids"].where(batch["input_ids"] <= EOS_ID, UNK_ID)
        started = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        started = started.where(started <= EOS_ID, UNK_ID)
        expected = {**batch, "input_ids": unknown, "decoder_input_ids": started}
        torch.testing.assert_close(kept, batch_loss(model, batch, 0.1))
        torch.testing.assert_close(lost, batch_loss(model, expected, 0.1))


def test_one_mask_for_all_steps(made) -> None:
    study = made("--embedding_dropout=0.5", "--readout_dropout=0.5")
    model, batch = study.make("attention", 0), first_batch(study)
    expected = model.eval()(**batch).logits
    methods.VariationalDropout(0.5).build(model)
    torch.testing.assert_close(model(**batch).logits, expected)
    ids = batch["input_ids"][:1, :1].expand(3, 5)  # one word throughout
    embedded = model.train().model.encoder.embed_tokens(ids)
    torch.testing.assert_close(embedded, embedded[:, :1].expand_as(embedded))
    output = model.model(**batch | {"decoder_input_ids": batch.pop("labels").clamp(min=0)})
    is_zero = output.last_hidden_state == 0
    assert is_zero.any()
    assert torch.equal(is_zero, is_zero[:, :1].expand_as(is_zero))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (methods.LastAverage(0.5), (2.0 + 3.0) / 2),
        (methods.MovingAverage(0.5), None),
    ],
)
def test_averages(method: Any, expected: float | None) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    method.build(model)
    seen = []
    for step in range(4):
        nn.init.constant_(model.weight, step)
        method.after_step(model, step / 4)
        seen.append(step)
    if expected is None:
        expected = 0.0
        for i, value in enumerate(seen, start=1):
            decay = min(method.decay, i / (i + 10))
            expected = decay * expected + (1 - decay) * value
    method.finish(model)
    assert model.weight.item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_two_batches_make_a_step(made) -> None:
    """Twice the same batch is the same as once, but for the rate's schedule."""
    study = made("--optimizer=adam", "--lr_scheduler_type=constant")
    batch, steps = first_batch(study), []
    for method in (None, methods.LateLargeBatches(0.0)):
        model = study.make("attention", 0)
        learner = Learner(study, model, BATCHES, 0.0, method)
        for _ in range(BATCHES if method else BATCHES // 2):
            learner.step(batch)
        steps.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*steps)


def test_a_residual_layer_that_learnt_nothing_passes_on(made) -> None:
    study = made("--encoder_layers=2", "--dropout=0")
    model, batch = study.make("attention", 0).eval(), first_batch(study)
    encoder, method = model.model.encoder, methods.ResidualEncoder()
    for layer in (encoder.forward_layers[1], encoder.backward_layers[1]):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert not encoder(**inputs).last_hidden_state.any()
    with method.patched():
        method.build(model)
        output = encoder(**inputs, output_hidden_states=True)
        torch.testing.assert_close(output.hidden_states[2], output.hidden_states[1])
        other = study.make("attention", 0).eval().model.encoder
        assert not torch.equal(
            *(other(**inputs, output_hidden_states=True).hidden_states[1:3])
        )  # another model is left alone


def test_normalised_cells(made) -> None:
    study, method = made(), methods.NormalisedCells()
    model, batch = study.make("attention", 0).eval(), first_batch(study)
    before, weights = model(**batch).logits, model.state_dict()
    method.build(model)
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in weights.items())
    assert not torch.allclose(model(**batch).logits, before)
    with torch.no_grad():
        cell = model.model.decoder.layers[0]
        x, s = torch.randn(3, cell.input_size), torch.randn(3, cell.hidden_size)

        def gates(products: torch.Tensor) -> list[torch.Tensor]:
            return [F.layer_norm(gate, gate.shape[1:]) for gate in products.chunk(3, dim=1)]

        (x_r, x_z, x_n), (s_r, s_z, s_n) = gates(x @ cell.weight_ih.T), gates(s @ cell.weight_hh.T)
        z, n = (x_z + s_z).sigmoid(), (x_n + (x_r + s_r).sigmoid() * s_n).tanh()
        torch.testing.assert_close(cell(x, s), (1 - z) * n + z * s)
        # What the encoder's weights say as they are does not matter, only their direction.
        before = model(**batch).logits
        for layer in (*model.model.encoder.forward_layers, *model.model.encoder.backward_layers):
            layer.weight_ih_l0 *= 3
            layer.weight_hh_l0 *= 3
        torch.testing.assert_close(model(**batch).logits, before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("places", "expected"), [([0, 1, 2], 0.0), ([0, 1, 1], 1.0 / 3)])
def test_coverage(places: list[int], expected: float) -> None:
    attention = F.one_hot(torch.tensor(places), 3).float()[None, None]
    outputs = SimpleNamespace(cross_attentions=(attention,), loss=torch.tensor(2.0))
    batch = {"labels": torch.tensor([[5, 6, EOS_ID]])}
    loss = methods.Coverage(0.5).loss(lambda **_: outputs, batch, 0.0)
    assert loss.item() == pytest.approx(2 + 0.5 * expected)


def test_guided_attention_adds_to_the_loss(made) -> None:
    study = made()
    method = methods.GuidedAttention(0.5)
    batch = first_batch(method.study(study, {}))
    model = study.make("attention", 0).eval()
    with torch.no_grad():
        words = batch_loss(model, {k: v for k, v in batch.items() if k != "best_sources"}, 0.1)
        assert method.loss(model, batch, 0.1) > words
        torch.testing.assert_close(methods.GuidedAttention(0.0).loss(model, batch, 0.1), words)


@pytest.mark.parametrize("method", [methods.ChineseWords(), methods.Unigram()])
def test_other_tokens_spell_the_same(made, method: Any) -> None:
    with method.patched():
        study = made("--tokenizer_kind=bpe", "--vocab_size=400", "--min_frequency=1")
        study = method.study(study, {})
    tokenizer = study.tokenizer
    for text in (text for pair in PAIRS for text in pair):
        ids = tokenizer(text)["input_ids"]
        assert UNK_ID not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    labels = [i for pair in study.encoded["labels"] for i in pair]
    assert UNK_ID < max(labels) < target_vocab_size(tokenizer)
    joined = [t for t in tokenizer.get_vocab() if len(t) > 1 and "一" <= t[0] <= "鿿"]
    assert bool(joined) == isinstance(method, methods.ChineseWords)


def test_other_pairs(made, tmp_path) -> None:
    study = made()
    files = {"more": write_tsv(tmp_path / "more.tsv", PAIRS[:5])}
    besides = methods.OtherPairs(file="more", besides=True).study(study, files)
    instead = methods.OtherPairs(file="more", besides=False).study(study, files)
    assert len(besides.encoded) == len(study.encoded) + 5
    assert len(instead.encoded) == 5
    assert instead.encoded["labels"][:5] == besides.encoded["labels"][-5:]


def test_pretraining_comes_first(made, tmp_path) -> None:
    study = made()
    files = {"first": write_tsv(tmp_path / "first.tsv", PAIRS[:1])}
    method = methods.Pretraining(file="first", until=0.5, longest=50)
    study = method.study(study, files)
    seen = []
    method.build(study.make("attention", 0))
    batch = first_batch(study)
    for share in (0.0, 0.49, 0.5, 0.9):
        seen.append(len(method.batch(batch, share)["labels"]))
    assert seen == [1, 1, len(batch["labels"]), len(batch["labels"])]


@pytest.mark.parametrize(("side", "kept"), [("targets", 0), ("sources", 1)])
def test_a_model_writes_one_side(tmp_path, monkeypatch, side: str, kept: int) -> None:
    def from_pretrained(model: str, dtype: str) -> Any:
        return SimpleNamespace(
            translate=lambda texts, num_beams: [
                Translation(text, "" if text == texts[-1] else text[::-1]) for text in texts
            ]
        )

    monkeypatch.setattr(synthetic_pairs.Translator, "from_pretrained", from_pretrained)
    path, output = write_tsv(tmp_path / "pairs.tsv", PAIRS), tmp_path / "output.tsv"
    assert synthetic_pairs.main([side, "a model", str(path), str(output)]) == 0
    rows = [tuple(line.split("\t")) for line in output.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ("en", "zh")
    expected = [
        (source, source[::-1]) if kept == 0 else (target[::-1], target)
        for source, target in PAIRS[:-1]  # the last translation is empty
    ]
    assert rows[1:] == expected
