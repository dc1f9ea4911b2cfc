"""Builds each notebook in English and in Chinese from one source, and executes it.

    python notebooks/build.py [NAME ...]  # execute, and write notebooks/en and notebooks/zh
    python notebooks/build.py --check     # execute, and see that what is written is up to date

In a source, `# %% [en]` and `# %% [zh]` begin a text cell in its two languages, `# %%` a cell of
code, and `# %% FILE` a cell that writes a copy of this file of the repository. In code, `# !` and
`# %` begin a line for the shell and for IPython. The second cell of each notebook installs the
package. Both languages have the same code and the same outputs.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from bahdanau_hf.hub.notebook import INSTALL, code_cell, make_notebook, notebook_text, text_cell

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = sorted((HERE / "source").glob("*.py"))
LANGUAGES = ("en", "zh")
SECONDS_A_CELL = 300

_CELL = re.compile(r"^# %%(?: (.*))?\n", re.M)
_MAGIC = re.compile(r"^# ([!%](?:.*\\\n# )*.*)", re.M)  # with the lines that it goes on in
_CHINESE_LINE = re.compile(r"(?<=[^\x00-\x7f])\n *(?=[^\x00-\x7f])")  # no space where it ends
_NOISE = re.compile(r"\d+%\||^findfont: ")  # progress bars, and fonts that are missing here
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def build(source, language):
    """The notebook of a source in a language, not executed."""
    _, *parts = _CELL.split(source.read_text(encoding="utf-8"))
    cells = []
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        if kind == f"[{language}]":
            text = re.sub(r"^# ?", "", body.strip(), flags=re.M)
            cells.append(text_cell(_CHINESE_LINE.sub("", text)))
        elif kind is None:
            cells.append(
                code_cell(_MAGIC.sub(lambda line: line[1].replace("\n# ", "\n"), body.strip()))
            )
        elif kind.strip("[]") not in LANGUAGES:
            copied = (ROOT / kind).read_text(encoding="utf-8").strip()
            cells.append(code_cell(f"%%writefile {Path(kind).name}\n{copied}"))
    return make_notebook([cells[0], code_cell(INSTALL), *cells[1:]])


def execute(notebook):
    """Run the cells in an empty folder, and put their cleaned outputs into the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises, or a command fails.
    """
    import nbformat
    from nbclient import NotebookClient

    before = os.environ.get("PATH", "")
    os.environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{before}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        **{"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        **{"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"},
    }
    nbformat.validate(notebook)
    running = nbformat.reads(notebook_text(notebook), as_version=4)
    for cell in running.cells:
        if re.search("^!", cell.source, re.M):
            cell.source += "\nassert _exit_code == 0"
    with tempfile.TemporaryDirectory() as folder:
        done = NotebookClient(
            running,
            timeout=SECONDS_A_CELL,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
        for cell, ran in zip(notebook["cells"], done.cells, strict=True):
            if cell["cell_type"] == "code":
                cell["execution_count"] = ran.execution_count
                cell["outputs"] = [
                    output for item in ran.outputs if (output := _clean(item, folder)) is not None
                ]
    nbformat.validate(notebook)


def _clean(output, folder):
    """An output without warnings, progress, and names of this machine; `None` if nothing is left.

    What the shell writes comes through a terminal, whose lines may be written over.
    """
    output = dict(output)
    if output["output_type"] == "stream":
        if output["name"] == "stderr":
            return None
        text = _ESCAPE.sub("", output["text"]).replace("\r\n", "\n")
        lines = (line.split("\r")[-1] for line in text.splitlines(keepends=True))
        text = "".join(line for line in lines if not _NOISE.search(line))
        output["text"] = text.replace(f"{folder}/", "").splitlines(keepends=True)
        return output if output["text"] else None
    output["data"] = {
        kind: value if kind == "image/png" else value.splitlines(keepends=True)
        for kind, value in output["data"].items()
    }
    output["metadata"] = {}
    return output


def without_outputs(notebook):
    """What of a notebook its source decides."""
    cells = [
        {**cell, "execution_count": None, "outputs": []} if cell["cell_type"] == "code" else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def write(source, executed):
    """Write a notebook in all languages, with the outputs of the one that was executed."""
    for language in LANGUAGES:
        notebook = build(source, language)
        for cell, ran in zip(notebook["cells"], executed["cells"], strict=True):
            if cell["cell_type"] == "code":
                cell |= {name: ran[name] for name in ("execution_count", "outputs")}
        path = built_path(source, language)
        path.parent.mkdir(exist_ok=True)
        path.write_text(notebook_text(notebook), encoding="utf-8")


def built_path(source, language):
    """Where the notebook of a source is written."""
    return HERE / language / f"{source.stem}.ipynb"


def differs(source, language):
    """Whether what is written is not what the source says, outputs apart."""
    path = built_path(source, language)
    if not path.is_file():
        return True
    return without_outputs(json.loads(path.read_text("utf-8"))) != build(source, language)


def main():
    """Build or check the notebooks that are named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="how their names begin, such as 01; default: all")
    parser.add_argument("--check", action="store_true", help="execute, compare and write nothing")
    args = parser.parse_args()
    names = tuple(args.names) or ("",)
    for source in (source for source in SOURCES if source.stem.startswith(names)):
        print(source.stem, flush=True)
        if args.check and any(differs(source, language) for language in LANGUAGES):
            sys.exit(f"{source} has changed: run python notebooks/build.py {source.stem}")
        notebook = build(source, "en")
        execute(notebook)
        if not args.check:
            write(source, notebook)


if __name__ == "__main__":
    main()
