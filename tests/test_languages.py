"""Language codes: whoever asks whether a text is Chinese gets one answer, however it is written."""

import json
import re
import unicodedata

import pytest

from bahdanau_hf.hub.model_card import write_model_card
from bahdanau_hf.languages import (
    CJK,
    HAN,
    base_language,
    has_spaces,
    is_chinese,
    language_name,
    language_of,
    letter_script,
    letters_of,
    probable_language,
)
from bahdanau_hf.metrics.analysis import score_groups, source_length
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
    assert [language_name(code) for code in ("zh", "zh-Hans", "cmn", "EN", "nl", "src", "")] == [
        *("Chinese", "Chinese (zh-Hans)", "Chinese (cmn)", "English", "Dutch", "src", "")
    ]


@pytest.mark.parametrize("code", CHINESE)
def test_the_card_counts_characters_of_a_chinese_source(code, checkpoint_for_card) -> None:
    folder = checkpoint_for_card(code)
    card = write_model_card(folder).read_text(encoding="utf-8")
    assert "| Length of the source, in characters | test sentences | BLEU | chrF |" in card
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
        texts = ["Call us.", "He works."]
        sources = ["联系我们。", "我哥哥在医院工作很久了。"]
        groups = score_groups(sources, texts, texts, source_lang=code, target_lang="en")
        results = json.dumps({"test": {"bleu": 100.0, **groups}})
        (tmp_path / "eval_results.json").write_text(results)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("meant", "texts"),
    [
        ("de", "deutch germann"),
        ("zh", "cn chineese"),
        ("ja", "jp japanesse"),
        ("fr", "frensh francais"),
        (None, "graphemes phones words kana zz xx ipa spelling dates"),
    ],
)
def test_languages_that_were_probably_meant(meant: str | None, texts: str) -> None:
    assert {text: probable_language(text) for text in texts.split()} == dict.fromkeys(
        texts.split(), meant
    )


def test_classes_of_characters() -> None:
    han, cjk = re.compile(f"[{HAN}]"), re.compile(f"[{CJK}]")
    assert [bool(han.match(c)) for c in "爱𠀀豈かーㄅ々A。"] == [True] * 3 + [False] * 6
    assert [bool(cjk.match(c)) for c in "爱𠀀豈かーㄅ々A。"] == [True] * 7 + [False] * 2


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", "en eng EN en_US en-GB en-UK eng_Latn en-001 English"),
        ("de", "de deu ger DE de-AT de_CH deu_Latn de-AT-1996 German Deutsch deutsch"),
        ("zh", "zh zho chi cmn zh-Hans zho_Hans zh_TW cmn_Hant Mandarin Chinese 中文 简体中文"),
        ("pt", "pt por pt-BR por_Latn Portuguese português Brazilian_Portuguese"),
        ("ja", "ja jpn jpn_Jpan Japanese 日本語"),
        ("ru", "ru rus rus_Cyrl Russian русский"),
        ("ar", "ar ara arb arb_Arab Arabic العربية"),
        ("hi", "hi hin hin_Deva Hindi हिन्दी"),
        ("th", "th tha Thai ไทย"),
        ("fa", "fa fas per pes Persian Farsi فارسی"),
        ("nb", "nb nob"),
        ("no", "no nor Norwegian norsk"),
        ("sw", "sw swh swa Swahili Kiswahili"),
        ("yue", "yue Cantonese 粵語"),
        ("eu", "eu eus baq Basque euskara"),
        ("ace", "ace Acehnese"),
        (None, "src tgt und mul zxx graphemes phones text id2 No. English? 7 de-xx"),
    ],
)
def test_codes_and_names_of_languages(language: str | None, texts: str) -> None:
    found = {text: language_of(text, everywhere=True) for text in texts.split()}
    assert found == dict.fromkeys(texts.split(), language)


@pytest.mark.parametrize(
    ("name", "speakers", "language"),
    [
        ("Chinese (Simplified)", (), "zh"),
        ("中文（简体）", (), "zh"),
        ("Spanish (Latin America)", (), "es"),
        ("Norwegian Bokmål", (), "nb"),
        ("Bahasa Indonesia", (), None),  # as CLDR has no such name
        ("Englisch", (), None),
        ("Englisch", ("de",), "en"),
        ("英语", ("en", "zh"), "en"),
        ("allemand", ("fra_Latn",), "de"),
        ("Englisch", ("graphemes",), None),
        ("English is easy", (), None),
    ],
)
def test_names_of_languages(name: str, speakers: tuple[str, ...], language: str | None) -> None:
    assert language_of(name, *speakers, everywhere=True) == language


@pytest.mark.parametrize(
    ("codes", "tokenizer"),
    [
        ("ja jpn jpn_Jpan th tha lo lao km khm my mya bur", "char"),
        ("zh zho chi cmn yue wuu lzh zh-Hant zho_Hans", "zh"),
        ("ko kor kor_Hang vi en_US de deu ru graphemes src", "13a"),
    ],
)
def test_scores_count_alike_for_every_name_of_a_language(codes: str, tokenizer: str) -> None:
    assert {code: bleu_tokenizer(code) for code in codes.split()} == dict.fromkeys(
        codes.split(), tokenizer
    )


@pytest.mark.parametrize(
    ("code", "letters"),
    [
        ("de", "LATIN"),
        ("ru", "CYRILLIC"),
        ("ell_Grek", "GREEK"),
        ("zh_TW", "CJK"),
        ("yue", "CJK"),
        ("ja", "CJK HIRAGANA KATAKANA"),
        ("ko", "HANGUL"),
        ("sr", "CYRILLIC"),
        ("sr_Latn", "LATIN"),
        ("pa", "GURMUKHI"),
        ("pa_PK", "ARABIC"),
        ("bn", "BENGALI"),
        ("or", "ORIYA"),
        ("am", "ETHIOPIC"),
        ("tlh", ""),
        ("src", ""),
        ("graphemes", ""),
    ],
)
def test_letters_of_a_language(code: str, letters: str) -> None:
    assert letters_of(code) == set(letters.split())


def test_every_script_that_a_language_is_written_in_has_letters_of_that_name() -> None:
    """Babel's English names of scripts begin as Unicode's names of letters, or a table says how."""
    common = "en ru el he ar hi bn pa gu or ta te kn ml si th lo bo my ka am km mn hy zh ja ko dv"
    known = {unicodedata.name(chr(i), "").split(" ")[0] for i in range(0x20000)}
    for code in common.split():
        assert letters_of(code), code
        assert letters_of(code) <= known, code
    assert [letter_script(char) for char in "aЖ漢かカ한 1。̈"] == [
        *("LATIN", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "", "", "", "")
    ]


def test_card_names_languages_in_english(checkpoint_for_card) -> None:
    card = write_model_card(checkpoint_for_card("fra_Latn")).read_text(encoding="utf-8")
    assert "translates French (fra_Latn) into English:" in card


def test_card_lists_only_languages_as_such(checkpoint_for_card) -> None:
    """The Hub knows no language called graphemes."""
    card = write_model_card(checkpoint_for_card("graphemes")).read_text(encoding="utf-8")
    assert "language:\n- en\n" in card
    assert "translates graphemes into English:" in card
