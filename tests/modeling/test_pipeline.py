"""`pipeline("translation")`, from the code in a checkpoint, says what `Translator` says."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import T5Config, T5ForConditionalGeneration, pipeline
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
        # The pipeline gives what `generate` does: of greedy search the sum.
        stated = translation.log_prob if num_beams == 1 else translation.score
        assert answer["score"] == pytest.approx(stated, abs=1e-4)
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


# --- as version 4 had it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"src_lang": "en", "tgt_lang": "zh"}, None),
        ({"src_lang": "en_US", "tgt_lang": "zh-Hans"}, None),
        ({"src_lang": "EN"}, None),
        ({"tgt_lang": "de"}, "tgt_lang 'de': this model's is 'zh'"),
        ({"src_lang": "zh", "tgt_lang": "en"}, "src_lang 'zh': this model's is 'en'"),
        ({"truncation": True, "clean_up_tokenization_spaces": True}, None),
        ({"truncation": "do_not_truncate", "return_dict_in_generate": True}, None),
    ],
)
def test_arguments_of_version_4(translate: Any, options: dict, message: str | None) -> None:
    source, target = PAIRS[0]
    if message is None:
        assert translate(source, **options) == [{"translation_text": target}]
        return
    with pytest.raises(ValueError, match=message):
        translate(source, **options)


def test_tokens_instead_of_text_or_beside_it(translate: Any) -> None:
    source, target = PAIRS[0]
    (answer,) = translate(source, return_tensors=True)
    assert answer.keys() == {"translation_token_ids"}
    ids = answer["translation_token_ids"]
    assert translate.tokenizer.decode(ids, skip_special_tokens=True) == target
    both = translate([source, "42"], return_tensors=True, return_text=True, batch_size=2)
    assert [a["translation_text"] for a in both] == [target, "42"]
    assert both[0]["translation_token_ids"].tolist() == ids.tolist()
    assert translate(source, return_text=False, return_scores=True)[0].keys() == {"score"}
    assert translate(source) == [{"translation_text": target}]  # the next call is a new one


def test_whole_sentences(translate: Any) -> None:
    long = SENTENCES[1]
    read = {x: translate.preprocess(long, truncation=x)["sentence"] for x in (True, False)}
    assert read[True].truncated
    assert len(read[True].ids) == 24 < len(read[False].ids)
    assert not read[False].truncated
    assert translate(long, truncation=False)


@pytest.mark.parametrize("text", ["42", "-", "😀 ?", "a.b@c.de", "https://a.org/b", "Привет"])
def test_what_holds_no_words_is_copied(translate: Any, text: str) -> None:
    assert translate(text) == [{"translation_text": text, "copied": True}]
    (answer,) = translate(text, return_alignments=True, return_scores=True)
    assert answer == {"translation_text": text, "copied": True, "score": 0.0, "alignment": None}


@pytest.mark.parametrize("task", ["translation", "translation_en_to_zh", "translation_en_to_zh_TW"])
def test_tasks_with_the_package_imported(checkpoint: Path, task: str) -> None:
    """No code in the folder is run, and none has to be trusted."""
    source, target = PAIRS[0]
    model = BahdanauForConditionalGeneration.from_pretrained(checkpoint)
    for found in (
        pipeline(task, model=str(checkpoint), device="cpu"),
        pipeline(task, model=model, tokenizer=load_tokenizer(checkpoint), device="cpu"),
    ):
        assert type(found) is BahdanauTranslationPipeline
        assert found(source) == [{"translation_text": target}]


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("translation_en_to_de", ValueError, "tgt_lang 'de'"),
        ("translation_de_to_zh", ValueError, "src_lang 'de'"),
        ("text2text-generation", KeyError, "text2text-generation"),
        ("summarization", KeyError, "summarization"),
    ],
)
def test_other_tasks_are_refused(checkpoint: Path, task: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        pipeline(task, model=str(checkpoint), device="cpu")


def test_other_models_are_refused(checkpoint: Path) -> None:
    config = T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=1)
    model = T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="for bahdanau models, not for t5"):
        pipeline("translation", model=model, tokenizer=load_tokenizer(checkpoint), device="cpu")


def test_a_registered_pipeline_is_saved_for_strangers(checkpoint: Path, tmp_path: Path) -> None:
    pipeline("translation", model=str(checkpoint), device="cpu").save_pretrained(tmp_path)
    written, before = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]
        for folder in (tmp_path, checkpoint)
    )
    assert written == before
    assert written["translation"]["impl"] == "pipeline_bahdanau.BahdanauTranslationPipeline"
