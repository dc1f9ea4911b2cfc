"""README and docs are true: their Python runs, their commands are understood, their links work."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bahdanau_hf.cli import COMMANDS, _read_flags
from bahdanau_hf.cli import main as command
from bahdanau_hf.training.arguments import (
    DataArguments,
    ModelArguments,
    TrainArguments,
    parse_arguments,
)
from tests.helpers.house_rules import (
    FLOORS,
    MOST_LINES,
    MOST_LINES_OF,
    MOST_TRAVELLING_FILES,
    MOST_TRAVELLING_LINES,
)
from tests.helpers.places import ROOT
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint

RECIPES = sorted((ROOT / "bahdanau_hf" / "recipes").glob("*.yaml"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
GUIDES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *DOCS]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("benchmarks/*.md")]
OTHERS += [*ROOT.glob("experiments/*.md"), *ROOT.glob("tests/*.md")]
OTHERS += [ROOT / "bahdanau_hf" / "pairs" / "README.md", ROOT / "notebooks" / "README.md"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(path), re.M | re.S)


def shell_lines() -> list[str]:
    """Each command of README and docs, once."""
    text = "".join(block for path in GUIDES for block in blocks(path, "sh"))
    lines = text.replace("\\\n", " ").splitlines()
    return [*dict.fromkeys(line.split("  #")[0].strip() for line in lines if line.strip())]


PYTHON = [  # each once: the pages in Chinese have the same code
    pytest.param(code, id=f"{page_name(path)}-{number}")
    for code, (path, number) in {
        code: (path, number)
        for path in reversed(GUIDES)
        for number, code in enumerate(blocks(path, "python"))
    }.items()
]


COMMAND = r"(.+ \| )?bahdanau-hf ([\w-]+) "
OF_THE_COMMAND = {"train", "train-tokenizer", "export", "push", "demo", "convert"}


def of_command(name: str) -> list[str]:
    return [line for line in shell_lines() if line.startswith(f"bahdanau-hf {name} ")]


def is_launch(line: str) -> bool:
    return line.startswith("accelerate launch ")


TRAINING = [
    *of_command("train"),
    *of_command("train-tokenizer"),
    *filter(is_launch, shell_lines()),
]
MAKE = [line for line in shell_lines() if line.startswith("make ")]
EXPORTING, PUSHING = of_command("export"), of_command("push")
SHOWING, CONVERTING = of_command("demo"), of_command("convert")
USING = [
    line
    for line in shell_lines()
    if (found := re.match(COMMAND, line)) and found[2] not in OF_THE_COMMAND
]
RUNNING = [
    line for line in shell_lines() if re.match(r"python (scripts|examples)(/\w+)+\.py ", line)
]
INSTALLING = [line for line in shell_lines() if line.startswith("pip install ")]
EXERCISING = [line for line in shell_lines() if line.startswith("python -m pytest exercises")]
SERVING = [line for line in shell_lines() if line.startswith("python -m http.server ")]
SETTING_UP = [
    line
    for line in shell_lines()
    if line.startswith(("HF_ENDPOINT=", "export PIP_INDEX_URL=", "sudo apt-get install "))
]
DATA_FOLDERS = {"recipes", "pairs"}
KINDS = {
    "training": TRAINING,
    "make": MAKE,
    "export": EXPORTING,
    "push": PUSHING,
    "demo": SHOWING,
    "convert": CONVERTING,
    "using": USING,
    "running": RUNNING,
    "installing": INSTALLING,
    "exercising": EXERCISING,
    "serving": SERVING,
    "setting up": SETTING_UP,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name; its model is overfitted on their sentences."""
    folder = tmp_path_factory.mktemp("clone")
    make_checkpoint(folder / "runs" / "quickstart")
    config = folder / "runs" / "quickstart" / "config.json"
    calibrated = {"confidence": [0.0, 1.0, 0.0, 0.0, 0.0]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **calibrated}))
    for name in ("base", "converted", "own", "seed-42", "seed-43"):
        (folder / "runs" / name).symlink_to("quickstart", target_is_directory=True)
    (folder / "sentences.txt").write_text("".join(f"{en}\n" for en, _ in PAIRS[:3]))
    cue = "1\n00:00:01,000 --> 00:00:02,000\n"
    (folder / "film.srt").write_text(f"{cue}{PAIRS[0][0]}\n")
    (folder / "page.html").write_text(f"<p>{PAIRS[0][0]}</p>\n")
    (folder / "README.md").write_text("")
    rows = "".join(f"{en}\t{zh}\n" for en, zh in PAIRS)
    (folder / "test.tsv").write_text(f"en\tzh\n{rows}", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_every_command_is_of_a_known_kind() -> None:
    assert sorted(line for kind in KINDS.values() for line in kind) == sorted(shell_lines())
    assert [name for name, lines in KINDS.items() if not lines] == []


class Tokens(list):
    """A vocabulary as far as the tutorial's program uses it."""

    def to_tokens(self, ids: list[int]) -> list[str]:
        return [self[number] for number in ids]


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(
    code: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")  # what a block sets is undone
    code = code.replace("OWNER/NAME", "runs/quickstart")
    tokens = Tokens(["<unk>", "联", "系"])
    exec(compile(code, "a block of a page", "exec"), {"src_vocab": tokens, "tgt_vocab": tokens})
    printed = capsys.readouterr().out
    if "AutoTokenizer" in code:
        assert printed.splitlines() == [
            "Where is the station? → 车站在哪里？",
            "It will snow tomorrow. → 明天会下雪。",
            "['车站在哪里？', '明天会下雪。']",
        ]
    elif "translator.stream(" in code:
        assert printed.startswith("联系我们。 -")
        assert printed.splitlines()[-3:] == [zh for _, zh in PAIRS[:3]]
    elif "return_confidence=True" in code:
        assert 0.5 < float(printed.split()[0]) <= 1
        assert "('车'," in printed
    elif "translate_text(" in code:
        assert printed.splitlines() == ["车站在哪里？联系我们。", "", "他跑。"]
    elif "save_alignment(" in code:
        assert "联" in read(Path("map.svg"))
    elif "trainer.evaluate()" in code:
        assert float(printed.splitlines()[-1]) == pytest.approx(100)
    elif "src_vocab" in code:
        assert read(Path("source.txt")) == read(Path("target.txt")) == "<unk>\n联\n系\n"
    elif 'pipeline("translation"' in code:
        assert "联系我们。" in printed.splitlines()[0]
    else:
        assert "from_pretrained(" in code, "say what this block should print"


@pytest.mark.parametrize("line", USING)
def test_commands_that_use_a_model(
    line: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    *before, after = line.split(" | ")
    words, _, source = after.partition(" < ")
    text = Path(source).read_bytes() if source else b""
    if before:
        text = subprocess.run(shlex.split(before[0]), capture_output=True, check=True).stdout
    Path("input").write_bytes(text)
    with open("input", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert command(shlex.split(words)[1:]) == 0
    printed = capfdbinary.readouterr().out.decode()
    if before:
        assert printed == "车站在哪里？\n"
    elif " score " in line:
        scores = json.loads(printed)
        assert (
            scores["bleu"] == pytest.approx(100) if "--test_file" in line else scores["num_links"]
        )
    elif " align " in line:
        assert "联" in (read(Path("map.svg")) if "--output" in line else printed)
    else:
        _, _, output = line.partition("--output ")
        assert "联系我们。" in (read(Path(output)) if output else printed.splitlines()[0])


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_are_understood(line: str) -> None:
    *_, train = parse_arguments(training_arguments(line))
    assert train.output_dir.startswith("runs/")
    if is_launch(line):
        launch = re.split(r" (?:scripts/train\.py|-m bahdanau_hf\.train) ", line)[0]
        from accelerate.commands.launch import launch_command_parser

        launch_command_parser().parse_args([*shlex.split(launch)[2:], "script"])


def training_arguments(line: str) -> list[str]:
    """What follows the program's name."""
    started_as = r".*? (?:scripts/train\.py|-m bahdanau_hf\.train|train|train-tokenizer) "
    return shlex.split(re.sub(f"^{started_as}", "", line))


@pytest.mark.parametrize("line", [*PUSHING, *SHOWING, *CONVERTING, *EXPORTING])
def test_other_commands_are_understood(line: str) -> None:
    _, name, *rest = shlex.split(line)
    _read_flags(name, importlib.import_module(f"bahdanau_hf.cli.{name}"), rest)


def test_the_page_of_commands_has_them_all() -> None:
    text = read(ROOT / "docs" / "using.md").partition("| command | does |\n")[2]
    assert re.findall(r"^\| `([\w-]+)` \|", text.partition("\n\n")[0], re.M) == [*COMMANDS]


@pytest.mark.parametrize("line", RUNNING)
def test_scripts_know_the_flags(line: str) -> None:
    words = shlex.split(line)
    text = read(ROOT / words[1])
    flags = [word for word in words[2:] if word.startswith("--")]
    assert all(f'"{flag}"' in text for flag in flags), flags


def test_exercises_exist() -> None:
    """`tests/repo/test_exercises.py` runs them."""
    options = {word for line in EXERCISING for word in line.split()[4:]}
    assert options == {"--solution"}
    assert all((ROOT / line.split()[3]).is_dir() for line in EXERCISING)


@pytest.mark.parametrize("line", INSTALLING)
def test_extras_exist(line: str) -> None:
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    wanted = re.search(r"bahdanau-hf\[([\w,]+)\]", line)
    assert set(wanted[1].split(",") if wanted else []) <= set(extras)


def test_the_page_of_extras_has_them_all() -> None:
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \|", read(ROOT / "docs" / "index.md"), re.M)
    assert {*rows, "dev", "browser", "notebooks"} == set(extras)


def test_make_targets_and_recipes_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.M))
    text = "".join(map(read, [*GUIDES, ROOT / "CONTRIBUTING.md"]))
    spoken_of = " ".join(re.findall(r"`make ([a-z -]+)`", text)).split()
    assert {*spoken_of, *(line.split()[1] for line in MAKE)} <= targets
    table = read(ROOT / "docs" / "training.md").partition("## Recipes\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", [*GUIDES, *OTHERS], ids=page_name)
def test_files_that_are_named_exist(path: Path) -> None:
    for name in re.findall(
        r"`((?:bahdanau_hf|benchmarks|experiments|scripts|tests)/[\w./]*)`", read(path)
    ):
        assert (ROOT / name).exists(), name


def test_architecture_has_every_package_in_its_order() -> None:
    """Of imports; and the files that its pages name are there."""
    text, package = read(ROOT / "docs" / "architecture.md"), ROOT / "bahdanau_hf"
    rows = re.findall(r"^\| (`.*?`) \|", text.partition("## Packages\n")[2], re.M)
    names = [name.rstrip("/") for row in rows for name in re.findall(r"`(.*?)`", row)]
    assert [name for name in names if name not in DATA_FOLDERS] == FLOORS
    for name in re.findall(r"`([a-z_0-9]+/(?:[a-z_0-9]+\.py)?)`", text):
        assert (package / name).exists(), name


def test_the_faq_quotes_messages_that_exist() -> None:
    package = (ROOT / "bahdanau_hf").rglob("*.py")
    source = re.sub(r'"\s+f?"', "", "".join(map(read, package)))
    quoted = re.findall(r"^### .*?\"(.*?)\"", read(ROOT / "docs" / "faq.md"), re.M)
    assert len(quoted) >= 5
    for part in (part for message in quoted for part in message.split("…")):
        assert part.strip() in source, part


FAQS = [path for path in DOCS if path.name.startswith("faq.")]


@pytest.mark.parametrize("path", FAQS, ids=page_name)
def test_the_faq_names_flags_that_exist(path: Path) -> None:
    """In thirty entries at least, each with what to look at, the cause or what to change."""
    text = read(path)
    entries = re.split(r"^### ", text, flags=re.M)[1:]
    assert len(entries) >= 30
    assert [entry for entry in entries[:-1] if "**" not in entry] == []
    sources = map(read, (ROOT / "bahdanau_hf" / "cli").glob("*.py"))
    flags = {flag for source in sources for flag in re.findall(r'"(--\w+)[ "]', source)}
    settings = (ModelArguments, DataArguments, TrainArguments)
    flags |= {f"--{field.name}" for kind in settings for field in dataclasses.fields(kind)}
    others = {"--cpu", "--dry-run"}  # accelerate's and pip's
    assert set(re.findall(r"`[^`\n]*?(--[\w-]+)", text)) - flags <= others


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", read(path), re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*GUIDES, *OTHERS], ids=page_name)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", read(path), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.is_file(), link
            if anchor and "." not in anchor:  # a name of the API: `make docs` looks for it
                assert anchor in anchors(target), link


def test_the_site_has_every_page() -> None:
    listed = set(re.findall(r": (\S+\.md)$", read(ROOT / "mkdocs.yml"), re.M))
    english = (path for path in DOCS if not path.name.endswith(".zh.md"))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in english}
    assert listed == pages | {page_name(path) for path in OTHERS}


@pytest.mark.slow
def test_training_command_runs(workplace: Path) -> None:
    """The first training command, cut short; the others differ in flags only."""
    arguments = training_arguments(TRAINING[0])
    output_dir = workplace / "runs" / "mine"
    arguments += ["--output_dir", str(output_dir), "--max_train_steps", "4", "--eval_steps", "4"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "scripts/train.py"]
    done = subprocess.run(
        [*launch, *arguments, "--max_eval_samples", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (output_dir / "report.html").is_file()
    assert (output_dir / "README.md").is_file()


def test_it_says_how_many_lines_travel() -> None:
    files = sorted((ROOT / "bahdanau_hf" / "modeling").glob("*_bahdanau.py"))
    total = sum(len(read(path).splitlines()) for path in files)
    said = re.search(
        r"runs the (\w+) Python files that travel .*, ([\d,]+) lines",
        read(ROOT / "docs" / "hub.md"),
    )
    assert said is not None
    assert said.groups() == ("eight", f"{total:,}")
    assert len(files) == MOST_TRAVELLING_FILES
    table = read(ROOT / "docs" / "architecture.md")
    assert set(re.findall(r"^\| `(\w+_bahdanau\.py)` \|", table, re.M)) == {
        path.name for path in files
    }


def test_contributing_names_the_limits() -> None:
    text = read(ROOT / "CONTRIBUTING.md")
    assert f"No file over {MOST_LINES} lines" in text
    assert f"eight files in `bahdanau_hf/modeling/`, {MOST_TRAVELLING_LINES:,} lines" in text
    assert all(f"`{name}.py`" in text for name in MOST_LINES_OF)
