"""What is shown to try a model with is translated rightly by the recipe that it is shown for.

A trained run is judged without training when `SHOWCASE_RUN` names its folder:

    SHOWCASE_RUN=runs/quickstart pytest -m slow tests/repo/test_showcase.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bahdanau_hf import train
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.languages import EXAMPLES
from tests.helpers.places import ROOT

RIGHT = {
    "Where is the station?": ["车站在哪里？", "车站在哪儿？"],
    "It will snow tomorrow.": ["明天会下雪。", "明天要下雪。"],
    "My brother works in a hospital near the river.": [
        f"我{brother}在河{near}的{a}医院工作。"
        for brother in ("哥哥", "弟弟")
        for near in ("边", "附近")
        for a in ("一家", "")
    ],
    "He drinks tea every morning.": ["他每天早上喝茶。", "他每天早上都喝茶。"],
}


def shown() -> set[str]:
    """The sentences that page and card offer, and those that the README translates."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lists = re.findall(r"(?:translate|tokenizer)\(\[(.*?)\]", readme)
    commands = re.findall(r'echo "(.*?)" \| bahdanau-hf', readme)
    return {*EXAMPLES["en"], *commands, *re.findall('"(.*?)"', " ".join(lists))}


def test_the_right_translations_of_all_that_is_shown_are_known() -> None:
    assert shown() == RIGHT.keys()
    right = (set(RIGHT[source]) for source in EXAMPLES["en"])
    assert all(zh in known for zh, known in zip(EXAMPLES["zh"], right, strict=True))


@pytest.mark.slow
def test_the_quickstart_translates_rightly_what_is_shown(tmp_path: Path) -> None:
    run = os.environ.get("SHOWCASE_RUN") or str(tmp_path / "quickstart")
    if "SHOWCASE_RUN" not in os.environ:
        assert train.main(["tiny", "--output_dir", run]) == 0
    translations = Translator.from_pretrained(run, device="cpu").translate(list(RIGHT))
    wrong = {t.source: t.text for t in translations if t.text not in RIGHT[t.source]}
    assert wrong == {}
