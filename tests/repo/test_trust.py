"""What comes from others is data: it runs nothing, writes nothing, and names nothing elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bahdanau_hf import InputError
from bahdanau_hf.checkpoints.run_folder import seal_checkpoint, verify_checkpoint
from bahdanau_hf.inference.translator import Translator
from tests.helpers.places import ROOT

FOLDERS = ("bahdanau_hf", "scripts", "examples", "benchmarks", "experiments")
CODE = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if "node_modules" not in path.parts
)
PAGES = [
    *(ROOT / "examples" / "browser").glob("*.[jh][st]*"),
    *(ROOT / "bahdanau_hf").rglob("*.py"),
]

# --- nothing is run ------------------------------------------------------------------------------

_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}


def dangers(source: str) -> list[str]:
    """What in this code may run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in _MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in _CALLS or name.endswith((".read_pickle", ".to_pickle")):
                found.append(name)
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            for keyword in ("shell", "allow_pickle", "trust_remote_code"):
                if given.get(keyword, "False") != "False":
                    found.append(keyword)
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_runs_what_it_reads(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "import os; os.system(x)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x, Loader=yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_look_at_the_code_sees(source: str) -> None:
    assert len(dangers(source)) == 1


def test_pages_put_text_in_as_text() -> None:
    assert len(PAGES) > 40
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(inner|outer)HTML\b|insertAdjacentHTML|document\.write", text), (
            path
        )


# --- nothing is written --------------------------------------------------------------------------

_watched: list[tuple[str, str]] | None = None
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "pickle.find_class", "socket.connect"}


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open":
        path, mode, flags = args
        writes = bool(flags & _WRITING) or (isinstance(mode, str) and set(mode) & set("wax+"))
        # What Python itself compiles, and what is thrown away.
        if writes and "__pycache__" not in str(path) and path != os.devnull:
            _watched.append((event, str(path)))
    elif event in _CHANGES | _STARTS and "__pycache__" not in str(args[0]):
        _watched.append((event, str(args[0])))


@pytest.fixture
def watched() -> Iterator[list[tuple[str, str]]]:
    """What this process writes or starts from here on."""
    global _watched
    if not hasattr(sys, "_watched_by_tests"):
        sys.addaudithook(_watch)  # stays for good
        sys._watched_by_tests = True  # type: ignore[attr-defined]
    _watched = []
    yield _watched
    _watched = None


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_loading_and_translating_write_nothing_and_start_nothing(
    copy: Path, watched: list[tuple[str, str]]
) -> None:
    before = states(copy.parent)
    Translator.from_pretrained(copy, device="cpu").translate("Call us.", return_alignments=True)
    assert watched == []
    assert states(copy.parent) == before


def test_the_watch_sees(tmp_path: Path, watched: list[tuple[str, str]]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("x")
    assert [event for event, _ in watched] == ["os.mkdir", "open"]


# --- nothing outside the folder is named ---------------------------------------------------------


@pytest.mark.parametrize("way", ["../outside/", "absolute", "./", "..\\outside\\"])
def test_an_index_of_weights_names_files_of_its_folder(copy: Path, way: str) -> None:
    outside = copy.parent / "outside"
    outside.mkdir()
    weights = copy / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(outside / weights.name)
    place = f"{outside}/" if way == "absolute" else way
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, f"{place}{weights.name}")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index\.json names .* no file of this folder"):
        Translator.from_pretrained(copy, device="cpu")


def test_an_index_of_weights_of_its_folder_is_followed(copy: Path) -> None:
    expected = Translator.from_pretrained(copy, device="cpu").translate("Call us.")
    weights = copy / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(copy / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert Translator.from_pretrained(copy, device="cpu").translate("Call us.") == expected
    (copy / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match=r"cannot read .*index\.json"):
        Translator.from_pretrained(copy, device="cpu")


def test_a_manifest_names_files_of_its_folder(copy: Path) -> None:
    seal_checkpoint(copy)
    verify_checkpoint(copy)
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("../outside", "/dev/zero", ".."):  # the second never ends
        bad = {**manifest, "files": {name: {"sha256": "", "bytes": 0}, **manifest["files"]}}
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match="no file of this folder"):
            verify_checkpoint(copy)
    for bad in ([], {**manifest, "files": []}, {**manifest, "files": {"config.json": 3}}):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match="is no checkpoint of a run"):
            verify_checkpoint(copy)
