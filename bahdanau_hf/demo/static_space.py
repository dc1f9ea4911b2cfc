"""A page without a server: the exported model and ONNX Runtime for browsers, as a static Space.

ONNX Runtime and the tokenizer for browsers come from npm, with the versions and checksums of
`browser/package-lock.json`; they are fetched once and kept. Their install scripts are not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import InputError
from ..files import read_json, sha256_of, writing
from ..languages import language_name
from ..reporting.attention_markup import ALIGNMENT_CSS
from ..reporting.wording import CHINESE

_PAGE = Path(__file__).with_name("browser")
_PAGE_FILES = ("index.html", "style.css", "page.js", "translator.js", "words.js")
_PACKAGE_FILES = ("package.json", "package-lock.json")
_MODEL_FILES = ("translation.json", "tokenizer.json", "encoder_model.onnx", "decoder_model.onnx")
_LIBRARIES = (
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
)
_README = """---
title: {title}
emoji: 👀
colorFrom: blue
colorTo: gray
sdk: {sdk}
app_file: {app}
pinned: false
---

# {title}

A recurrent translation model with additive attention
([Bahdanau et al. 2015](https://arxiv.org/abs/1409.0473)){more}
"""
_MORE = """ that runs in your browser: nothing that
you type leaves it. On your own machine: `python -m http.server --bind 127.0.0.1`."""


def space_readme(title: str, **more: str) -> str:
    """The `README.md` of a Space; of a title, which a checkpoint may have named, only letters."""
    safe = "".join(c for c in title if c.isalnum() or c in " -_")
    return _README.format(title=safe, **more)


def assemble_static_space(exported: Path, space_dir: str | Path) -> list[str]:
    """Lay the page out for what `bahdanau-hf export` has written, and name its files.

    Any file server can serve the folder; files of the page that are there are replaced.

    Raises:
        InputError: the model is none, npm is missing or fails, or the folder cannot be written.
    """
    if missing := [name for name in _MODEL_FILES if not (exported / name).is_file()]:
        raise InputError(f"{exported} is not an exported model: no {' and no '.join(missing)}")
    folder, libraries = Path(space_dir), fetched_libraries()
    settings = read_json(exported / "translation.json")
    names = [language_name(str(settings.get(f"{s}_lang") or s)) for s in ("source", "target")]
    about = {"sdk": "static", "app": "index.html", "more": _MORE}
    lighting = _PAGE.with_name("page.js").read_text(encoding="utf-8")
    texts = {
        "README.md": space_readme(" to ".join(names), **about),
        "words.json": json.dumps(CHINESE, ensure_ascii=False, indent=0),
        "map.css": ALIGNMENT_CSS,
        "map.js": f"export function lightWords(element) {{\n{lighting}}}\n",
    }
    pieces = {name: _PAGE / name for name in _PAGE_FILES}
    pieces |= {f"lib/{Path(name).name}": libraries / name for name in _LIBRARIES}
    pieces |= {f"model/{name}": exported / name for name in _MODEL_FILES}
    with writing(folder):
        for name, source in pieces.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return sorted([*pieces, *texts])


def libraries_folder() -> Path:
    """Where the packages of npm are kept, apart for each state of the lock file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "bahdanau_hf" / f"npm-{sha256_of(_PAGE / 'package-lock.json')[:12]}"


def fetched_libraries() -> Path:
    """The folder `node_modules`, filled if need be; `InputError` if npm is missing or fails."""
    folder = libraries_folder()
    packages = folder / "node_modules"
    if not all((packages / name).is_file() for name in _LIBRARIES):
        npm = shutil.which("npm")
        if npm is None:
            raise InputError("npm is needed once, to fetch ONNX Runtime: install Node.js")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in _PACKAGE_FILES:
                shutil.copyfile(_PAGE / name, folder / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=folder, stdout=sys.stderr).returncode != 0:
            raise InputError("npm could not fetch the packages; see above")
    return packages
