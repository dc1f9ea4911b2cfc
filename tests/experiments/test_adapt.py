"""What is trained on what, and what the pages say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bahdanau_hf.training.arguments import parse_arguments
from experiments import adapt
from tests.helpers.made_pairs import PAIRS, write_tsv


def result(name: str, seed: int, *bleu: float) -> dict[str, Any]:
    scores = zip(adapt.DOMAINS, bleu, strict=True)
    return {
        "name": name,
        "seed": seed,
        "machine": {"date": f"day {seed}", "commit": "abc"},
        "device": "a device",
        "seconds": 60 * seed,
        "parameters": 7_300_000,
        "pairs": 1234,
        "scores": {
            domain: {"bleu": value, "chrf": value / 2, "bleu_signature": "s"}
            for domain, value in scores
        },
    }


def test_an_adapted_model_stands_beside_what_it_began_with() -> None:
    results = {
        "joint": [result("joint", 1, 30, 20, 10), result("joint", 2, 32, 20, 10)],
        "joint-to-docs": [result("joint-to-docs", 1, 25, 23.5, 10)],
        "tatoeba-to-captions": [result("tatoeba-to-captions", 3, 1, 2, 3)],
    }
    text = adapt.page_text(results, "adapt.md")
    assert "| model | pairs | minutes | BLEU `tatoeba` | BLEU `docs` | BLEU `captions` |" in text
    assert "| `joint` | 1,234 | 1.5 | 31.0 ± 1.4 | 20.0 ± 0.0 | 10.0 ± 0.0 |" in text
    assert "| `joint-to-docs` | 1,234 | 1.0 | 25.0 (-6.0) | 23.5 (+3.5) | 10.0 (+0.0) |" in text
    assert "| `tatoeba-to-captions` | 1,234 | 3.0 | 1.0 | 2.0 | 3.0 |" in text, (
        "no start: no change"
    )
    assert "| `joint-to-docs` | 1,234 | 1.0 | 12.5 (-3.0) |" in text, "chrF"
    assert "seed 1, 2, 3; 7.3 M parameters; `s`; day 3, commit abc, a device." in text
    chinese = adapt.page_text(results, "adapt.zh.md")
    assert text.count("|") == chinese.count("|")
    assert "| 模型 | 句对 | 分钟 | BLEU `tatoeba` |" in chinese


def test_pages_show_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {page: (adapt.DOCS / page).read_text(encoding="utf-8") for page in adapt.PAGES}
    for page, text in kept.items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    monkeypatch.setattr(adapt, "DOCS", tmp_path)
    assert adapt.main(["render"]) == 0
    made = {page: (tmp_path / page).read_text(encoding="utf-8") for page in kept}
    assert made == kept, "run python -m experiments.adapt render"
    (tmp_path / "results").mkdir()
    assert adapt.main(["render", "--results", str(tmp_path / "results")]) == 0
    assert "Not measured." in (tmp_path / "adapt.md").read_text(encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pairs of three kinds, a third of the made-up ones each."""
    for number, folder in enumerate(adapt.DOMAINS.values()):
        (tmp_path / folder).mkdir()
        for split in ("train", "validation", "test"):
            write_tsv(tmp_path / folder / f"{split}.tsv", PAIRS[number::3])
    return tmp_path


def test_each_training_is_told_its_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def train(command: list[str], folder: Path, threads: int) -> dict[str, float]:
        assert command[1:4] == ["-m", "bahdanau_hf", "train"]
        told[folder.name] = parse_arguments(command[4:])
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        found = {"num_parameters": 1, "num_pairs": {"train": 2}, "epochs": 3, "weights": "w"}
        for name in ("settings", "eval_results"):
            (folder / f"{name}.json").write_text(json.dumps(found))
        return {"cpu_seconds": 5, "wall_seconds": 5}

    def score(runs: list[Path], test_file: Path, *others: Any) -> dict[str, float]:
        assert others == ("simplified", 5, 1)
        return {"bleu": list(adapt.DOMAINS.values()).index(test_file.parent.name)}

    monkeypatch.setattr(adapt, "train", train)
    monkeypatch.setattr(adapt, "score", score)
    places = ["--data", str(data), "--output_dir", str(tmp_path / "runs")]
    places += ["--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit, match="joint-to-docs goes on from joint: run that first"):
        adapt.main(["run", *places, "--only", "joint-to-docs"])
    assert adapt.main(["run", *places, "--seeds", "7", "--max_train_seconds=9"]) == 0
    assert list(told) == [f"{name}-7" for name in adapt.MODELS]

    def kinds(spec: str | None) -> list[str]:
        names = {folder: domain for domain, folder in adapt.DOMAINS.items()}
        return [names[Path(file).parent.name] for file in (spec or "").split(",") if file]

    for name, (model, files, train_args) in told.items():
        name = name.removesuffix("-7")
        domains = kinds(files.train_file)
        assert domains == kinds(files.validation_file)
        assert (train_args.max_train_seconds, train_args.seed) == (9, 7)
        if name in adapt.DOMAINS:
            assert (domains, model.model_name_or_path) == ([name], None)
            continue
        if name == "joint":
            assert domains == list(adapt.DOMAINS)
            continue
        start, _, target = name.removesuffix("-mixed").partition("-to-")
        assert domains == [target]
        assert model.model_name_or_path == str(tmp_path / "runs" / f"{start}-7")
        before = list(adapt.DOMAINS) if start == "joint" else [start]
        others = [domain for domain in before if domain != target]
        assert kinds(files.mix_file) == (others if name.endswith("-mixed") else [])
    found = adapt.load_results(tmp_path / "results")
    assert list(found) == list(adapt.MODELS)
    assert found["joint"][0]["scores"] == {
        domain: {"bleu": number} for number, domain in enumerate(adapt.DOMAINS)
    }
    assert found["joint"][0]["machine"]["command"].endswith(
        "run --data FOLDER --only joint --seeds 7 --max_train_seconds=9"
    )


@pytest.mark.slow
def test_a_model_is_trained_and_adapted(data: Path, tmp_path: Path) -> None:
    places = ["--data", str(data), "--output_dir", str(tmp_path / "runs")]
    places += ["--results", str(tmp_path / "results")]
    sizes = ["--hidden_size=8", "--embedding_size=8", "--num_train_epochs=1", "--vocab_size=300"]
    assert adapt.main(["run", *places, "--only", "joint", "joint-to-docs-mixed", *sizes]) == 0
    joint, mixed = (results[0] for results in adapt.load_results(tmp_path / "results").values())
    assert joint["parameters"] == mixed["parameters"]
    assert joint["pairs"] == len(PAIRS)
    assert len(PAIRS) // 3 < mixed["pairs"] < len(PAIRS)
    assert mixed["scores"]["captions"]["num_sentences"] == len(PAIRS) // 3
    assert str(tmp_path) not in json.dumps(mixed)
