"""Checkpoints with different code in one process: each runs its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

import bahdanau_hf
from bahdanau_hf import BahdanauForConditionalGeneration
from tests.helpers.strangers import as_stranger
from tests.helpers.tiny_model import make_config

PACKAGE = Path(bahdanau_hf.__file__).parent
TRAVELLING = sorted(path.name for path in (PACKAGE / "modeling").glob("*_bahdanau.py"))

STRANGER = """
import json
from transformers import AutoModelForSeq2SeqLM

folders = sys.argv[1:]
models = [AutoModelForSeq2SeqLM.from_pretrained(f, trust_remote_code=True) for f in folders]
print(json.dumps([type(model).mark for model in models]))
"""


@pytest.mark.parametrize("name", TRAVELLING)
def test_a_configuration_is_known_by_all_the_code(name: str, tmp_path: Path) -> None:
    """Transformers looks a model's class up by its configuration's.

    It names that after a digest of the configuration's file and of what this imports from its
    folder; so a change in any file must make it another.
    """
    for file in TRAVELLING:
        shutil.copy(PACKAGE / "modeling" / file, tmp_path)

    def digest() -> str:
        return dynamic_module_utils._compute_local_source_files_hash(
            tmp_path, tmp_path / "configuration_bahdanau.py"
        )

    before = digest()
    assert digest() == before
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write("# another\n")
    assert digest() != before


@pytest.mark.slow
def test_folders_of_one_name(tmp_path: Path) -> None:
    folders = [tmp_path / parent / "model" for parent in ("one", "two", "three")]
    model = BahdanauForConditionalGeneration(make_config())
    for number, folder in enumerate(folders):
        model.save_pretrained(folder)
        with (folder / "modeling_bahdanau.py").open("a", encoding="utf-8") as file:
            file.write(f"\nBahdanauForConditionalGeneration.mark = {number}\n")
    answer = subprocess.run(
        as_stranger(STRANGER, *folders),
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout) == [0, 1, 2]
