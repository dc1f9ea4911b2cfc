"""What `benchmarks/protections.py` takes out is there to be taken out, and tests stand for it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the benchmarks are not installed

from benchmarks import protections  # noqa: E402
from benchmarks.protection_list import PROTECTIONS, Protection  # noqa: E402


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.name)
def test_it_is_there(protection: Protection) -> None:
    text = (ROOT / "bahdanau_hf" / f"{protection.file}.py").read_text(encoding="utf-8")
    assert text.count(protection.code) == 1
    compile(text.replace(protection.code, protection.without), protection.file, "exec")
    file, expression = protection.test
    tests = (ROOT / "tests" / f"test_{file}.py").read_text(encoding="utf-8")
    assert expression in tests, "a name or a part of one"


def test_a_test_that_notices_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no test has the name."""
    (tmp_path / "bahdanau_hf").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "bahdanau_hf" / "bound.py").write_text("MOST = 3\n", encoding="utf-8")
    (tmp_path / "tests" / "test_bound.py").write_text(
        "from bahdanau_hf.bound import MOST\n"
        "def test_most(): assert MOST == 3\n"
        "def test_least(): assert MOST > 0\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(protections, "copy_project", lambda folder: tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of no use there, and slow
    line = Protection("too many", "bound", "MOST = 3", "MOST = 4", ("bound", "most"))
    for test, status in (("most", 0), ("least", 1), ("nothing_of_this_name", 1)):
        changed = Protection(line.name, line.file, line.code, line.without, ("bound", test))
        monkeypatch.setattr(protections, "PROTECTIONS", (changed,))
        assert protections.main([]) == status
        assert ("PASSED" in capsys.readouterr().out) == bool(status)
    assert (tmp_path / "bahdanau_hf" / "bound.py").read_text() == "MOST = 3\n"
