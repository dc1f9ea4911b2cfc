"""Which side is which: by flags, names, script, Tatoeba's order; and it is said how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.data.columns import Sides, Told
from bahdanau_hf.data.readers import open_pairs
from bahdanau_hf.errors import InputError

NOTHING_TELLS = (
    "in this order, as nothing tells: --source_column 2 --target_column 1 turns them round"
)
# Sentences of one meaning each. The second of German, French and Spanish have letters that English
# has not.
TEXTS = {
    "en": ["I see.", "I run 2 times.", "He is tired.", "Good night!", "Where is the key?"],
    "de": ["Ich sehe.", "Ich laufe 2 Mal.", "Er ist müde.", "Schönen Abend!", "Für wen?"],
    "fr": ["Je vois.", "Je cours 2 fois.", "Il est fatigué.", "À demain !", "Où est la clé ?"],
    "nl": ["Ik zie.", "Ik loop 2 keer.", "Hij is moe.", "Goede nacht!", "Waar is de sleutel?"],
    "ja": ["わかった。", "2回走る。", "彼は疲れた。", "おやすみ！", "鍵はどこ？"],
    "zh": ["我看见了。", "我跑两次。", "他累了。", "晚安！", "钥匙在哪里？"],
    "ko": ["알겠어.", "나는 2번 뛴다.", "그는 피곤하다.", "잘 자!", "열쇠가 어디 있니?"],
    "ru": ["Я вижу.", "Я бегу 2 раза.", "Он устал.", "Спокойной ночи!", "Где ключ?"],
    "el": ["Βλέπω.", "Τρέχω 2 φορές.", "Είναι κουρασμένος.", "Καληνύχτα!", "Πού είναι;"],
    "ar": ["أرى.", "أركض مرتين.", "هو متعب.", "تصبح على خير!", "أين المفتاح؟"],
    "he": ["אני רואה.", "אני רץ פעמיים.", "הוא עייף.", "לילה טוב!", "איפה המפתח?"],
    "hi": ["मैं देखता हूँ।", "मैं दो बार दौड़ता हूँ।", "वह थका है।", "शुभ रात्रि!", "चाबी कहाँ है?"],
    "th": ["ฉันเห็น", "ฉันวิ่งสองครั้ง", "เขาเหนื่อย", "ราตรีสวัสดิ์", "กุญแจอยู่ที่ไหน"],
    "bn": ["আমি দেখি।", "আমি দুবার দৌড়াই।", "সে ক্লান্ত।", "শুভ রাত্রি!", "চাবি কোথায়?"],
}
TEXTS |= {
    "sr-Latn": TEXTS["nl"],
    "sr": TEXTS["ru"],
    "zh-Hant": TEXTS["zh"],
    "jpn_Jpan": TEXTS["ja"],
}


def table_of(first: str, second: str) -> list[list[str]]:
    return [list(row) for row in zip(TEXTS[first], TEXTS[second], strict=True)]


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("en zh", "en zh"),
        ("zh en", "en zh"),
        ("id English Chinese", "English Chinese"),
        ("english non_english", "english non_english"),
        ("target source", "source target"),
        ("SRC TGT", "SRC TGT"),
        ("eng cmn", "eng cmn"),
        ("en zh-CN", "en zh-CN"),
        ("en zh zh-TW", "en zh"),  # the exact one
        ("en zh-CN zh-TW", None),  # which?
        ("en en zh", None),
        ("en de", None),
        ("text label", None),
        ("", None),
        ("eng_Latn zho_Hans", "eng_Latn zho_Hans"),
        ("sentence_eng_Latn sentence_zho_Hans id", "sentence_eng_Latn sentence_zho_Hans"),
        ("text_en text_zh", "text_en text_zh"),
        ("EnglishText ChineseText", "EnglishText ChineseText"),
        ("sourceLang targetlang sourceString targetString", "sourceString targetString"),
        ("src_text trg_text", "src_text trg_text"),
        ("original reference", "original reference"),
        ("en translation", "en translation"),
        ("text translation", None),
        ("source translation", "source translation"),
        ("source target translation", "source target"),
    ],
)
def test_find_columns(names: str, expected: str | None) -> None:
    wanted = None if expected is None else tuple(expected.split())
    assert Sides("en", "zh").find(names.split()) == wanted
    if wanted is not None and not re.search(
        "(?i)so?u?rc|original|translation", wanted[0] + wanted[1]
    ):
        assert Sides("zh", "en").find(names.split()) == wanted[::-1]


@pytest.mark.parametrize(
    ("names", "languages", "expected"),
    [
        (["en", "zh", "non_english"], ("en", "zh"), ("en", "zh")),
        (["en", "zh", "non_english"], ("zh", "en"), ("zh", "en")),
        (["English", "NonEnglish"], ("en", "zh"), ("English", "NonEnglish")),
        (["en US", "zh CN"], ("en", "zh"), ("en US", "zh CN")),
        (["English", "German"], ("de", "en"), ("German", "English")),
        (["en_US", "de_DE"], ("de", "en"), ("de_DE", "en_US")),
        (["eng_Latn", "deu_Latn"], ("de", "en"), ("deu_Latn", "eng_Latn")),
        (["German", "Dutch"], ("nl", "de"), ("Dutch", "German")),
        (["Englisch", "Deutsch"], ("en", "de"), ("Englisch", "Deutsch")),
        (["中文", "英语"], ("en", "zh"), ("英语", "中文")),
        (
            ["Chinese (Simplified)", "English"],
            ("eng", "zh-Hans"),
            ("English", "Chinese (Simplified)"),
        ),
        (["zh-Hans", "zh-Hant"], ("zh-Hant", "zh-Hans"), ("zh-Hant", "zh-Hans")),
        (["src", "tgt"], ("graphemes", "phones"), ("src", "tgt")),
        (["graphemes", "phones"], ("phones", "graphemes"), ("phones", "graphemes")),
    ],
)
def test_columns_by_name(
    names: list[str], languages: tuple[str, str], expected: tuple[str, str]
) -> None:
    assert Sides(*languages).find(names) == expected


HEADERS = [
    ("English", "German", "en", "de"),
    ("en_US", "de_DE", "en", "de"),
    ("eng_Latn", "deu_Latn", "en", "de"),
    ("German", "Dutch", "de", "nl"),
    ("Deutsch", "English", "de", "en"),
    ("Japanese", "English", "ja", "en"),
    ("русский", "English", "ru", "en"),
    ("source", "target", "de", "en"),
    ("src", "tgt", "ja", "en"),
]


@pytest.mark.parametrize(("first", "second", "source", "target"), HEADERS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_header_never_becomes_a_pair(
    first: str, second: str, source: str, target: str, turned: bool
) -> None:
    names, rows = [first, second], table_of(source, target)
    columns = Sides(source, target).of_table("a.tsv:1", [names, *rows])
    assert columns == (0, 1, True)
    columns = Sides(source, target).of_table("a.tsv:1", [names[::-1], *(r[::-1] for r in rows)])
    assert columns == (1, 0, True)
    if first not in ("source", "src"):  # for the other direction the same columns change places
        assert Sides(target, source).of_table("a.tsv:1", [names, *rows]) == (1, 0, True)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ("English German", "Give --target_lang de, or say which by --source_column and --target"),
        ("Chinese fra_Latn", "Give --source_lang fr, or say which"),
        ("Deutsch Nederlands", "Give --source_lang de --target_lang nl, or say which"),
        ("id en text_fr", "Give --target_lang fr, or"),
        ("source id", ". Say which by --source_column and --target_column, a name or a number"),
        ("translation id", ". Say which"),
        ("en id", ". Say which"),
    ],
)
def test_a_header_of_other_columns_is_refused_with_what_to_do(names: str, advice: str) -> None:
    with pytest.raises(
        InputError, match=r"^a\.tsv:1: no columns for en and zh; it has: "
    ) as caught:
        Sides("en", "zh").of_table("a.tsv:1", [names.split(), ["x", "y"], ["z", "u"]])
    assert advice in str(caught.value)
    assert "ame them" not in str(caught.value)  # one cannot, in someone else's data


@pytest.mark.parametrize(
    "row",
    [
        ["Chinese", "中文"],  # a dictionary's entry: both name one language
        ["Hi.", "嗨。"],
        ["No.", "不。"],
        ["English?", "中文！"],
        ["German shepherd", "牧羊犬"],
    ],
)
def test_a_sentence_is_no_header(row: list[str]) -> None:
    assert Sides("en", "zh").of_table("a.tsv:1", [row, ["a", "乙"]]) == (0, 1, False)
    assert Sides("zh", "en").of_table("a.tsv:1", [row, ["a", "乙"]]) == (1, 0, False)


# --- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("1", "2", (0, 1, False)),
        ("2", "1", (1, 0, False)),
        ("3", "1", (2, 0, False)),
        ("3", None, None),
    ],
)
def test_columns_by_number(source: str, target: str | None, expected: object) -> None:
    rows = [["I see.", "Ich sehe.", "x"], ["Hello.", "Hallo.", "y"]]
    flags = {"source_column": source, "target_column": target}
    if expected is None:
        with pytest.raises(InputError, match="no columns for en and de"):
            Sides("en", "de", **flags).of_table("a.tsv:1", rows)
    else:
        assert Sides("en", "de", **flags).of_table("a.tsv:1", rows) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"source_column": "mt", "target_column": "pe"}, (1, 2, True)),
        ({"source_column": "MT ", "target_column": "3"}, (1, 2, True)),
        ({"source_column": "pe"}, "--source_column 'pe': no such two columns. a.tsv:1: no columns"),
        ({"target_column": "src"}, "--target_column 'src': no such two columns"),
        ({"source_column": "9"}, "--source_column '9': no such two columns"),
        (
            {"source_column": "mt", "target_column": "2"},
            "--source_column 'mt' --target_column '2': no such two columns.*'German', 'mt', 'pe'",
        ),
    ],
)
def test_columns_by_name_of_the_flags(flags: dict[str, str], expected: object) -> None:
    rows = [["German", "mt", "pe", "7"], ["Hallo.", "Hello.", "Hi.", "x"]]
    if isinstance(expected, tuple):
        assert Sides("en", "de", **flags).of_table("a.tsv:1", rows) == expected
        return
    with pytest.raises(InputError, match=str(expected)):
        Sides("en", "de", **flags).of_table("a.tsv:1", rows)


def test_a_column_called_by_a_number_comes_before_its_place() -> None:
    assert Sides("en", "de", source_column="2", target_column="1").of_names(
        "a", ["x", "1", "2"]
    ) == (*("2", "1"),)


def test_a_number_is_a_place_in_a_table_without_names() -> None:
    rows = [["2", "1"], ["3", "2"]]
    flags = {"source_column": "1", "target_column": "2"}
    assert Sides("en", "de", **flags).of_table("a.tsv:1", rows) == (0, 1, False)
    with pytest.raises(InputError, match=r"--source_column 'x': no such two .* it has: '2', '1'\."):
        Sides("en", "de", source_column="x").of_table("a.tsv:1", rows)


def test_a_name_in_other_letters_is_that_of_a_header() -> None:
    rows = [["Mt", "post edit"], ["Hallo.", "Hello."]]
    flags = {"source_column": "mt", "target_column": "POST_EDIT"}
    assert Sides("en", "de", **flags).of_table("a.tsv:1", rows) == (0, 1, True)


def test_with_two_columns_one_flag_is_enough() -> None:
    rows = [["I see.", "Ich sehe."]]
    assert Sides("de", "en", target_column="1").of_table("a.tsv:1", rows) == (1, 0, False)
    # With more columns it is where names tell the other.
    rows = [["en", "de", "better"], ["Hello.", "Hallo.", "Hi."]]
    assert Sides("en", "de", source_column="better").of_table("a.tsv:1", rows) == (2, 1, True)
    # A header of languages is one, whatever the flags say of the columns.
    rows = [["German", "Dutch"], ["Hallo.", "Hoi."]]
    assert Sides("fr", "en", source_column="2").of_table("a.tsv:1", rows) == (1, 0, True)


# --- script, order, nothing ----------------------------------------------------------------------

TOLD_BY_SCRIPT = [
    *(("en", lang) for lang in ("ja", "zh", "ko", "ru", "el", "ar", "he", "hi", "th", "bn", "sr")),
    *[("ja", "zh"), ("ko", "ja"), ("ko", "zh"), ("ru", "de"), ("sr", "sr-Latn"), ("fr", "zh-Hant")],
    *[("ar", "he"), ("jpn_Jpan", "zh"), ("nl", "jpn_Jpan")],
]


@pytest.mark.parametrize(
    ("source", "target"), [*TOLD_BY_SCRIPT, *(p[::-1] for p in TOLD_BY_SCRIPT)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_script_tells_in_every_order(source: str, target: str, turned: bool) -> None:
    told: list[Told] = []
    rows = table_of(target, source) if turned else table_of(source, target)
    columns = Sides(source, target, told=told).of_table("a.tsv:1", rows)
    assert columns == ((1, 0, False) if turned else (0, 1, False))
    assert Sides(source, target).target_is_first(["a.txt", "b.txt"], rows) == turned
    places = (2, 1) if turned else (1, 2)
    line = "a.tsv: source: column {}, target: column {}, by their scripts".format(*places)
    assert told == [Told(turned, line)]


@pytest.mark.parametrize("lang", ["de", "fr"])
@pytest.mark.parametrize("turned", [False, True])
def test_accents_tell_another_language_from_english(lang: str, turned: bool) -> None:
    rows = table_of(lang, "en") if turned else table_of("en", lang)
    for source, target, swapped in (("en", lang, turned), (lang, "en", not turned)):
        told: list[Told] = []
        columns = Sides(source, target, told=told).of_table("a.tsv:1", rows)
        assert columns == ((1, 0, False) if swapped else (0, 1, False))
        assert "as English has few accents" in told[0].line


@pytest.mark.parametrize(
    ("source", "target", "rows"),
    [
        ("nl", "en", table_of("en", "nl")),
        ("en", "nl", table_of("en", "nl")),
        ("de", "en", table_of("en", "de")[:3]),  # one accent is none
        ("de", "en", [["a", "b"]] * 97 + [["a", "é"]] * 3),  # too few rows say it
        ("de", "en", [["é", "b"]] * 9 + [["a", "ü"]] * 5),  # nor are they of one mind
        ("de", "fr", table_of("fr", "de")),
        ("zh-Hans", "zh-Hant", table_of("zh", "zh")),
        ("graphemes", "phones", [["abc", "ˈeɪ"]] * 9),
        ("en", "graphemes", [["абв", "abc"]] * 9),
        ("ru", "en", [["1 2 3", "1, 2, 3"]] * 9),
        ("en", "zh", [["甲", "b"], ["a", "乙"], ["甲", "b"]]),  # two to one is not over twice
    ],
)
def test_where_nothing_tells_the_order_is_taken_and_said(
    source: str, target: str, rows: list[list[str]]
) -> None:
    told: list[Told] = []
    assert Sides(source, target, told=told).of_table("x/a.tsv:1", rows) == (0, 1, False)
    line = f"x/a.tsv: source: column 1, target: column 2, {NOTHING_TELLS}"
    assert told == [Told(False, line)]
    # What an earlier file of the run has told is the better guess.
    told = [Told(True, "the file before")]
    assert Sides(source, target, told=told).of_table("x/a.tsv:1", rows) == (1, 0, False)
    assert told[1].line.endswith(
        "source: column 2, target: column 1, in the order of the file before"
    )


def test_a_chinese_sentence_may_hold_more_latin_letters_than_chinese_ones() -> None:
    rows = [["I use Python.", "我用 Python。"], ["OK", "OK"], ["Send a PDF.", "发 PDF。"]]
    assert Sides("en", "zh").of_table("a.tsv:1", rows) == (0, 1, False)
    assert Sides("zh", "en").of_table("a.tsv:1", rows) == (1, 0, False)


@pytest.mark.parametrize(
    "credit", ["CC-BY 2.0 (France) Attribution: tatoeba.org", "Attribution: x"]
)
def test_english_stands_first_in_the_files_of_tatoeba(credit: str) -> None:
    rows = [[*row, credit] for row in table_of("en", "nl")]
    told: list[Told] = []
    assert Sides("nl", "en", told=told).of_table("a.txt:1", rows) == (1, 0, False)
    assert Sides("en", "nl").of_table("a.txt:1", rows) == (0, 1, False)
    assert told[0].line.endswith("as English stands first in Tatoeba's files")
    # The script is the stronger sign.
    rows = [[*row, credit] for row in table_of("ru", "en")]
    assert Sides("ru", "en").of_table("a.txt:1", rows) == (0, 1, False)


def test_a_table_of_three_columns_without_names_is_refused() -> None:
    with pytest.raises(InputError, match="no columns for en and de; it has: 'a', 'b', 'c'"):
        Sides("en", "de").of_table("a.tsv:1", [["a", "b", "c"]])


# --- aligned files -------------------------------------------------------------------------------

FILE_NAMES = [
    ("train.de.txt", "train.en.txt"),
    ("train.de", "train.en"),
    ("x.de-en.de", "x.de-en.en"),
    ("europarl-v7.de-en.de", "europarl-v7.de-en.en"),
    ("src.train", "tgt.train"),
    ("train.src", "train.trg"),
    ("train-source.txt", "train-target.txt"),
    ("dev_deu_Latn.txt", "dev_eng_Latn.txt"),
    ("dev.deu_Latn", "dev.eng_Latn"),
    ("german.txt", "english.txt"),
    ("Deutsch.txt", "English.txt"),
    ("newstest-deen-src.de.sgm", "newstest-deen-ref.en.sgm"),
    ("tgt.de", "src.en"),  # a language says more than a role
]


@pytest.mark.parametrize(("source", "target"), FILE_NAMES)
def test_names_of_files_tell(source: str, target: str) -> None:
    """Whatever the text looks like; for the other direction the roles stay, the languages turn."""
    rows = [["x", "y"]] * 9
    assert not Sides("de", "en").target_is_first([source, target], rows)
    assert Sides("de", "en").target_is_first([target, source], rows)
    by_role = not ("de" in source or "Deutsch" in source or "german" in source)
    assert Sides("en", "de").target_is_first([source, target], rows) != by_role
    told: list[Told] = []
    Sides("de", "en", told=told).target_is_first([target, source], rows)
    assert told == [Told(True, f"source: {source}, target: {target}, by the names of the files")]


def test_file_names_that_differ_in_script_alone() -> None:
    names = ["dev.zh-Hans", "dev.zh-Hant"]
    assert not Sides("zh-Hans", "zh-Hant").target_is_first(names, [["x", "y"]])
    assert Sides("zh-Hant", "zh-Hans").target_is_first(names, [["x", "y"]])


@pytest.mark.parametrize("names", [["train.fr", "train.nl"], ["train.en", "train.nl"]])
def test_names_of_other_languages_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"train\.\w\w and train\.nl: no columns for en and de"):
        Sides("en", "de").target_is_first(names, [["x", "y"]])
    # Unless the flags say which is which.
    assert Sides("en", "de", source_column="2").target_is_first(names, [["x", "y"]])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("1", "2", False),
        ("2", "1", True),
        ("2", None, True),
        (None, "2", False),
        ("text", "label", False),  # names of columns of a table that the run has beside them
        ("1", "1", None),
        ("3", None, None),
    ],
)
def test_flags_on_aligned_files(
    source: str | None, target: str | None, expected: bool | None
) -> None:
    flags = {"source_column": source, "target_column": target}
    if expected is None:
        with pytest.raises(InputError, match="can be 1 and 2, the number of the file"):
            Sides("en", "de", **flags).target_is_first(["a.x", "b.x"], [["a", "b"]])
    else:
        assert Sides("en", "de", **flags).target_is_first(["a.x", "b.x"], [["a", "b"]]) == expected


CELLS = st.one_of(
    st.sampled_from(["en", "German", "source", "translation", "1", "2", "", "é", "我", "No."]),
    st.text(max_size=8),
)


@given(
    head=st.lists(st.lists(CELLS, max_size=4), min_size=1, max_size=5),
    flags=st.tuples(st.none() | CELLS, st.none() | CELLS),
    languages=st.sampled_from([("en", "zh"), ("de", "en"), ("zh-Hant", "src"), ("ja", "x-y")]),
)
def test_whatever_the_first_rows_hold_there_is_an_answer_or_a_line(
    head: list[list[str]], flags: tuple[str | None, str | None], languages: tuple[str, str]
) -> None:
    told: list[Told] = []
    options = {"source_column": flags[0], "target_column": flags[1]}
    try:
        source, target, _ = Sides(*languages, told=told, **options).of_table("a.tsv:1", head)
    except InputError:
        return
    assert source != target
    assert {source, target} <= set(range(len(head[0])))
    assert "source: column " in told[0].line


# --- through the readers -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["de", "ja", "ru", "fr"])
def test_a_table_with_english_first_is_not_reversed(tmp_path: Path, source: str) -> None:
    path = tmp_path / "a.tsv"
    pairs = table_of("en", source)
    path.write_text("".join("\t".join(row) + "\n" for row in pairs), encoding="utf-8")
    told: list[Told] = []
    assert list(open_pairs(str(path), source, "en", told=told)) == [(b, a) for a, b in pairs]
    assert len(told) == 1
    assert list(open_pairs(str(path), "en", source)) == [(a, b) for a, b in pairs]
    turned = {"source_column": "1", "target_column": "2"}
    assert list(open_pairs(str(path), source, "en", **turned)) == [(a, b) for a, b in pairs]


@pytest.mark.parametrize("names", ["train.en.txt,train.de.txt", "src.train,tgt.train"])
def test_aligned_files_in_either_order(tmp_path: Path, names: str) -> None:
    pairs = [("yes", "ja"), ("no", "nein")]
    paths = [tmp_path / name for name in names.split(",")]
    for side, path in enumerate(paths):
        path.write_text("".join(pair[side] + "\n" for pair in pairs), encoding="utf-8")
    for order in (paths, paths[::-1]):
        assert list(open_pairs(",".join(map(str, order)), "en", "de")) == pairs


def test_folders_tell_where_the_names_are_the_same(tmp_path: Path) -> None:
    paths = []
    for lang, text in (("de", "ja"), ("en", "yes")):
        (tmp_path / lang).mkdir()
        paths.append(tmp_path / lang / "train.txt")
        paths[-1].write_text(text + "\n")
    assert list(open_pairs(",".join(map(str, paths)), "en", "de")) == [("yes", "ja")]
    assert list(open_pairs(",".join(map(str, paths)), "de", "en")) == [("ja", "yes")]


def test_a_later_file_that_tells_nothing_keeps_the_order(tmp_path: Path) -> None:
    contents = {
        "part1.tsv": "是。\tYes.\n",
        "part2.tsv": "1\t2\n",
        "part3.tsv": "en\tzh\nNo.\t不。\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    told: list[Told] = []
    pairs = list(open_pairs(str(tmp_path / "part*.tsv"), "en", "zh", told=told))
    assert pairs == [("Yes.", "是。"), ("2", "1"), ("No.", "不。")]
    assert [sides.target_is_first for sides in told] == [True, True, False]
