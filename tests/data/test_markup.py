"""What mark-up encloses comes out of it; what it declares, proposes or codes does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.data.readers import open_pairs
from bahdanau_hf.errors import InputError
from tests.helpers.pair_files import WRITERS, Pairs, Writer, sgm

MARKUP = [(suffix, write) for suffix, write in WRITERS if suffix in ("tmx", "xlf", "xliff", "xml")]


def read(spec: str | Path, source: str = "en", target: str = "zh", **options: object) -> Pairs:
    return list(open_pairs(str(spec), source, target, **options))  # type: ignore[arg-type]


# --- one file of pairs ---------------------------------------------------------------------------


TEXTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co"), exclude_characters="\ufeff"),
    min_size=1,
)


@pytest.mark.parametrize(("suffix", "write"), [*MARKUP, ("po", dict(WRITERS)["po"])])
@settings(max_examples=25)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, write: Writer, pairs: Pairs
) -> None:
    path = tmp_path_factory.mktemp("markup") / f"pairs.{suffix}"
    path.write_bytes(write(pairs))
    assert read(path) == pairs


TMX = '<tmx version="1.4"><header srclang="en"/><body>{}</body></tmx>'
XLIFF = '<xliff version="1.2"><file {}><body>{}</body></file></xliff>'


def tu(**texts: str) -> str:
    inner = "".join(
        f'<tuv xml:lang="{lang.replace("_", "-")}"><seg>{text}</seg></tuv>'
        for lang, text in texts.items()
    )
    return f"<tu>{inner}</tu>"


def unit(source: str, target: str | None) -> str:
    end = "" if target is None else f"<target>{target}</target>"
    return f"<trans-unit><source>{source}</source>{end}</trans-unit>"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # Codes are left out, what they enclose as text stays.
        ("a.tmx", TMX.format(tu(en='<bpt i="1">&lt;b></bpt>Hi<ept i="1">/b</ept> <hi>you</hi>',
                                zh='<ph x="1"><sub>no</sub></ph>你好')), [("Hi you", "你好")]),
        # A language that a unit lacks is empty, whichever unit comes first.
        ("a.tmx", TMX.format(tu(en="Hi") + tu(zh="嗨") + tu(zh="跑", en="Run")),
         [("Hi", ""), ("", "嗨"), ("Run", "跑")]),
        ("a.tmx", TMX.format(tu(en="Hi", zh="嗨", de="Hallo") + tu(de="Lauf", en="Run", zh="跑")),
         [("Hi", "嗨"), ("Run", "跑")]),
        ("a.tmx", TMX.format(tu(EN_US="Hi", zh_CN="嗨") + tu(en_us="Run", zh_cn="跑")),
         [("Hi", "嗨"), ("Run", "跑")]),
        # The file says which language is which, or half of it.
        ("a.xlf", XLIFF.format('source-language="zh" target-language="en"', unit("嗨", "Hi")),
         [("Hi", "嗨")]),
        ("a.xlf", XLIFF.format('source-language="zh"', unit("嗨", "Hi")), [("Hi", "嗨")]),
        ("a.xlf", XLIFF.format('target-language="zh-TW"', unit("Hi", "嗨")), [("Hi", "嗨")]),
        ("a.xlf", XLIFF.format("", unit("Hi", "嗨") + unit("Run", None)),
         [("Hi", "嗨"), ("Run", "")]),
        ("a.xlf", XLIFF.format("", unit('Hi <g id="1">you</g><x id="2"/><ph>{0}</ph>', "嗨")),
         [("Hi you", "嗨")]),
        ("a.po", 'msgid "Hi %s"\nmsgstr "嗨 %s"\n', [("Hi %s", "嗨 %s")]),
        ("a.po", 'msgctxt "x"\nmsgid "a\\n\\"b\\"\\\\n"\nmsgstr "甲"\nmsgid "b"\nmsgstr ""\n',
         [('a\n"b"\\n', "甲"), ("b", "")]),
        ("a.po", 'msgid "a\\fb\\vc"\nmsgstr "甲"\n', [("a\fb\vc", "甲")]),
        ("a.po", '#, fuzzy\nmsgid "Hi"\nmsgstr "跑"\n\n#, c-format\nmsgid "Run"\nmsgstr "跑"\n',
         [("Hi", ""), ("Run", "跑")]),
        ("a.po", 'msgid "file"\nmsgid_plural "files"\nmsgstr[0] "一"\nmsgstr[1] "多"\n',
         [("file", "一"), ("files", "多")]),
        ("a.po", 'msgid ""\nmsgstr "Language: en\\n"\n\nmsgid "嗨"\nmsgstr "Hi"\n', [("Hi", "嗨")]),
    ],
)  # fmt: skip
def test_forms(tmp_path: Path, name: str, content: str, expected: Pairs) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert read(path) == expected


BOMB = '<!DOCTYPE t [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tmx", BOMB + TMX.format(tu(en="&b;", zh="嗨")), r"a\.tmx:1: the entity 'a'"),
        ("a.xlf", '<!DOCTYPE t [\n<!ENTITY x SYSTEM "file:///etc/x">]>\n' + XLIFF.format("", ""),
         r"a\.xlf:2: the entity 'x' is not one of XML's own, and is not read"),
        ("a.tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n' + TMX.format(tu(en="a&nbsp;b", zh="嗨")),
         r"a\.tmx:2: the entity 'nbsp' is not"),
        ("a.tmx", TMX.format("\n<tu><tuv>"), r"a\.tmx:2: not well-formed XML: mismatched tag"),
        ("a.tmx", "", r"a\.tmx is empty"),
        ("a.tmx", TMX.format(""), r"a\.tmx holds no pair"),
        ("a.tmx", TMX.format(tu(fr="Salut", de="Hallo")),
         r"a\.tmx:1: no columns for en and zh; it has: 'fr', 'de'"),
        ("a.xml", "<cesAlign/>", r"a\.xml holds no pair"),
        ("a.tmx", "<a>" * 2000, r"a\.tmx:1: elements nested more than 1000 deep"),
        ("a.tmx", '<?xml version="1.0" encoding="big5"?>' + TMX.format(""),
         r"a\.tmx:1: .*multi-byte encodings are not supported"),
        ("a.xlf", XLIFF.format('source-language="fr"', unit("Salut", "嗨")),
         r"a\.xlf:1: no columns for en and zh; it has: 'fr', "),
        ("a.po", 'msgid ""\nmsgstr "Language: fr\\n"\n\nmsgid "Hi"\nmsgstr "Salut"\n',
         r"a\.po:4: no columns for en and zh; it has: '\?', 'fr'"),
        ("a.po", 'msgid "Hi"\nmsgstr "嗨"\nen\tzh\n',
         r"a\.po:3: no line of a PO file: 'en.*zh'"),
        ("a.sgm", "<srcset><seg>Hi</seg></srcset>",
         r"a\.sgm holds one side of pairs: give the other"),
    ],
)  # fmt: skip
def test_flaws(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "write"), MARKUP)
@pytest.mark.parametrize(("encoding", "given"), [("utf-16", None), ("gb18030", "gb18030")])
def test_encodings(
    tmp_path: Path, suffix: str, write: Writer, encoding: str, given: str | None
) -> None:
    """XML in UTF-16 says so itself; another encoding can be named."""
    path = tmp_path / f"a.{suffix}"
    text = write([("Hi", "嗨")]).decode()
    path.write_bytes(text.replace("UTF-8", "utf-16").replace("utf-8", "utf-16").encode(encoding))
    assert read(path, encoding=given) == [("Hi", "嗨")]


# --- two files of one side each ------------------------------------------------------------------


PAIRS = [("A < B & C.", "甲 < 乙 & 丙。"), ("Run!", "跑！"), ("Hi.", "嗨。")]
IWSLT_XML = (
    '<?xml version="1.0"?>\n<mteval><{kind} setid="s" srclang="en"><doc docid="1"><url>http</url>'
    "<title>T</title>\n{segments}</doc></{kind}></mteval>"
)


def iwslt_xml(side: int) -> str:
    segments = "".join(f'<seg id="{i}"> {pair[side]} </seg>\n' for i, pair in enumerate(PAIRS[1:]))
    return IWSLT_XML.format(kind=("srcset", "refset")[side], segments=segments)


def iwslt_tags(side: int) -> str:
    lines = "".join(f"{pair[side]}\n" for pair in PAIRS)
    title = ("About", "关于")[side]
    return f"<url>http://x</url>\n<keywords>k</keywords>\n<title>{title}</title>\n{lines}</doc>\n"


@pytest.mark.parametrize(
    ("names", "contents", "expected"),
    [
        ("dev-src.en.sgm dev-ref.zh.sgm", (sgm(0, "")(PAIRS), sgm(1, "")(PAIRS)), PAIRS),
        ("a.en.xml a.zh.xml", (iwslt_xml(0), iwslt_xml(1)),
         [(" Run! ", " 跑！ "), (" Hi. ", " 嗨。 ")]),
        ("train.tags.en-zh.en train.tags.en-zh.zh", (iwslt_tags(0), iwslt_tags(1)), PAIRS),
        ("src.sgml ref.txt", (sgm(0, "")(PAIRS), "".join(f"{b}\n" for _, b in PAIRS)), PAIRS),
        # A sentence may begin with a tag of another kind.
        ("a.en a.zh", ("<b>Hi</b>\n", "<b>嗨</b>\n"), [("<b>Hi</b>", "<b>嗨</b>")]),
        ("a.en a.zh", ("Hi\n<title>x</title>\n", "嗨\n题\n"),
         [("Hi", "嗨"), ("<title>x</title>", "题")]),
    ],
)  # fmt: skip
def test_sides(
    tmp_path: Path, names: str, contents: tuple[str | bytes, str | bytes], expected: Pairs
) -> None:
    paths = [tmp_path / name for name in names.split()]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for order in (paths, paths[::-1]):
        assert read(",".join(map(str, order))) == expected


def test_a_document_of_many_open_paragraphs(tmp_path: Path) -> None:
    many = [(f"Line {i}.", f"第{i}行。") for i in range(1500)]
    for side, name in enumerate(("a.en.sgm", "a.zh.sgm")):
        (tmp_path / name).write_bytes(sgm(side, "")(many))
    assert read(f"{tmp_path}/a.en.sgm,{tmp_path}/a.zh.sgm") == many


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ("<doc docid=d><seg id=1>a</seg></doc>", "<doc docid=d><seg id=2>甲</seg></doc>",
         r"segment 1 is d 1 in .*a\.en\.sgm and d 2 in .*a\.zh\.sgm: aligned files need the same"),
        ("<seg>a</seg><seg>b</seg>", "<seg>甲</seg>", "has 2 lines and .* has 1"),
        ("<seg>a</seg><![foo[x]]>", "<seg>甲</seg>", r"a\.en\.sgm:1: not readable as SGM"),
    ],
)  # fmt: skip
def test_flaws_of_sides(tmp_path: Path, left: str, right: str, message: str) -> None:
    (tmp_path / "a.en.sgm").write_text(left)
    (tmp_path / "a.zh.sgm").write_text(right, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(f"{tmp_path}/a.en.sgm,{tmp_path}/a.zh.sgm")
