"""The notebooks agree with their sources, in both languages, and were executed without an error."""

import json
import re

import pytest

from notebooks.build import LANGUAGES, ROOT, SOURCES, build, built_path, differs, main

CHINESE = re.compile("[一-鿿]")
# Of this machine, or of the way that it was executed.
NOT_FOR_READERS = re.compile(r"Warning|findfont|Traceback|/tmp/|/home/|/root/|\d+%\||\x1b")


def read(source, language="en"):
    return json.loads(built_path(source, language).read_text("utf-8"))


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(notebook):
    return [output for cell in cells(notebook, "code") for output in cell["outputs"]]


every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@every_source
def test_what_is_written_is_what_the_source_says(source) -> None:
    for language in LANGUAGES:
        assert not differs(source, language), f"python notebooks/build.py {source.stem}"


def test_a_change_of_a_source_is_noticed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one language's text, of code and of a copied file; each stops the check at once."""
    text = SOURCES[-1].read_text("utf-8")
    changes = [("# # 6. N", "# # 6. M"), ("序列", "列"), ("dates.tsv", "days.tsv")]
    copy = tmp_path / SOURCES[-1].name
    for old, new in changes:
        assert old in text
        copy.write_text(text.replace(old, new), encoding="utf-8")
        assert any(differs(copy, language) for language in LANGUAGES), old
        monkeypatch.setattr("notebooks.build.SOURCES", [copy])
        monkeypatch.setattr("sys.argv", ["build.py", "--check"])
        with pytest.raises(SystemExit, match="has changed"):
            main()


def test_cells_of_a_source(tmp_path) -> None:
    source = tmp_path / "a.py"
    source.write_text(
        "# %% [en]\n# # Title\n#\n# Text\n# %% [zh]\n# # 标题\n# %%\nx = 1  # ! none\n\n"
        "# !ls \\\n#   -l\n# %time x\n# %% examples/dates.py\n",
        encoding="utf-8",
    )
    for language, title in (("en", "# Title\n\nText"), ("zh", "# 标题")):
        first, install, code, copied = (
            "".join(c["source"]) for c in build(source, language)["cells"]
        )
        assert first == title
        assert "%pip install" in install
        assert code == "x = 1  # ! none\n\n!ls \\\n  -l\n%time x"
        assert copied.startswith('%%writefile dates.py\nr"""')


@every_source
def test_texts_stand_in_both_languages(source) -> None:
    en, zh = (cells(read(source, language), "markdown") for language in LANGUAGES)
    for english, chinese in zip(en, zh, strict=True):
        english, chinese = "".join(english["source"]), "".join(chinese["source"])
        assert len(CHINESE.findall(chinese)) > len(CHINESE.findall(english))
        for part in (r"^#+ ", r"`[^`]*`", r"\$[^$]*\$", r"^- "):
            found = [re.findall(part, text, re.M) for text in (english, chinese)]
            assert len(found[0]) <= len(found[1]), part


@every_source
def test_code_and_outputs_are_the_same_in_both_languages(source) -> None:
    en, zh = (cells(read(source, language), "code") for language in LANGUAGES)
    assert en == zh


@every_source
def test_each_was_executed_from_top_to_bottom(source) -> None:
    notebook = read(source)
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert outputs(notebook)
    for output in outputs(notebook):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        shown = "".join(output.get("text", []))
        assert not NOT_FOR_READERS.search(shown), shown


def test_the_table_has_each_notebook_with_its_buttons() -> None:
    text = (ROOT / "notebooks" / "README.md").read_text("utf-8")
    for source in SOURCES:
        for language in LANGUAGES:
            path = f"{language}/{source.stem}.ipynb"
            assert f"]({path})" in text
            assert len(re.findall(rf"https://\S+/blob/main/notebooks/{path}\)", text)) == 2
            assert built_path(source, language).is_file()
