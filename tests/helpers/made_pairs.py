"""Pairs made up for tests, and the forms in which tests need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from bahdanau_hf.data.sources import pair_table

Pairs = list[tuple[str, str]]

SUBJECTS = [
    ("I", "我"),
    ("You", "你"),
    ("He", "他"),
    ("She", "她"),
    ("We", "我们"),
    ("They", "他们"),
]
ACTIONS = [
    ("can run", "会跑"),
    ("may sing", "可以唱歌"),
    ("must go", "得走"),
    ("did call", "打了电话"),
]
TIMES = [("today", "今天"), ("tonight", "今晚"), ("again", "又"), ("here", "在这里"), ("", "")]
PAIRS: Pairs = [
    (f"{a} {b} {c}".strip() + ".", f"{z}{x}{y}。")
    for a, x in SUBJECTS
    for b, y in ACTIONS
    for c, z in TIMES
]


def table(pairs: Pairs, source: str = "en", target: str = "zh") -> Dataset:
    return pair_table(pairs, source, target)


def rows(dataset: Any, source: str = "en", target: str = "zh") -> Pairs:
    return [(row["translation"][source], row["translation"][target]) for row in dataset]


def write_tsv(path: Path, pairs: Pairs) -> str:
    path.write_text("".join(f"{a}\t{b}\n" for a, b in [("en", "zh"), *pairs]), encoding="utf-8")
    return str(path)
