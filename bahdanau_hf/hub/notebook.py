"""The notebook that travels with a checkpoint: the Hub's buttons open it in Colab or Kaggle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import read_json, write_whole
from ..languages import EXAMPLES, base_language
from .model_card import REPO_PLACEHOLDER, read_model_config

INSTALL = """\
# Only where it is missing. The PyTorch that is there stays.
from importlib.util import find_spec

if find_spec("bahdanau_hf") is None:
    %pip install --quiet bahdanau-hf"""

_TRANSLATE = """\
from bahdanau_hf import Translator

translator = Translator.from_pretrained("{repository}")
results = translator.translate({examples})
for result in results:
    print(result.source, "→", result.text)"""

_DRAW = """\
from IPython.display import SVG

from bahdanau_hf.reporting.attention_plot import alignment_svg

SVG(alignment_svg(translator.align(results[-1].source).by_words()))"""

_WRITE_PAIRS = r"""
from pathlib import Path

pairs = Path("pairs.tsv")  # a pair a line: sentence, tab, translation
if not pairs.exists():
    lines = [f"{result.source}\t{result.text}\n" for result in results]
    pairs.write_text("".join(lines), encoding="utf-8")""".strip()

_FINE_TUNE = r"""
!bahdanau-hf train --model_name_or_path {repository} --output_dir runs/mine \
  --overwrite_output_dir --train_file pairs.tsv --validation_file pairs.tsv {languages} \
  --learning_rate 0.0005 --max_train_steps 50 --eval_steps 25""".strip()

_TRANSLATE_AGAIN = """\
translator = Translator.from_pretrained("runs/mine")
for result in translator.translate([result.source for result in results]):
    print(result.source, "→", result.text)"""


def make_notebook(cells: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A notebook (nbformat 4.5) of what `text_cell` and `code_cell` give."""
    return {
        "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells, start=1)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def text_cell(text: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def code_cell(code: str) -> dict[str, Any]:
    """A cell of code that was not run yet."""
    return {
        **{"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []},
        "source": code.splitlines(keepends=True),
    }


def notebook_text(notebook: dict[str, Any]) -> str:
    """A notebook as its file has it."""
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def write_notebook(folder: str | Path) -> Path:
    """Write `notebook.ipynb` beside a checkpoint: load, translate, draw the map, fine-tune.

    As in the card, `OWNER/NAME` stands for the repository until it is pushed.

    Raises:
        InputError: the folder holds no checkpoint of ours.
    """
    folder = Path(folder)
    config, tokenizer = read_model_config(folder), read_json(folder / "tokenizer_config.json")
    sides = {side: str(tokenizer.get(side) or "") for side in ("source_lang", "target_lang")}
    fill = {
        "repository": REPO_PLACEHOLDER,
        "examples": str(EXAMPLES.get(base_language(sides["source_lang"]), ["..."])),
        "languages": " ".join(f"--{side} {code}" for side, code in sides.items() if code),
    }
    drawing = [
        text_cell(
            "## Attention map · 注意力图\n\n"
            "Rows are words of the translation, columns words of the source; darker means more "
            "attention.\n\n每行是译文的一个词，每列是原文的一个词，颜色越深，注意力越多。"
        ),
        code_cell(_DRAW),
    ]
    notebook = make_notebook(
        [
            text_cell(
                f"# {REPO_PLACEHOLDER}\n\n"
                "Try the model, look at its attention, train it further. A CPU is enough.\n\n"
                "试用这个模型，观察它的注意力，再用你自己的句子继续训练。只用 CPU 就够了。"
            ),
            code_cell(INSTALL),
            text_cell("## Translate · 翻译"),
            code_cell(_TRANSLATE.format(**fill)),
            *(drawing if config.get("use_attention", True) else []),
            text_cell(
                "## Train it on your pairs · 用你的句对继续训练\n\n"
                "Upload a file `pairs.tsv` with your own sentences. Until then the model's own "
                "translations stand in for it. Validate on other pairs than you train on "
                "(`--validation_file`) as soon as you have some hundred.\n\n"
                "请上传你自己的 `pairs.tsv`（每行：原文、制表符、译文）。没有这个文件时，先用模型"
                "自己的译文代替。句对有几百个以后，请用另外的句对做验证（`--validation_file`）。"
            ),
            code_cell(_WRITE_PAIRS),
            code_cell(_FINE_TUNE.format(**fill)),
            code_cell(_TRANSLATE_AGAIN),
        ]
    )
    path = folder / "notebook.ipynb"
    write_whole(path, notebook_text(notebook))
    return path
