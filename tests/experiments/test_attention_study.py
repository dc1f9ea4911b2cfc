"""The study is fair: one size, one set of batches, one loss; and its numbers are the ones shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bahdanau_hf.metrics.analysis import compare_systems
from bahdanau_hf.training.arguments import parse_arguments
from experiments import attention_study, study_report
from experiments.seeds import compare_means
from experiments.study_systems import SYSTEMS, batch_loss, count
from experiments.study_training import (
    Setting,
    Study,
    learn,
    prepare_study,
    translate,
)
from tests.helpers.made_pairs import PAIRS, write_tsv


def flags(folder: Path) -> list[str]:
    path = write_tsv(folder / "pairs.tsv", PAIRS)
    files = [f"--{name}_file={path}" for name in ("train", "validation", "test")]
    sizes = ["--tokenizer_kind=word-char", "--embedding_size=64", "--hidden_size=24"]
    batches = ["--max_source_length=9", "--max_target_length=12", "--max_tokens_per_batch=200"]
    smooth = ["--label_smoothing_factor=0.1", "--readout=deep", "--embedding_dropout=0.1"]
    return [*files, *sizes, *batches, *smooth, f"--output_dir={folder / 'run'}"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepare_study(*parse_arguments(flags(tmp_path_factory.mktemp("study"))), bf16=False)


# Fairness


def test_the_systems_are_of_one_size(study) -> None:
    sizes = {name: count(study.make(name, 0)) for name in SYSTEMS}
    assert all(n == pytest.approx(sizes["attention"], rel=0.05) for n in sizes.values()), sizes


def test_a_seed_fixes_weights(study) -> None:
    for name in SYSTEMS:
        first, again, other = (study.make(name, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_tuned_reaches_the_system(study, name) -> None:
    own = study.with_setting(Setting(0.25, 0.2, dropout=0.4, label_smoothing=0.3))
    config = own.make(name, 0).config
    if name == "MarianMT":
        assert config.dropout == 0.4
    else:
        assert (config.embedding_dropout, config.readout_dropout) == (0.4, 0.4)
    assert own.train_args.learning_rate == 0.25
    assert own.train_args.label_smoothing_factor == 0.3
    assert count(own.make(name, 0)) == count(study.make(name, 0))


def test_all_systems_learn_the_same_batches(study) -> None:
    rows: list[list[int]] = []
    for _ in range(2):
        batches = study.batches(seed=3)
        taken = [next(batches) for _ in range(len(study.sampler(3)) + 1)]
        rows.append([int(batch["labels"].clamp(min=0).sum()) for batch in taken])
        assert sum(len(batch["labels"]) for batch in taken[:-1]) == len(PAIRS)
    assert rows[0] == rows[1]
    assert rows[0][-1] != rows[0][0], "another order in the next pass"


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_loss_is_one_and_the_same(study, name) -> None:
    """Smoothed cross-entropy over real tokens, whatever the padding."""
    model, batch = study.make(name, 0).eval(), next(study.batches(seed=0))
    assert (batch["labels"] < 0).any()
    starts = torch.cat([torch.ones(len(batch["labels"]), 1).long(), batch["labels"][:, :-1]], 1)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=starts.clamp(min=0)).logits
        real = batch["labels"] >= 0
        expected = F.cross_entropy(logits[real], batch["labels"][real], label_smoothing=0.1)
        assert batch_loss(model, batch, 0.1).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_learns(study, name) -> None:
    study = study.with_setting(Setting(0.01, 0.2, 0.1, 0.1))
    model, batch = study.make(name, 0), next(study.batches(seed=9))
    before = batch_loss(model.eval(), batch, 0.0).item()
    done = learn(study, model, 16, 0, 0.2)
    assert batch_loss(model.eval(), batch, 0.0).item() < 0.8 * before
    assert done["target_tokens"] > 0
    sources = study.pairs("test")[0]
    few = [sources[i] for i in (50, 3, 99)]
    for beams in (1, 2):
        together = translate(study, model, few, beams)
        assert together == [translate(study, model, [text], beams)[0] for text in few]


# Seeds


REFERENCES = ["我今天在这里唱歌。", "他们昨天打了电话。", "我们明天得走了。", "你可以再说一遍吗？"]
GOOD = ["我今天在这里唱歌。", "他们昨天打了电话。", "我们明天走了。", "你可以说一遍吗？"]
FAIR = ["我今天在这里跑。", "他们昨天打了电话。", "明天我们得走了。", "可以再说一遍吗？"]


def test_one_seed_is_sacrebleus_own_test() -> None:
    mean = compare_means([GOOD], [FAIR], REFERENCES, num_samples=200)
    own = compare_systems(GOOD, FAIR, REFERENCES, num_samples=200)["bleu"]
    assert (mean.score, mean.baseline_score) == pytest.approx((own.score, own.baseline_score))
    assert mean.p_value == own.p_value


def test_several_seeds_are_averaged() -> None:
    mean = compare_means([GOOD, FAIR], [FAIR, FAIR], REFERENCES, num_samples=50)
    own = compare_means([GOOD], [FAIR], REFERENCES, num_samples=50)
    assert mean.difference == pytest.approx(own.difference / 2)
    assert compare_means([GOOD], [GOOD], REFERENCES, num_samples=50).p_value == 1


# The command


@pytest.mark.slow
def test_the_command_leaves_numbers_alone(tmp_path, monkeypatch, capsys) -> None:
    """It goes on where it stopped, and nothing of the sentences is in the results."""
    monkeypatch.setattr(
        attention_study, "race_training", lambda study, systems: dict.fromkeys(SYSTEMS, 10.0)
    )
    places = ["--results", str(tmp_path / "results"), "--work_dir", str(tmp_path / "work")]
    start = [*flags(tmp_path), *places, "--cpu_seconds", "0.2", "--systems", *SYSTEMS[:2]]
    assert (
        attention_study.main(
            ["tune", "made", *start, "--learning_rates", "0.01", "0.1", "--warmups=0"]
        )
        == 0
    )
    tried = json.loads((tmp_path / "results" / "made-tune.json").read_text())["tried"]
    assert {line["steps"] for line in tried} == {2}
    assert len(tried) == 2 * 2
    measure = ["measure", "made", *start, "--beams", "1", "--seeds"]
    assert attention_study.main([*measure, "1"]) == 0
    monkeypatch.setattr(attention_study, "one_run", lambda *args: pytest.fail("it was done"))
    assert attention_study.main([*measure, "1"]) == 0
    text = (tmp_path / "results" / "made.json").read_text(encoding="utf-8")
    assert text.isascii(), "sentences do not belong into results"
    result = json.loads(text)
    assert [run["system"] for run in result["runs"]] == ["attention", "no attention"]
    assert result["comparisons"][0]["seeds"] == [1]
    best = max(
        (line for line in tried if line["system"] == "attention"),
        key=lambda line: line["validation_bleu"],
    )
    assert result["runs"][0]["learning_rate"] == best["learning_rate"]
    with pytest.raises(SystemExit, match="another budget"):
        attention_study.main([*measure, "1", "--cpu_seconds", "5"])
    with pytest.raises(SystemExit, match="another recipe"):
        attention_study.main([*measure, "1", "--hidden_size=40"])
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- made: begin -->\nold\n<!-- made: end -->\nb\n")
    monkeypatch.setattr(study_report, "PAGE", page)
    monkeypatch.setattr(study_report, "FIGURE", tmp_path / "figure.svg")
    study_report.render(tmp_path / "results")
    assert "old" not in page.read_text()
    assert page.read_text().endswith("<!-- made: end -->\nb\n")


def test_tuning_comes_first(tmp_path) -> None:
    with pytest.raises(SystemExit, match="run `tune` first"):
        attention_study.main(["measure", "made", *flags(tmp_path), "--results", str(tmp_path)])


# Tables


def made_result() -> dict[str, Any]:
    def run(system: str, seed: int, bleu: float) -> dict[str, Any]:
        scores = {"bleu": bleu, "chrf": 2 * bleu, "by_length": {"1": bleu + 1, "6": bleu - 1}}
        sizes = {"parameters": 2_000_000, "steps": 300, "epochs": 1.5}
        return {"system": system, "seed": seed, **sizes, "beams_1": scores}

    return {
        "name": "made",
        "runs": [run("attention", 1, 20), run("attention", 2, 24), run("no attention", 1, 10)],
        "length_counts": {
            "1": {"longest": 5, "sentences": 90},
            "6": {"longest": None, "sentences": 10},
        },
        "comparisons": [],
    }


def test_tables_show_mean_and_spread() -> None:
    result = made_result()
    scores = study_report.score_table(result)
    assert "| attention | 2.00 M | 300 | 1.5 | 2 | 22.0 (20.0 to 24.0) | 44.0 (40.0" in scores
    assert "| no attention | 2.00 M | 300 | 1.5 | 1 | 10.0 | 20.0 |" in scores
    lengths = study_report.length_table(result, 1)
    assert "| 1 to 5 | 90 | 23.0 | 11.0 | +12.0 |" in lengths
    assert "| 6 and more | 10 | 21.0 | 9.0 | +12.0 |" in lengths


def test_the_figure_leaves_small_groups_out(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    study_report.draw_by_length([made_result()], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">1-5<" in text
    assert ">6+<" not in text
    assert ">no attention<" in text


def test_the_page_is_made_of_the_results(tmp_path, monkeypatch) -> None:
    page = tmp_path / "study.md"
    page.write_text(study_report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    shown = study_report.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(study_report, "PAGE", page)
    monkeypatch.setattr(study_report, "FIGURE", tmp_path / "figure.svg")
    pytest.importorskip("matplotlib")
    study_report.render(attention_study.RESULTS)
    assert page.read_text(encoding="utf-8") == shown, (
        "run python -m experiments.attention_study render"
    )


def test_marks_are_needed(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        study_report.update_marks(page, {"made": "text"})
