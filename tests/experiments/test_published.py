"""The tables of published numbers, and one of the tasks run whole on words made up here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from experiments import published


def result(task: str, language: str, scores: dict[str, tuple[list[float], list[float]]]) -> dict:
    measure = published.TASKS[task].measure
    return {
        "task": task,
        "language": language,
        "machine": {"command": "c", "date": "d", "commit": "e", "processor": "f"},
        "seeds": [1, 2],
        "parameters": 1_500_000,
        "cpu_seconds": [60, 90],
        "scores": {
            split: {
                "seeds": [{measure: value} for value in seeds],
                "ensemble": [{measure: value} for value in ensemble],
            }
            for split, (seeds, ensemble) in scores.items()
        },
    }


def test_the_macro_average_is_over_languages_and_only_of_all() -> None:
    languages = list(published.TASKS["pronunciation"].languages)
    results = [
        result("pronunciation", language, {"test": ([i, i + 2], [i - 1])})
        for i, language in enumerate(languages, start=1)
    ]
    table = published.pronunciation_table(results)
    assert "| ady | 28.00 | 2.00 ± 1.41 | 0.00 | 1.2 |" in table
    # 1 to 15 have the mean 8: of the seeds one more, of all together one less.
    assert "| **macro average** | **16.84** | **9.00** | **7.00** | 1.2 |" in table
    assert "seed 1, 2, 1.5 M parameters, 1.0 to 1.5 CPU minutes a training" in table
    assert "macro" not in published.pronunciation_table(results[1:])
    for found in results:
        found["scores"]["test"]["ensemble"] = []
    table = published.pronunciation_table(results)
    assert "| **macro average** | **16.84** | **9.00** | – | 1.2 |" in table


def test_the_published_mean_of_the_languages_is_the_published_macro_average() -> None:
    rates = [tests["test"][0] for tests in published.TASKS["pronunciation"].languages.values()]
    assert sum(rates) / len(rates) == pytest.approx(published.LSTM_MACRO, abs=0.005)


def test_multi30k_stands_beside_the_published_cells() -> None:
    split = "test_2016_flickr"
    results = {
        "multi30k": [result("multi30k", "de", {split: ([39.0, 40.0], [41.25])})],
        "multi30k-raw": [],
        "multi30k-marian": [result("multi30k-marian", "de", {split: ([35.0], [])})],
    }
    table = published.multi30k_table(results)
    ours = "| en→de | test 2016 flickr | 38.1 | 39.5 ± 0.7 | 40.7 | 41.2 | 35.0 | – |"
    assert ours in table


def test_from_german_stands_beside_the_tutorial() -> None:
    scores = {"test_2016_flickr": ([38.0], []), "test_2017_flickr": ([33.0], [])}
    table = published.to_english_table([result("multi30k-to-english", "en", scores)])
    assert "| de→en | test 2016 flickr | 29 | 38.0 |" in table
    assert "| de→en | test 2017 flickr | – | 33.0 |" in table
    assert published.to_english_table([]) == "Not measured."


def test_sides_are_found_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "test.tok.tsv.gz"
    path.write_bytes(gzip.compress(b"de\tfr\ten\nein hund\tun chien\ta dog\n"))
    assert published.read_sides(path, "en", "fr") == (["a dog"], ["un chien"])
    assert published.read_sides(path, "de", "en") == (["ein hund"], ["a dog"])


def test_words_are_counted_as_they_are_divided() -> None:
    lines = ["a man rides a bike ."]
    assert published.bleu(lines, ["a man rides a bike."], "13a") == pytest.approx(100)
    assert published.bleu(lines, ["a man rides a bike."], "none") < 100


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert published.load(tmp_path, "multi30k") == []
    assert "Not measured." in published.multi30k_table({name: [] for name in published.TASKS})


@pytest.mark.slow
def test_a_language_is_trained_and_scored(tmp_path: Path) -> None:
    words = [a + b + c for a in "abcde" for b in "aeiou" for c in "klmn"]
    for split, members in (("train", words), ("validation", words[::9]), ("test", words[::7])):
        rows = [f"{word}\t{' '.join(word.upper())}" for word in members]
        text = "\n".join(["graphemes\tphones", *rows]) + "\n"
        (tmp_path / f"ady.{split}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    flags = ["--data", str(tmp_path), "--output_dir", str(tmp_path / "runs")]
    flags += ["--languages", "ady", "--seeds", "1", "2", "--results", str(tmp_path / "results")]
    assert published.main(["run", "pronunciation", *flags]) == 0
    found = json.loads((tmp_path / "results" / "pronunciation-ady.json").read_text())
    assert found["scores"]["test"]["ensemble"][0]["error_rate"] == 0
    assert len(found["scores"]["test"]["seeds"]) == len(found["cpu_seconds"]) == 2
