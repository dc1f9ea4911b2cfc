"""The notebook that travels opens the checkpoint beside it: its cells run."""

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bahdanau_hf.cli import main
from bahdanau_hf.hub.model_card import REPO_PLACEHOLDER
from bahdanau_hf.hub.notebook import write_notebook
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint


def code_cells(folder: Path) -> list[str]:
    notebook = json.loads((folder / "notebook.ipynb").read_text("utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(cells: list[str], repository: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run cells as Jupyter does; the SVG that was drawn."""
    drawn: list[str] = []
    display = ModuleType("IPython.display")
    display.SVG = drawn.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names: dict[str, object] = {}
    for cell in cells:
        cell = cell.replace(REPO_PLACEHOLDER, str(repository))
        if cell.startswith("!"):
            cell = cell.replace("steps 50", "steps 4").replace("steps 25", "steps 2")
            assert main(shlex.split(cell.replace("\\\n", " "))[1:]) == 0
        else:
            exec(cell.replace("%pip", "raise AssertionError  #"), names)
    return drawn


def test_its_cells_run(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without pairs of the reader's, the model's own translations stand in."""
    monkeypatch.chdir(tmp_path)
    folder = make_checkpoint(tmp_path / "model")
    write_notebook(folder)
    drawn = run(code_cells(folder), folder, monkeypatch)
    [svg] = drawn
    assert svg.startswith("<svg")
    printed = capsys.readouterr().out
    assert printed.count("Where is the station? → 车站在哪里？") == 2, "before and after training"
    assert "Where is the station?\t车站在哪里？" in Path("pairs.tsv").read_text("utf-8")
    assert Path("runs/mine/notebook.ipynb").is_file(), "what was trained on travels too"


def test_pairs_of_the_reader_are_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "".join(f"{en}\t{zh}\n" for en, zh in PAIRS)
    Path("pairs.tsv").write_text(own, encoding="utf-8")
    folder = make_checkpoint(tmp_path / "model")
    write_notebook(folder)
    run(code_cells(folder)[:4], folder, monkeypatch)
    assert Path("pairs.tsv").read_text("utf-8") == own


@pytest.mark.parametrize(
    ("config", "tokenizer", "present", "absent"),
    [
        ({}, {"source_lang": "zh", "target_lang": "en"},
         ["车站在哪里？", "--source_lang zh --target_lang en", "alignment_svg"], ["..."]),
        ({"use_attention": False}, {}, ["['...']"], ["alignment_svg", "--source_lang"]),
    ],
)  # fmt: skip
def test_it_says_what_the_checkpoint_is(
    checkpoint: Path, tmp_path: Path, config, tokenizer, present, absent
) -> None:
    values = json.loads((checkpoint / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(values | config), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    write_notebook(tmp_path)
    text = "\n".join(code_cells(tmp_path))
    assert all(part in text for part in present)
    assert not any(part in text for part in absent)


def test_it_is_a_notebook(checkpoint: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="of the extra [notebooks]")
    path = write_notebook(make_checkpoint(tmp_path / "model"))
    nbformat.validate(json.loads(path.read_text("utf-8")))
