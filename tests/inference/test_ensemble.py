"""An ensemble searches by the mean of the probabilities, and one of equals is the model itself."""

import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from bahdanau_hf import EnsembleLogitsProcessor, InputError, Translator
from bahdanau_hf.cli import main
from bahdanau_hf.data.tokenization import target_vocab_size
from bahdanau_hf.data.vocabulary import train_tokenizer

SEEDS = (1, 2, 3)


@pytest.fixture
def models(tiny_model, tiny_tokenizer) -> list[Any]:
    """Three with decided and different opinions, one of another architecture."""
    sizes = {
        "vocab_size": target_vocab_size(tiny_tokenizer),
        "encoder_vocab_size": len(tiny_tokenizer),
    }
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = tiny_model(**sizes, conditional_gru=seed == 3).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(6)
            model.lm_head.bias[2] += 1.0
        model.generation_config.max_new_tokens = 7
        found.append(model)
    return found


@pytest.fixture
def folders(models, tiny_tokenizer, tmp_path) -> list[str]:
    found = [str(tmp_path / f"seed-{seed}") for seed in SEEDS]
    for folder, model in zip(found, models, strict=True):
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
    return found


@torch.no_grad()
def reference(models: list[Any], batch: dict[str, Tensor], prefix: Tensor) -> Tensor:
    """Mean probability of the next word, `(R, V)`, everything read again from its beginning."""
    repeats = len(prefix) // len(batch["input_ids"])
    rows = {key: value.repeat_interleave(repeats, dim=0) for key, value in batch.items()}
    every = [model(**rows, decoder_input_ids=prefix).logits[:, -1] for model in models]
    for a, b in itertools.combinations(every, 2):
        assert not torch.allclose(a, b, atol=0.1), "the models must differ for this to count"
    return torch.stack([logits.softmax(dim=-1) for logits in every]).mean(dim=0)


def texts(pairs: list[tuple[str, str]], number: int = 9) -> list[str]:
    return [source for source, _ in pairs[:number]]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}])
def test_equals_are_one(models, tiny_tokenizer, pairs, options) -> None:
    sentences = texts(pairs)
    first, *_ = models
    alone = Translator(first, tiny_tokenizer).translate(sentences, return_scores=True, **options)
    same = Translator(first, tiny_tokenizer, ensemble=[first, first])
    for ours, its in zip(
        same.translate(sentences, return_scores=True, **options), alone, strict=True
    ):
        assert ours.text == its.text
        assert ours.score == pytest.approx(its.score)
    together = Translator(first, tiny_tokenizer, ensemble=models[1:])
    others = together.translate(sentences, return_scores=True, **options)
    assert [t.text for t in others] != [t.text for t in alone]
    for i in (0, 4):  # neighbours make no difference
        (single,) = together.translate(sentences[i], return_scores=True, **options)
        assert single.text == others[i].text
        assert single.score == pytest.approx(others[i].score)


def test_every_step_is_the_mean(models, tiny_tokenizer, pairs) -> None:
    """Whatever rows the search has kept, the caches say what the whole prefix would."""
    batch = dict(tiny_tokenizer(texts(pairs, 4), padding=True, return_tensors="pt"))
    processor = EnsembleLogitsProcessor(models[1:], **batch)
    moved, steps = set(), []

    def compare(input_ids: Tensor, scores: Tensor) -> Tensor:
        mixed = processor(input_ids, scores)
        mean = reference(models, batch, input_ids).to(mixed)  # the library goes on in float32
        torch.testing.assert_close(mixed.exp(), mean)
        steps.append(input_ids)
        return mixed

    models[0].generate(
        **batch, num_beams=3, max_new_tokens=7, logits_processor=LogitsProcessorList([compare])
    )
    for before, now in itertools.pairwise(steps):
        moved.add(torch.equal(before, now[:, :-1]))
    assert len(steps) > 3
    assert False in moved, "the search must have dropped a row for this to count"


def test_it_begins_with_any_prefix(models, tiny_tokenizer, pairs) -> None:
    batch = dict(tiny_tokenizer(texts(pairs, 2), padding=True, return_tensors="pt"))
    prefix = torch.tensor([[1, 5, 7], [1, 6, 7], [1, 7, 7], [1, 8, 7]])
    processor = EnsembleLogitsProcessor(models[1:], **batch)
    with torch.no_grad():
        rows = {key: value.repeat_interleave(2, dim=0) for key, value in batch.items()}
        scores = models[0](**rows, decoder_input_ids=prefix).logits[:, -1]
    torch.testing.assert_close(processor(prefix, scores).exp(), reference(models, batch, prefix))


