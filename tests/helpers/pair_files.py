"""Files of pairs in every kind that is read, and what packs them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from html import escape

import pyarrow as pa
import pyarrow.parquet as pq

Pairs = list[tuple[str, str]]
Writer = Callable[[Pairs], bytes]


def tsv(pairs: Pairs) -> bytes:
    return "".join(f"{a}\t{b}\n" for a, b in [("en", "zh"), *pairs]).encode()


def delimited(delimiter: str, end: str = "\r\n", quoting: int = csv.QUOTE_MINIMAL) -> Writer:
    """A writer of CSV."""

    def write(pairs: Pairs) -> bytes:
        text = io.StringIO()
        table = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
        table.writerows([("en", "zh"), *pairs])
        return text.getvalue().encode()

    return write


def records(pairs: Pairs) -> list[dict[str, str]]:
    return [{"en": a, "zh": b} for a, b in pairs]


def json_list(pairs: Pairs) -> bytes:
    return json.dumps(records(pairs), indent=1).encode()


def json_data(pairs: Pairs) -> bytes:
    return json.dumps({"version": 1, "data": records(pairs)}).encode()


def json_lines(pairs: Pairs) -> bytes:
    return "".join(
        json.dumps({"translation": r}, ensure_ascii=False) + "\n" for r in records(pairs)
    ).encode()


def parquet(pairs: Pairs) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"translation": records(pairs), "id": [7] * len(pairs)}), sink)
    return sink.getvalue()


def tmx(pairs: Pairs) -> bytes:
    units = "".join(
        f'<tu><prop>x</prop><tuv xml:lang="EN"><seg>{escape(a)}</seg></tuv>\n'
        f'<tuv xml:lang="zh-CN"><seg>{escape(b)}</seg></tuv></tu>\n'
        for a, b in pairs
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'
        f'<tmx version="1.4"><header srclang="en"/><body>\n{units}</body></tmx>'
    ).encode()


def xliff(pairs: Pairs) -> bytes:
    units = "".join(
        f'<trans-unit id="{i}"><source>{escape(a)}</source><target>{escape(b)}</target>'
        "<alt-trans><source>no</source><target>否</target></alt-trans></trans-unit>\n"
        for i, (a, b) in enumerate(pairs)
    )
    return (
        '<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">\n'
        '<file original="f" source-language="en" target-language="zh-CN" datatype="plaintext">'
        f"<body>\n{units}</body></file></xliff>"
    ).encode()


def xliff_2(pairs: Pairs) -> bytes:
    units = "".join(
        f'<unit id="{i}"><notes><note>n</note></notes><segment><source>{escape(a)}</source>'
        f"<target>{escape(b)}</target></segment><ignorable><source> </source></ignorable></unit>\n"
        for i, (a, b) in enumerate(pairs)
    )
    return (
        '<xliff version="2.0" xmlns="urn:oasis:names:tc:xliff:document:2.0" srcLang="en-GB" '
        f'trgLang="zh"><file id="f">\n{units}</file></xliff>'
    ).encode()


def wmt_xml(pairs: Pairs) -> bytes:
    sources, references = (
        "".join(f'<seg id="{i}">{escape(pair[side])}</seg>\n' for i, pair in enumerate(pairs))
        for side in (0, 1)
    )
    return (
        '<?xml version=\'1.0\' encoding=\'utf-8\'?>\n<dataset id="test"><doc id="d" origlang="en">'
        f'<src lang="en"><p>\n{sources}</p></src>\n<ref lang="zh" translator="A"><p>{references}'
        '</p></ref><ref lang="zh" translator="B"><p><seg id="0">又</seg></p></ref>'
        '<hyp lang="zh" system="S"><p><seg id="0">错</seg></p></hyp></doc></dataset>'
    ).encode()


def po(pairs: Pairs) -> bytes:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("\t", r"\t") + '"'

    entries = "".join(
        f'\n#: file.c:{i}\n#| msgid "before"\nmsgid {quoted(a[:3])}\n{quoted(a[3:])}\n'
        f'msgstr ""\n{quoted(b)}\n#~ msgid "old"\n#~ msgstr "旧"\n'
        for i, (a, b) in enumerate(pairs)
    )
    header = 'msgid ""\nmsgstr ""\n"Project-Id-Version: x\\n"\n"Language: zh_CN\\n"\n'
    return (header + entries).encode()


def sgm(side: int, language: str) -> Writer:
    """A writer of one side of a test set, in the loose mark-up that these have."""

    def write(pairs: Pairs) -> bytes:
        kind = ("srcset", "refset")[side]
        segments = "".join(
            f"<p>\n<seg id={i}>{escape(pair[side])}</seg>\n" for i, pair in enumerate(pairs)
        )
        again = '<doc sysid="second" docid="d"><seg id=0>x</seg></doc>\n' if side else ""
        return (
            f'<{kind} setid="s" srclang="any" {language}>\n<DOC sysid="ref" docid="d">\n{segments}'
            f"</DOC>\n{again}</{kind}>"
        ).encode()

    return write


WRITERS: list[tuple[str, Writer]] = [
    ("tsv", tsv),
    ("csv", delimited(",")),
    ("csv", delimited(";", "\n")),
    ("csv", delimited("|", "\r")),
    ("csv", delimited("\t", "\n", csv.QUOTE_ALL)),
    ("json", json_list),
    ("json", json_data),
    ("json", json_lines),
    ("jsonl", json_lines),
    ("jsonl", json_list),
    ("parquet", parquet),
    ("tmx", tmx),
    ("xlf", xliff),
    ("xliff", xliff_2),
    ("xml", wmt_xml),
    ("po", po),
]


def zipped(content: bytes, name: str = "inside") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    ".zip": zipped,
}
