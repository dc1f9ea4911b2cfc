"""Unknown words are replaced by what the model looked at; links between words reach the caller."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bahdanau_hf import InputError, cli
from bahdanau_hf.alignment.words import Word, split_words
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.inference.translation import join_tokens, replace_tokens
from bahdanau_hf.inference.translator import Translator
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that writes `<unk>` wherever it would have written the character for tea."""
    folder = make_checkpoint(tmp_path_factory.mktemp("forgetful"), kind="word-char")
    translator = Translator.from_pretrained(folder, device="cpu")
    model, unknown = translator.model, 3
    own = translator.tokenizer.convert_tokens_to_ids("茶")
    embedding = model.model.decoder.embed_tokens.weight
    with torch.no_grad():
        model.lm_head.weight[unknown] = model.lm_head.weight[own]
        model.lm_head.bias[unknown] = model.lm_head.bias[own] + 1.0
        embedding[unknown] = embedding[own]  # so that the rest of the sentence follows
    model.save_pretrained(folder)
    return folder


def word(text: str) -> Word:
    return Word(text, 0, len(text))


# --- the pieces ----------------------------------------------------------------------------------


def test_the_word_looked_at_takes_the_place() -> None:
    tokens = ["我", "<unk>", "。", "<unk>", "<eos>"]
    words = [word("I"), word("Tom"), word("."), word("Ann"), None]
    assert replace_tokens(tokens, words, {}) == ["我", "Tom", "。", "Ann", "<eos>"]
    names = {"tom": "汤姆", "Ann": "安", "ann": "错", "I": "错"}
    assert replace_tokens(tokens, words, names) == ["我", "汤姆", "。", "安", "<eos>"]
    assert replace_tokens(["<unk>"], [word("Tom")], {"Tom": "汤", "tom": "错"}) == ["汤"]
    assert replace_tokens(["<unk>"], [word("Tom")], {"Tom": ""}) == [""]
    assert replace_tokens(["<unk>"], [None], {}) == ["<unk>"]


@pytest.mark.parametrize(
    ("kind", "tokens", "words", "text"),
    [
        # Latin words keep their distance from each other, whatever the tokenizer does.
        ("bpe", ["A", "<unk>", "we", "<unk>"], ["Tom", "Ann"], "A Tom we Ann"),
        ("word-char", ["a", "<unk>", "we", "<unk>"], ["Tom", "Ann"], "a Tom we Ann"),
        # Beside Chinese there is none.
        ("bpe", ["我", "<unk>", "们", "。"], ["Tom"], "我Tom们。"),
        ("word-char", ["我", "<unk>", "们", "。"], ["Tom"], "我Tom们。"),
        ("bpe", ["我", "<unk>", "<unk>", "。"], ["汤", "Tom"], "我汤Tom。"),
        # What stays unknown is left out, as before; so are the other marks.
        ("bpe", ["<bos>", "我", "<unk>", "<eos>"], [None], "我"),
        # Bytes still make characters.
        ("bpe", ["<unk>", "<0xE9>", "<0xA5>", "<0x95>"], ["Tom"], "Tom饕"),
    ],
)
def test_text_around_a_replaced_word(kind, tokens, words, text) -> None:
    tokenizer = train_tokenizer(
        ["A we Tom"], ["我们。"], kind=kind, vocab_size=300, min_frequency=1
    )
    chosen = iter(words)
    looked_at = []
    for token in tokens:
        choice = next(chosen) if token == "<unk>" else "x"
        looked_at.append(None if choice is None else word(choice))
    replaced = replace_tokens(tokens, looked_at, {})
    assert join_tokens(tokenizer, replaced) == text


# --- through a model -----------------------------------------------------------------------------

GAPS = {"The tea is hot.": "{}很热。", "Two cups of tea, please.": "请来两杯{}。"}
TEA = list(GAPS)


def test_a_model_that_lacks_a_word_shows_the_sources(forgetful: Path) -> None:
    translator = Translator.from_pretrained(forgetful, device="cpu")
    left_out = translator.translate(TEA)
    assert [t.text for t in left_out] == [gap.format("") for gap in GAPS.values()]
    replaced = translator.translate(TEA, replace_unknown=True, return_alignments=True)
    for sentence, after in zip(TEA, replaced, strict=True):
        place = after.alignment.target_tokens.index("<unk>")
        weights = after.alignment.weights[place]
        # Tokens are words here; the last column is the end.
        looked_at = split_words(sentence)[int(weights[:-1].argmax())].text
        assert after.text == GAPS[sentence].format(looked_at)
        entry = translator.translate(sentence, replace_unknown={looked_at.lower(): "茶"})[0]
        expected = dict(PAIRS)[sentence]
        assert entry.text == expected
        words = after.alignment.words
        assert list(words.target_words) == split_words(after.text)
        (j,) = (j for j, w in enumerate(words.target_words) if w.text == looked_at)
        np.testing.assert_allclose(words.weights[j], weights[:-1], atol=1e-6)
    # Only those that need it are looked up, and nothing else changes.
    known = [s for s, _ in PAIRS if s not in TEA]
    assert translator.translate(known, replace_unknown=True) == translator.translate(known)
    several = translator.translate(TEA, replace_unknown={}, num_return_sequences=3)
    best = translator.translate(TEA, replace_unknown=True, num_beams=3)
    assert [alternatives[0].text for alternatives in several] == [t.text for t in best]


