"""Language codes: whoever asks whether a text is Chinese gets one answer, however it is written."""

import re

import pytest

from bahdanau_hf.hub.model_card import write_model_card
from bahdanau_hf.languages import CJK, HAN, base_language, has_spaces, is_chinese, language_name
from bahdanau_hf.metrics.analysis import source_length
from bahdanau_hf.metrics.translation import bleu_tokenizer

CHINESE = ("zh", "zh-Hans", "zh_CN", "ZH-tw", "cmn", "zho_Hans")


@pytest.mark.parametrize("code", CHINESE)
def test_chinese_however_it_is_written(code) -> None:
    assert base_language(code) == "zh"
    assert is_chinese(code)
    assert not has_spaces(code)
    assert bleu_tokenizer(code) == "zh"
    assert source_length("我们 走吧。", code) == 5


def test_base_language() -> None:
    assert [base_language(code) for code in ("eng", "de-AT", " EN_us ", "yue", "")] == [
        *("en", "de", "en", "yue", "")
    ]


def test_what_is_near() -> None:
    """Cantonese is Chinese to score, but another language than `zh`; Japanese is no Chinese."""
    assert is_chinese("yue")
    assert not is_chinese("ja")
    assert not is_chinese(None)
    assert [has_spaces(code) for code in ("en", "ja", "tha", "ko", "", None)] == [
        *(True, False, False, True, True, True)
    ]


def test_names() -> None:
    assert [language_name(code) for code in ("zh", "zh-Hans", "cmn", "EN", "nl", "")] == [
        *("Chinese", "Chinese (zh-Hans)", "Chinese (cmn)", "English", "nl", "")
    ]


@pytest.mark.parametrize("code", CHINESE)
def test_the_card_counts_characters_of_a_chinese_source(code, checkpoint_for_card) -> None:
    folder = checkpoint_for_card(code)
    card = write_model_card(folder).read_text(encoding="utf-8")
    assert "| characters | sentences | BLEU | chrF |" in card
    groups = re.findall(r"^\| (\d+–\d+) \| (\d+) \|", card, re.MULTILINE)
    assert groups == [("1–5", "1"), ("11–15", "1")]


@pytest.fixture
def checkpoint_for_card(tmp_path):
    """A folder with what the card reads of lengths: sources of 5 and of 12 characters."""

    def make(code: str):
        (tmp_path / "config.json").write_text('{"model_type": "bahdanau"}')
        (tmp_path / "tokenizer_config.json").write_text(
            f'{{"source_lang": "{code}", "target_lang": "en"}}'
        )
        rows = [
            ("source", "reference", "hypothesis", "sentence_bleu"),
            ("联系我们。", "Call us.", "Call us.", "100.00"),
            ("我哥哥在医院工作很久了。", "He works.", "He works.", "100.00"),
        ]
        lines = "".join("\t".join(row) + "\n" for row in rows)
        (tmp_path / "test_predictions.tsv").write_text(lines, encoding="utf-8")
        return tmp_path

    return make


def test_classes_of_characters() -> None:
    han, cjk = re.compile(f"[{HAN}]"), re.compile(f"[{CJK}]")
    assert [bool(han.match(c)) for c in "爱𠀀豈かーㄅ々A。"] == [True] * 3 + [False] * 6
    assert [bool(cjk.match(c)) for c in "爱𠀀豈かーㄅ々A。"] == [True] * 7 + [False] * 2
