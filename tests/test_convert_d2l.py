"""The tutorial's checkpoints: converted, they say what the tutorial's equations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bahdanau_hf.convert_d2l import convert_tutorial, joint_tokens, make_tokenizer
from bahdanau_hf.data.tokenization import clean_text
from bahdanau_hf.inference.translator import Translator
from tests.helpers.tutorial_oracle import (
    SOURCE_TOKENS,
    TARGET_TOKENS,
    TutorialOracle,
    random_weights,
    sensible_weights,
    split_words,
    write_files,
)

SENTENCES = [
    "Call us.",
    "call us .",
    "Go!",
    "I'm Tom.",  # "i'm" is unknown
    "You?",
    "It's\xa0Tom, go , go",
    "we go",
    "Zyzzyva, Tom",
    "i i i i i i i i you",  # 9 words and the end: just fits
    "i i i i i i i i you you",  # the end is cut off
    "Tom, go, Tom, go, Tom, go, Tom, go!",
    "10:30 Tom",
]
MARGIN = 1e-3  # nearer rivals than this would make a greedy choice a matter of rounding


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return sensible_weights()


@pytest.fixture(scope="module")
def converted(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial")
    convert_tutorial(**write_files(folder, weights), output_dir=folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def translator(converted: Path) -> Translator:
    return Translator.from_pretrained(converted, device="cpu")


@pytest.fixture(scope="module")
def oracle(weights: dict[str, torch.Tensor]) -> TutorialOracle:
    return TutorialOracle(weights)


# --- the model says what the tutorial's says -----------------------------------------------------


def test_greedy_translations_token_for_token(
    translator: Translator, oracle: TutorialOracle
) -> None:
    results = translator.translate(SENTENCES, return_alignments=True)
    lengths = set()
    for sentence, result in zip(SENTENCES, results, strict=True):
        expected = oracle.greedy(split_words(sentence))
        best = expected.logits.topk(2, dim=1).values
        assert float((best[:, 0] - best[:, 1]).min()) > MARGIN, "choose another seed"
        tokens = [token for token in result.alignment.target_tokens if token != "<eos>"]
        shown = [token.strip() or token for token in expected.tokens]
        assert tokens == shown, sentence
        said = [token for token in expected.tokens if token != "<unk>"]
        assert result.text == clean_text("".join(said))
        words = result.alignment.weights.shape[1]
        np.testing.assert_allclose(
            result.alignment.weights, expected.alphas[:, :words].numpy(), atol=1e-6
        )
        lengths.add(len(tokens))
    assert len(lengths) > 2, "the oracle's translations are all alike"
    assert 10 in lengths
    assert [r.truncated for r in results].count(True) == 2
    assert len({result.text for result in results}) > 6


def test_logits_and_attention_of_a_padded_batch(
    translator: Translator, oracle: TutorialOracle, converted: Path
) -> None:
    """Through the library alone: the tokenizer pads to ten, the model reads it."""
    tokenizer = AutoTokenizer.from_pretrained(converted)
    model = AutoModelForSeq2SeqLM.from_pretrained(converted).eval()
    sentences = [s for s in SENTENCES if len(split_words(s)) < 10]
    batch = tokenizer(sentences, padding="max_length", return_tensors="pt")
    assert batch["input_ids"].shape == (len(sentences), 10)
    tokens = joint_tokens(SOURCE_TOKENS, TARGET_TOKENS)
    to_ours = [tokens.index(token) for token in TARGET_TOKENS]
    target = [TARGET_TOKENS.index(t) for t in ["<bos>", *"我们跑", "<unk>", *". T，走"]]
    ours = torch.tensor([[to_ours[i] for i in target]] * len(sentences))
    with torch.no_grad():
        outputs = model(**batch, decoder_input_ids=ours, output_attentions=True)
    assert outputs.logits.shape == (len(sentences), len(target), len(TARGET_TOKENS))
    for i, sentence in enumerate(sentences):
        words = split_words(sentence)
        steps = oracle.run(words, target)
        logits = torch.stack([step.logits for step in steps])
        alphas = torch.stack([step.alpha for step in steps])
        assert float((outputs.logits[i][:, to_ours] - logits).abs().max()) < 1e-5
        weights = outputs.cross_attentions[0][i, 0]
        assert float((weights - alphas).abs().max()) < 1e-6
        assert not weights[:, len(words) + 1 :].any()
    # Padding matters to this encoder: what is padded less is read otherwise.
    with torch.no_grad():
        short = model(**tokenizer(sentences[0], return_tensors="pt"), decoder_input_ids=ours[:1])
    assert float((short.logits - outputs.logits[:1]).abs().max()) > 1e-2


@pytest.mark.parametrize(("layers", "num_steps", "seed"), [(1, 4, 4), (3, 13, 4)])
def test_other_depths_and_lengths(tmp_path: Path, layers: int, num_steps: int, seed: int) -> None:
    weights = random_weights(layers=layers, embedding=3, hidden=5, seed=seed)
    files = write_files(tmp_path, weights)
    model = convert_tutorial(**files, output_dir=tmp_path / "out", num_steps=num_steps)
    oracle = TutorialOracle(weights, num_steps=num_steps)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = joint_tokens(SOURCE_TOKENS, TARGET_TOKENS)
    num_words = 0
    for sentence in ("we go", "tom", "call him, go!"):
        words = split_words(sentence)
        ids = tokenizer(sentence, padding="max_length", return_tensors="pt")
        ids = {name: tensor[:, :num_steps] for name, tensor in ids.items()}
        said = model.generate(**ids)[0, 1:].tolist()
        expected = oracle.greedy(words)
        assert [tokens[i] for i in said if i != 2] == expected.tokens
        num_words += len(expected.tokens)
    assert num_words > num_steps


def test_rows_stand_where_their_tokens_do(
    weights: dict[str, torch.Tensor], converted: Path
) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(converted)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert tokens[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert set(tokens) == {*SOURCE_TOKENS, *TARGET_TOKENS}
    assert set(tokens[: model.config.vocab_size]) == set(TARGET_TOKENS)
    assert model.config.encoder_vocab_size == len(tokens)
    encoder = model.get_input_embeddings().weight
    decoder, head = model.model.decoder.embed_tokens.weight, model.lm_head
    for i, token in enumerate(tokens):
        known = token if token in SOURCE_TOKENS else "<unk>"
        row = weights["encoder.embedding.weight"][SOURCE_TOKENS.index(known)]
        assert torch.equal(encoder[i], row), token
        if i < len(TARGET_TOKENS):
            j = TARGET_TOKENS.index(token)
            assert torch.equal(decoder[i], weights["decoder.embedding.weight"][j])
            assert torch.equal(head.weight[i], weights["decoder.dense.weight"][j])
            assert head.bias[i] == weights["decoder.dense.bias"][j]
    assert tokens.index(".") < len(TARGET_TOKENS), "one id for the point of both sides"


def test_words_with_their_marks(tmp_path: Path) -> None:
    """A vocabulary that was made at spaces alone is used so."""
    source = [{".": "us.", "!": "go!"}.get(token, token) for token in SOURCE_TOKENS]
    weights = random_weights(seed=8)
    files = write_files(tmp_path, weights, source=source)
    convert_tutorial(**files, output_dir=tmp_path / "out", num_steps=5)
    translator = Translator.from_pretrained(tmp_path / "out", device="cpu")
    oracle = TutorialOracle(weights, source, num_steps=5)
    sentences = ["Call us.", "Go!", "call us .", "we go!", "us us. us us. us us."]
    for result in translator.translate(sentences, return_alignments=True):
        expected = oracle.greedy(split_words(result.source, marks="")).tokens
        tokens = [t for t in result.alignment.target_tokens if t != "<eos>"]
        assert tokens == [t.strip() or t for t in expected]
        # The words of links do not depend on the tokenizer.
        assert "us" in [w.text for w in result.alignment.words.source_words] or (
            "us" not in result.source
        )
    assert translator.align("Call us.").source_tokens == ["call", "us.", "<eos>"]


# --- the tokenizer cuts as the tutorial does -----------------------------------------------------

TEXT = st.text(alphabet="aB .,!?'-:\"É3\u202f\xa0’", max_size=30)


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_words_are_the_tutorials(text: str) -> None:
    """With a vocabulary that knows every word of the text, whatever it is."""
    for marks, extra in ((",.!?", []), ("", ["us."])):
        words = split_words(text, marks=marks)
        vocabulary = [*SOURCE_TOKENS, *extra]
        vocabulary += sorted(set(words) - set(vocabulary))
        tokenizer = make_tokenizer(vocabulary, TARGET_TOKENS)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == [*words, "<eos>"]


def test_a_given_target_and_what_is_printed(translator: Translator) -> None:
    tokenizer = translator.tokenizer
    labels = tokenizer(text_target="我们联系他.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(labels) == [*"我们联系他", ".", "<eos>"]
    assert tokenizer.decode(labels, skip_special_tokens=True) == "我们联系他."
    assert translator.align("Call us.", "我们联系他。").target_tokens == [*"我们联系他。", "<eos>"]
    # Words on the target side are printed as words.
    words = make_tokenizer(SOURCE_TOKENS, [*TARGET_TOKENS, "allons", "y"])
    ids = words.convert_tokens_to_ids(["allons", "y", "<eos>"])
    assert words.decode(ids, skip_special_tokens=True) == "allons y"


def test_the_tokenizer_survives_saving(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.model_max_length == 10
    again = tokenizer("It's Tom, GO!")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(again) == ["it's", "tom", ",", "go", "!", "<eos>"]
    assert tokenizer.init_kwargs["target_vocab_size"] == len(TARGET_TOKENS)