def test_what_cannot_be_replaced(translator: Translator, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="replace_unknown must be True, False or a dictionary"):
        translator.translate("Call us.", replace_unknown="names.tsv")
    blind = make_checkpoint(tmp_path, num_steps=1, use_attention=False)
    with pytest.raises(InputError, match="no attention"):
        Translator.from_pretrained(blind, device="cpu").translate("Call us.", replace_unknown=True)


def test_the_command_replaces(
    forgetful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary
) -> None:
    translator = Translator.from_pretrained(forgetful, device="cpu")
    (tmp_path / "names.tsv").write_text("".join(f"{w}\t茶\n" for w in ("tea", "is", "hot", "the")))
    (tmp_path / "bad.tsv").write_text("tea\t茶\ntea\n")
    for flags, options in (
        ([], {}),
        (["--replace_unknown"], {"replace_unknown": True}),
        (["--replace_unknown", str(tmp_path / "names.tsv")], None),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEA[0].encode())))
        capsysbinary.readouterr()
        assert cli.main(["translate", "--model", str(forgetful), "--device", "cpu", *flags]) == 0
        out = capsysbinary.readouterr().out.decode()
        expected = (
            "茶很热。" if options is None else translator.translate(TEA[0], **options)[0].text
        )
        assert out == f"{expected}\n"
    for name, message in (
        ("bad.tsv", "bad.tsv:2: not a source word, one tab"),
        ("x", "cannot read"),
    ):
        arguments = ["translate", "--model", "x", "--replace_unknown", str(tmp_path / name)]
        assert cli.main(arguments) == 2
        assert message in capsysbinary.readouterr().err.decode()


# --- links between words -------------------------------------------------------------------------


def test_links_of_translations(translator: Translator) -> None:
    """Words are the strings', their weights the tokens'."""
    sentences = [f"  {source} \u200b" for source, _ in PAIRS]
    split = 0
    for translation in translator.translate(sentences, return_alignments=True):
        words, tokens = translation.alignment.words, translation.alignment
        assert (words.source, words.target) == (translation.source, translation.text)
        visible = [w for w in split_words(translation.source) if w.text != "\u200b"]
        assert list(words.source_words) == visible
        assert list(words.target_words) == split_words(translation.text)
        split += len(tokens.source_tokens) - 1 > len(words.source_words)
        # Here every Chinese character is one token, so rows are rows.
        assert len(words.target_words) == len(tokens.target_tokens) - 1
        to_words = words.weights.sum(axis=1)
        np.testing.assert_allclose(to_words, 1 - tokens.weights[:-1, -1], atol=1e-5)
        for i, j in words.links:
            assert words.weights[j, i] == words.weights[j].max()
    assert split > 5, "no word is made of several tokens"


def test_pairs_are_aligned_together_as_alone(translator: Translator) -> None:
    sources, targets = zip(*PAIRS, strict=True)
    together = Translator(translator.model, translator.tokenizer, batch_size=5)
    for source, target, found in zip(
        sources, targets, together.align_pairs(sources, targets), strict=True
    ):
        alone = translator.align(source, target)
        assert found.target_tokens == alone.target_tokens
        np.testing.assert_allclose(found.weights, alone.weights, atol=1e-5)
        assert found.words.links == alone.words.links
    with pytest.raises(InputError, match="blank"):
        translator.align_pairs(["Call us.", "I know."], ["联系我们。", " "])


def test_links_of_a_given_target_and_of_alternatives(translator: Translator) -> None:
    source = "Call us."
    own = translator.align(source).words
    assert own.target == "联系我们。"
    given = translator.align(f" {source}", "联\u200b系我们。").words
    np.testing.assert_allclose(given.weights, own.weights, atol=1e-6)
    assert [w.start for w in given.source_words] == [w.start + 1 for w in own.source_words]
    assert [w.start for w in given.target_words] == [0, 2, 3, 4, 5]
    assert [w.text for w in given.target_words] == [*"联系我们。"]
    (several,) = translator.translate([source], num_return_sequences=3, return_alignments=True)
    assert len(several) == 3
    for translation in several:
        assert translation.alignment.words.target == translation.text
        assert [w.text for w in translation.alignment.words.target_words] == [
            w.text for w in split_words(translation.text)
        ]


def test_what_was_cut_has_no_links(translator: Translator) -> None:
    long = "I was ill yesterday, so I stayed at home. " * 9
    words = translator.align(long).words
    assert 5 < len(words.source_words) < 24
    assert list(words.source_words) == split_words(long)[: len(words.source_words)]


def test_the_command_prints_links(checkpoint: Path, translator: Translator, capsysbinary) -> None:
    arguments = ["align", "--model", str(checkpoint), "--device", "cpu", " Call us.", "--links"]
    capsysbinary.readouterr()
    assert cli.main(arguments) == 0
    printed = json.loads(capsysbinary.readouterr().out)
    expected = translator.align(" Call us.").words
    assert (printed["source"], printed["target"]) == (" Call us.", "联系我们。")
    assert len(printed["links"]) == len(expected.links) > 1
    for link, (i, j) in zip(printed["links"], expected.links, strict=True):
        source, target = expected.source_words[i], expected.target_words[j]
        assert printed["source"][slice(*link["source_span"])] == link["source"] == source.text
        assert printed["target"][slice(*link["target_span"])] == link["target"] == target.text
        assert link["weight"] == pytest.approx(float(expected.weights[j, i]), abs=1e-3)