def test_sampling_draws_from_the_mean(models, tiny_tokenizer, pairs) -> None:
    """A low temperature leaves the likeliest word of the mean: what greedy search takes."""
    together = Translator(models[0], tiny_tokenizer, ensemble=models[1:])
    greedy = together.translate(texts(pairs), num_beams=1)
    cold = LogitsProcessorList([TemperatureLogitsWarper(1e-4)])
    drawn = together.translate(texts(pairs), num_beams=1, do_sample=True, logits_processor=cold)
    assert [t.text for t in drawn] == [t.text for t in greedy]


def test_one_processor_one_search(models, tiny_tokenizer, pairs) -> None:
    batch = dict(tiny_tokenizer(texts(pairs, 2), padding=True, return_tensors="pt"))
    vocab = models[0].config.vocab_size
    processor = EnsembleLogitsProcessor(models[1:], **batch)
    with pytest.raises(ValueError, match="another batch"):
        processor(torch.tensor([[1], [1], [1]]), torch.zeros(3, vocab))
    processor(torch.tensor([[1], [1]]), torch.zeros(2, vocab))
    processor(torch.tensor([[1, 5], [1, 6]]), torch.zeros(2, vocab))
    for words in ([[1], [1]], [[1, 6, 5], [1, 5, 5]]):
        with pytest.raises(ValueError, match="one processor, one search"):
            processor(torch.tensor(words), torch.zeros(2, vocab))


def test_modes_are_left_as_they_were(models, tiny_tokenizer, pairs) -> None:
    models[1].train()
    together = Translator(models[0], tiny_tokenizer, ensemble=models[1:])
    assert together.translate(texts(pairs)) == together.translate(texts(pairs))
    assert [model.training for model in models] == [False, True, False]


# Loaded by name


def test_from_folders(folders, models, tiny_tokenizer, pairs) -> None:
    expected = Translator(models[0], tiny_tokenizer, ensemble=models[1:]).translate(texts(pairs))
    loaded = Translator.from_pretrained(folders[0], ensemble=folders[1:])
    assert loaded.translate(texts(pairs)) == expected


def test_the_first_one_is_asked_where_it_looks(models, tiny_tokenizer, pairs) -> None:
    source, target = pairs[0]
    alone = Translator(models[0], tiny_tokenizer).align(source, target)
    together = Translator(models[0], tiny_tokenizer, ensemble=models[1:]).align(source, target)
    assert (together.weights == alone.weights).all()


def test_the_command(folders, pairs, tmp_path, capsysbinary) -> None:
    path = tmp_path / "pairs.tsv"
    rows = [("en", "zh"), *pairs]
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    flags = ["--model", folders[0], "--test_file", str(path), "--num_beams", "2"]
    assert main(["score", *flags]) == 0
    alone = json.loads(capsysbinary.readouterr().out)
    assert "ensemble" not in alone
    assert main(["score", *flags, "--ensemble", *folders[1:]]) == 0
    together = json.loads(capsysbinary.readouterr().out)
    assert together["ensemble"] == folders[1:]
    assert together["chrf"] != alone["chrf"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["score", "--alignments", "--model", "{0}", "--ensemble", "{1}"], "--ensemble goes with"),
        (["score", "--predictions", "x", "--ensemble", "{1}"], "--ensemble goes with"),
        (["translate", "--model", "{0}", "--ensemble", "no/such/folder"], "no such folder"),
        (["translate", "--model", "{0}", "--ensemble", "{1}", "--dtype", "int8"], "int8"),
    ],
)
def test_flags_that_do_not_go_together(folders, flags, message, capsys) -> None:
    assert main([flag.format(*folders) for flag in flags]) == 2
    assert message in capsys.readouterr().err


def test_other_tokens_are_refused(folders, pairs, tiny_tokenizer) -> None:
    """As many tokens, so that sizes do not tell."""
    english, chinese = zip(*pairs, strict=True)
    swap = str.maketrans("我你", "鱻你")
    other = train_tokenizer(
        english, [text.translate(swap) for text in chinese], kind="word-char", min_frequency=1
    )
    assert len(other) == len(tiny_tokenizer)
    other.save_pretrained(folders[1])
    with pytest.raises(InputError, match="seed-2 has other tokens than"):
        Translator.from_pretrained(folders[0], ensemble=folders[1:])


def test_other_padding_is_refused(folders, models, tiny_tokenizer) -> None:
    models[2].config.encoder_reads_padding = True
    with pytest.raises(InputError, match="only one of them reads padding"):
        Translator(models[0], tiny_tokenizer, ensemble=models[1:])
    models[2].save_pretrained(folders[2])
    with pytest.raises(InputError, match="only one of them reads padding"):
        Translator.from_pretrained(folders[0], ensemble=folders[1:])
