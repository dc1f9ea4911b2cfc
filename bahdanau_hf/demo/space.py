"""The page as a Space of the Hub: one folder that holds all it needs."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..errors import InputError
from ..files import writing
from ..inference.translator import Translator
from .page import Answers
from .static_space import space_readme

_MORE = """, to try and to look into. `model/` holds
the checkpoint, `bahdanau_hf/` the code that runs it. On your own machine:

```sh
pip install -r requirements.txt gradio=={gradio}
python app.py
```"""

_APP = '''"""The page of this Space: the model beside this file."""

import sys
from pathlib import Path

from bahdanau_hf.cli import main

if __name__ == "__main__":
    model = Path(__file__).with_name("model")
    sys.exit(main(["demo", "--model", str(model), *sys.argv[1:]]))
'''


def assemble_space(translator: Translator, space_dir: str | Path) -> Path:
    """Lay the page out as a Space in this folder, which does not exist yet, or is empty.

    The translator's model and tokenizer become `model/`.

    Raises:
        InputError: the folder holds something, or cannot be written.
    """
    folder = Path(space_dir)
    package = Path(__file__).parents[1]
    title = " to ".join(name.en for name in Answers(translator).languages())
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise InputError("a Space needs pip install 'bahdanau-hf[demo]'") from None
    about = {"sdk": f"gradio\nsdk_version: {gradio}", "app": "app.py"}
    about["more"] = _MORE.format(gradio=gradio)
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty: name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.py").write_text(_APP, encoding="utf-8")
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, folder / package.name, ignore=skip)
        translator.model.save_pretrained(folder / "model")
        translator.tokenizer.save_pretrained(folder / "model")
        (folder / "README.md").write_text(space_readme(title, **about), encoding="utf-8")
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()))
    return folder


def _requirements() -> list[str]:
    """What the package itself needs, at the versions that are installed here."""
    needed = [text for text in requires("bahdanau-hf") or () if ";" not in text]  # no extras
    names = sorted(re.split(r"[^\w.-]", text)[0] for text in needed)
    # A Space has no GPU unless one is rented, and the plain build is a tenth of the size.
    cpu = ["--extra-index-url https://download.pytorch.org/whl/cpu"]
    return cpu + [f"{name}=={version(name).partition('+')[0]}" for name in names]
