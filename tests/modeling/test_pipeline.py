"""`pipeline("translation")`, from the code in a checkpoint, says what `Translator` says."""

from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from bahdanau_hf import BahdanauForConditionalGeneration, BahdanauTranslationPipeline
from bahdanau_hf.alignment.record import Alignment
from bahdanau_hf.data.tokenization import load_tokenizer
from bahdanau_hf.inference.translator import Translator
from tests.helpers.tiny_checkpoint import PAIRS, SENTENCES


@pytest.fixture(scope="module")
def translate(checkpoint: Path) -> BahdanauTranslationPipeline:
    """The pipeline as a stranger gets it, its class from the folder."""
    impl = "pipeline_bahdanau.BahdanauTranslationPipeline"
    carried = get_class_from_dynamic_module(impl, str(checkpoint))
    made = pipeline("translation", model=str(checkpoint), pipeline_class=carried, device="cpu")
    assert type(made).__module__.startswith("transformers_modules.")
    return made


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_it_says_what_the_translator_says(
    translator: Translator, translate: Any, batch_size: int, num_beams: int
) -> None:
    options = {"num_beams": num_beams, "return_alignments": True, "return_scores": True}
    expected = translator.translate(SENTENCES, **options)
    answers = translate(SENTENCES, batch_size=batch_size, **options)
    assert len(answers) == len(SENTENCES)
    for answer, translation in zip(answers, expected, strict=True):
        assert answer["translation_text"] == translation.text
        assert answer["score"] == pytest.approx(translation.score, abs=1e-4)
        if translation.alignment is None:
            assert answer["alignment"] is None
        else:
            found = Alignment.from_dict(answer["alignment"])
            assert found.source_tokens == translation.alignment.source_tokens
            assert found.target_tokens == translation.alignment.target_tokens
            assert found.weights == pytest.approx(translation.alignment.weights, abs=2e-4)


def test_forms_of_input_and_answer(translator: Translator, translate: Any) -> None:
    english, chinese = zip(*PAIRS[:3], strict=True)
    single = [{"translation_text": chinese[0]}]
    assert translate(english[0]) == single
    assert translate(list(english)) == [{"translation_text": text} for text in chinese]
    assert translate(english) == translate(list(english))
    assert list(translate(text for text in english)) == [
        [{"translation_text": text}] for text in chinese
    ]
    assert translate([]) == []
    assert translate("") == [{"translation_text": ""}]
    several = translate([english[0], ""], num_return_sequences=2)
    expected = translator.translate([english[0], ""], num_return_sequences=2)
    for answers, translations in zip(several, expected, strict=True):
        assert [a["translation_text"] for a in answers] == [t.text for t in translations]
        assert [a["score"] for a in answers] == pytest.approx([t.score for t in translations])
    with pytest.raises(ValueError, match="must be text, not 7"):
        translate([english[0], 7])


def test_options_of_all_calls_and_of_one(checkpoint: Path) -> None:
    """With the package imported, its class may be named instead of trusting the folder's."""
    named = {"pipeline_class": BahdanauTranslationPipeline, "device": "cpu"}
    translate = pipeline("translation", model=str(checkpoint), max_new_tokens=2, **named)
    assert type(translate.model) is BahdanauForConditionalGeneration
    source, target = PAIRS[12]
    assert 0 < len(translate(source)[0]["translation_text"]) < len(target) / 2
    assert translate(source, max_new_tokens=30) == [{"translation_text": target}]


def test_without_attention_there_is_nothing_to_return(checkpoint: Path, tiny_model: Any) -> None:
    tokenizer = load_tokenizer(checkpoint)
    model = tiny_model(
        use_attention=False, vocab_size=len(tokenizer), encoder_vocab_size=len(tokenizer)
    )
    made = BahdanauTranslationPipeline(model, tokenizer, device="cpu")
    with pytest.raises(ValueError, match="no attention"):
        made("Call us.", return_alignments=True)


def test_what_a_pipeline_saves_is_a_checkpoint(translate: Any, tmp_path: Path) -> None:
    translate.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline_bahdanau.py").is_file()
    again = Translator.from_pretrained(tmp_path)
    assert isinstance(again.model, BahdanauForConditionalGeneration)
    assert again.translate(PAIRS[0][0])[0].text == PAIRS[0][1]
