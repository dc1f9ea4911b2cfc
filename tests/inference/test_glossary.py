"""Words whose translation is given stand in the translation, whatever the search and the model."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bahdanau_hf import Glossary, InputError, Translator, cli
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.inference import ensemble
from bahdanau_hf.inference.translation import Given, join_tokens, put_given
from tests.helpers.tiny_checkpoint import LONG, PAIRS, make_checkpoint

TEA, STATION = "The tea is hot.", "Where is the station?"


@pytest.fixture(scope="module")
def searches() -> Any:
    """How many sentences each search was for."""
    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []
        find = ensemble.find_translations

        def watched(model, tokenizer, sources, *arguments, **options):
            seen.append(len(sources))
            return find(model, tokenizer, sources, *arguments, **options)

        patch.setattr(ensemble, "find_translations", watched)
        yield seen


# --- where terms stand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "text", "found"),
    [
        ({"tea": "茶"}, "Tea, TEA and tea's", ["Tea", "TEA", "tea"]),
        ({"tea": "茶"}, "steam team tea-time", ["tea"]),
        ({"Tom": "汤姆"}, "tom TOM Tom", ["Tom"]),
        ({"New York": "纽约", "York": "约克", "New": "新"}, "New York, York", ["New York", "York"]),
        ({"new york": "纽约"}, "New\u00a0 York", ["New\u00a0 York"]),
        ({"C++": "C加加", ".NET": "点"}, "C++, C+ and .NET", ["C++", ".NET"]),
        ({"茶": "tea", "茶杯": "cup"}, "我的茶杯和茶", ["茶杯", "茶"]),
        ({"Python": "蟒"}, "用Python写", ["Python"]),
        ({"café": "咖啡馆"}, "a cafe\u0301 or a café", ["cafe\u0301", "café"]),
        ({"cafe": "x"}, "cafe\u0301", []),
        ({}, "See https://a.org/b?c=(d). Or www.b.net!", ["https://a.org/b?c=(d", "www.b.net"]),
        ({}, "见https://a.org/路，请写信给a.b@c.de。", ["https://a.org/", "a.b@c.de"]),
        ({"org": "x"}, "https://a.org and org", ["https://a.org", "org"]),
        ({}, "3 @ 4, a@b, http, //, x.y", []),
        ({"42": "四十二"}, "42 and 421", ["42"]),
        ({}, "", []),
    ],
)
def test_finding(terms: dict[str, str], text: str, found: list[str]) -> None:
    spans = Glossary(terms).find(text)
    assert [text[start:end] for start, end, _ in spans] == found
    for start, end, target in spans:
        assert target in (*terms.values(), text[start:end])


def test_patterns_are_copied_and_the_longest_counts() -> None:
    glossary = Glossary({"name": "名字", "x": "y"}, [r"\{\w+\}", "%[sd]", r"\b"])
    assert glossary.replace("x {name} of name %s, X %d") == "y {name} of 名字 %s, y %d"
    assert [t.target for t in glossary.find("{name}%s")] == ["{name}", "%s"]
    assert [t.target for t in Glossary({}, ["b.*"]).find("a b\x07\u2028 \tc")] == ["b c"]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "terms.tsv"
    file.write_bytes("\ufefftea\t茶\r\n\nTom\npython\ntea\tlater\n".encode())
    glossary = Glossary.from_file(file)
    assert glossary.terms == {"tea": "茶", "Tom": "Tom", "python": "python"}
    assert glossary.replace("Tea for Tom: PYTHON") == "茶 for Tom: PYTHON"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\nc\td\te\n", r"terms\.tsv:2: not a source term.*'c\\td\\te'"),
        (b"a\t\n", r"terms\.tsv:1: not a source term"),
        (b"\ta\n", r"terms\.tsv:1: not a source term"),
        (b"a\xff\n", r"terms\.tsv:1: .*--encoding"),
        (None, r"cannot read .*terms\.tsv"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "terms.tsv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Glossary.from_file(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({" ": "a"},), "need words"),
        (({"a": "\u200b"},), "need words"),
        (({"a": None},), "holds texts"),
        (({}, ["("]), "no regular expression"),
        (({}, [3]), "no regular expression"),
    ],
)
def test_glossaries_that_are_none(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Glossary(*arguments)


# --- how they are written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "given", "text"),
    [
        # Between Latin words stands a space, beside Chinese and inside of brackets none.
        (["我", "x", "们"], Given(1, 2, "Tom"), "我Tom们"),
        ([" A", "x", " we"], Given(1, 2, "Tom"), "A Tom we"),
        ([" A", " ", "x", "."], Given(2, 3, "{name}"), "A {name}."),
        ([" A", " (", "x", ")"], Given(2, 3, "Tom"), "A (Tom)"),
        ([" A", "x", "y"], Given(1, 3, ", then"), "A, then"),
        ([" A", "x"], Given(1, 2, "茶"), "A茶"),
        # What would run into one word with it is left out.
        ([" A", "x", "s", "es", " we"], Given(1, 2, "Tom"), "A Tom we"),
        (["x", "们"], Given(0, 1, "我"), "我们"),
        # Nothing in it is cleaned or decoded.
        (["我", "x", "们"], Given(1, 2, "a  b\u00adc\u0301"), "我a  b\u00adc\u0301们"),
        (["我", "<unk>"], Given(1, 2, "<0x41>"), "我<0x41>"),
        (["我", "<unk>", "<eos>"], Given(1, 2, "<eos>"), "我<eos>"),
        ([" A", "<unk>"], Given(1, 2, "\u00ada\u00ad"), "A \u00ada\u00ad"),
    ],
)
def test_text_around_a_given_word(tokens: list[str], given: Given, text: str) -> None:
    tokenizer = train_tokenizer(["A we"], ["我们。"], vocab_size=300, min_frequency=1)
    put = put_given(tokenizer, tokens, [given])
    assert len(put) == len(tokens)
    assert join_tokens(tokenizer, put, [given]) == text


def test_a_tokenizer_that_writes_spaces_itself() -> None:
    tokenizer = train_tokenizer(["a we"], ["我们。"], kind="word-char", min_frequency=1)
    given = [Given(1, 2, "New , York"), Given(3, 4, "我")]
    put = put_given(tokenizer, ["a", "<unk>", "we", "<unk>", "。"], given)
    assert join_tokens(tokenizer, put, given) == "a New , York we我。"


# --- into translations ---------------------------------------------------------------------------

TARGETS = [
    "茶",  # as the model says it
    "咖啡",
    "ÉCOLE",
    "{name}",
    "a  b",
    "<0x41>",
    "😀",
    "https://example.org/very/long/address?that=no&search=spells#out",
]
SEARCHES: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "max_new_tokens": 2},
    {"max_new_tokens": 1},
    {"return_alignments": True, "return_scores": True, "replace_unknown": True},
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_a_term_is_always_there(translator: Translator, target: str, options: dict) -> None:
    glossary = Glossary({"tea": target, "tomorrow": "二〇三〇年"})
    sentences = [TEA, "It will rain tomorrow.", "Call us.", f"{LONG} tomorrow?", "tea", "42 teas"]
    found = translator.translate(sentences, glossary=glossary, **options)
    wanted = [target, "二〇三〇年", None, "二〇三〇年", target, None]
    for result, term in zip(found, wanted, strict=True):
        assert term is None or term in result.text
        assert term in (None, "茶") or result.text.count(term) == 1
    free = translator.translate(sentences, **options)
    assert (found[2], found[5]) == (free[2], free[5])
    alone = [translator.translate(s, glossary=glossary, **options)[0] for s in sentences]
    assert [t.text for t in alone] == [t.text for t in found]


def test_the_rest_is_written_knowing_it(translator: Translator) -> None:
    """Begun by hand, the model goes on in the same way; the score is that of all tokens."""
    glossary, tokenizer = Glossary({"station": "书"}), translator.tokenizer
    (free,) = translator.translate(STATION, num_beams=1)
    assert free.text == "车站在哪里？"
    (found,) = translator.translate(STATION, glossary=glossary, num_beams=1, return_scores=True)
    place = found.text.index("书")
    assert free.text.startswith(found.text[:place])
    begun = [1, *tokenizer.convert_tokens_to_ids([*found.text[: place + 1]])]
    source = torch.tensor(tokenizer([STATION])["input_ids"])
    ids = translator.model.generate(source, decoder_input_ids=torch.tensor([begun]), num_beams=1)
    assert found.text == tokenizer.decode(ids[0], skip_special_tokens=True)
    with torch.no_grad():
        logits = translator.model(input_ids=source, labels=ids[:, 1:]).logits[0]
    oracle = logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
    assert found.log_prob == pytest.approx(float(oracle), abs=1e-4)


def test_what_is_there_is_not_searched_for_again(translator: Translator, searches: list) -> None:
    glossary = Glossary({"tea": "茶", "call": "联系", "cups": "两杯"})
    searches.clear()
    found = translator.translate([TEA, "Call us.", PAIRS[15][0]], glossary=glossary)
    assert [t.text for t in found] == ["茶很热。", "联系我们。", PAIRS[15][1]]
    assert searches == [3]


def test_second_searches_are_batched(translator: Translator, searches: list) -> None:
    searches.clear()
    found = translator.translate([TEA] * 40, glossary=Glossary({"tea": "书"}))
    assert {t.text for t in found} == {found[0].text}
    assert searches == [40, 40]


def test_several_terms_and_a_term_twice(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_in_order(pairs: list[tuple[list[int], list[int]]]) -> Iterator[np.ndarray]:
        for source, target in pairs:
            places = np.arange(len(target)) * len(source) // len(target)
            yield np.eye(len(source), dtype=np.float32)[places]

    monkeypatch.setattr(translator, "_attend", look_in_order)
    source = PAIRS[12][0]  # My mother is a doctor, and my father is a teacher.
    terms = {"mother": "母亲", "doctor": "大夫", "father": "父亲", "teacher": "先生", "my": "俺"}
    (found,) = translator.translate(source, glossary=Glossary(terms))
    assert all(found.text.count(target) >= 1 for target in terms.values())
    assert found.text.count("俺") == 2
    places = [found.text.index(terms[word]) for word in ("mother", "doctor", "father", "teacher")]
    assert places == sorted(places)


def test_alternatives_all_have_it(translator: Translator) -> None:
    for source in (TEA, PAIRS[15][0]):
        (found,) = translator.translate(
            source, glossary=Glossary({"tea": "咖啡"}), num_return_sequences=4
        )
        assert len(found) > 1
        assert all("咖啡" in t.text for t in found)
        scores = [t.score for t in found]
        assert scores == sorted(scores, reverse=True)
    # Of those that are found freely, those without it are left out.
    (found,) = translator.translate(TEA, glossary=Glossary({"tea": "茶"}), num_return_sequences=4)
    assert all("茶" in t.text for t in found)


def test_what_comes_with_it(translator: Translator) -> None:
    options = {"return_alignments": True, "replace_unknown": True}
    (found,) = translator.translate(TEA, glossary=Glossary({"tea": "ÉCOLE X"}), **options)
    assert "ÉCOLE X" in found.text
    assert found.alignment.words.target == found.text
    assert any(word.text == "ÉCOLE" for word in found.alignment.words.target_words)
    json.dumps(found.as_dict())


@pytest.mark.parametrize("kind", ["word-char", "no attention", "int8", "ensemble"])
def test_models_of_every_kind(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    options: dict[str, Any] = {}
    if kind == "int8":
        folder, options = checkpoint, {"dtype": "int8"}
    elif kind == "ensemble":
        folder, options = checkpoint, {"ensemble": [checkpoint]}
    else:
        changes = {"use_attention": False} if kind == "no attention" else {}
        folder = make_checkpoint(
            tmp_path / "model", kind="word-char" if kind == "word-char" else "bpe", **changes
        )
    model = Translator.from_pretrained(folder, device="cpu", **options)
    glossary = Glossary({"tea": "Café NOIR", "station": "火车总站"})
    for search in ({}, {"num_beams": 3}, {"num_beams": 2, "return_scores": True}):
        hot, where = model.translate([TEA, STATION], glossary=glossary, **search)
        assert hot.text.count("Café NOIR") == 1
        assert where.text.count("火车总站") == 1


def test_sampling_and_limits(translator: Translator) -> None:
    glossary = Glossary({"tea": "咖啡"})
    torch.manual_seed(0)
    (found,) = translator.translate(
        TEA, glossary=glossary, do_sample=True, temperature=3.0, num_return_sequences=5
    )
    assert all("咖啡" in t.text for t in found)
    settings = translator.model.generation_config
    before = settings.max_length
    settings.max_length, settings.max_new_tokens = 20, 5
    try:
        (found,) = translator.translate(PAIRS[13][0], glossary=Glossary({"home": "书"}))
        assert "书" in found.text
        assert len(translator.tokenizer.tokenize(found.text)) == 5
    finally:
        settings.max_length, settings.max_new_tokens = before, None


def test_what_does_not_go_together(translator: Translator) -> None:
    with pytest.raises(InputError, match="leave out decoder_input_ids"):
        translator.translate(TEA, glossary=Glossary(), decoder_input_ids=torch.tensor([[1, 5]]))
    with pytest.raises(InputError, match="must be a Glossary"):
        translator.translate(TEA, glossary={"tea": "茶"})  # type: ignore[arg-type]
    # Without one, a translation may be begun, and addresses are what the model makes of them.
    translator.translate("I know a@b.de.", decoder_input_ids=torch.tensor([[1, 5]]))


def test_texts_and_the_command(
    checkpoint: Path, translator: Translator, tmp_path: Path, monkeypatch: Any, capsysbinary: Any
) -> None:
    text = "The tea is hot. See www.a.org/b?c!\n\nWhere is the station?"
    glossary = Glossary({"tea": "咖啡", "station": "Gare"})
    found = translator.translate_text(text, glossary=glossary).text
    assert "www.a.org/b?c" in found
    assert "www.a.org/b?c" in translator.translate_text(text).text
    assert found.count("咖啡") == found.count("Gare") == 1
    (tmp_path / "terms").write_text("tea\t咖啡\nstation\tGare\n", encoding="utf-8")
    command = ["translate", "--model", str(checkpoint), "--device", "cpu", "--text"]
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    capsysbinary.readouterr()
    assert cli.main([*command, "--glossary", str(tmp_path / "terms")]) == 0
    assert capsysbinary.readouterr().out.decode() == found


# --- what is copied ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        *(("-", True), ("42", True), ("?", True), ("…", True), ("1,000.50 €", True)),
        *(("😀 👍🏽 👩‍👩‍👧", True), ("a.b+c@d-e.org", True), ("https://a.org/b?c=d#e", True)),
        *(("www.a.org, b@c.de!", True), ("`git commit`", True), ("print('hi')", True)),
        *(("x_1 = 42;", True), ("<br/>", True), ("{name}: %s", False), ("--help", True)),
        *(("std::vector", True), ("Привет!", True), ("ضيف", True), ("  42\t7 ", True)),
        *(("Call us.", False), ("Call 42", False), ("He <b>", False), ("I", False)),
        *(("See a@b.de", False), ("he/she (you)", False), ("I am - he is", False)),
        *(("Call us: print('hi')", False), ("", False), (" \t", False), ("-" * 300, True)),
        *(("?! " * 300 + "Call us.", False), ("Привет, I know.", False)),
    ],
)
def test_what_holds_no_words_is_copied(translator: Translator, text: str, copied: bool) -> None:
    for options in ({}, {"num_beams": 2, "return_alignments": True, "return_scores": True}):
        (found,) = translator.translate(text, **options)
        assert found.copied is copied
        assert found.as_dict()["copied"] is copied
        if copied:
            assert " ".join(found.text.split()) == " ".join(text.split())
            assert (found.truncated, found.alignment) == (False, None)
            assert found.score == (0.0 if options else None)
    (alternatives,) = translator.translate(text, num_return_sequences=3)
    assert len(alternatives) == 1 or not copied


def test_a_copy_is_unchanged_and_one_line(translator: Translator) -> None:
    texts = ["3  -  4", "1\n2", "e\u0301\u0416", "42\ud800", "\u200d😀\n"]
    found = [t.text for t in translator.translate(texts)]
    assert found == ["3  -  4", "1 2", "e\u0301\u0416", "42", "\u200d😀"]


def test_a_text_is_copied_if_all_of_it_is(translator: Translator) -> None:
    for text, copied in (("42\n\n?", True), ("42\nCall us.", False), (" ", False)):
        assert translator.translate_text(text).copied is copied
    long = "=" * 500
    assert translator.translate_text(long).text == long


def test_terms_count_in_copies_too(translator: Translator) -> None:
    (found,) = translator.translate("42!", glossary=Glossary({"42": "四十二"}))
    assert (found.text, found.copied) == ("四十二!", False)
