"""The card says what was measured and no more."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from bahdanau_hf import InputError
from bahdanau_hf.hub.model_card import write_model_card
from bahdanau_hf.metrics.translation import score_translations
from tests.helpers.finished_run import HYPOTHESES, SCORES, SETTINGS, save, text_of
from tests.helpers.tiny_checkpoint import PAIRS


def test_front_matter_is_what_the_hub_reads(run_folder: Path) -> None:
    data = ModelCard(text_of(run_folder)).data.to_dict()
    assert data["language"] == ["en", "zh"]
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "translation"
    assert data["metrics"] == ["bleu", "chrf"]
    assert "datasets" not in data  # the bundled pairs are not on the Hub
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "tea-model"
    found = {
        r.metric_type: (r.metric_value, r.metric_args["signature"], r.dataset_split)
        for r in results
    }
    assert found == {
        "bleu": (31.23, SCORES["bleu_signature"], "test"),
        "chrf": (25.5, SCORES["chrf_signature"], "test"),
    }


def test_card_states_what_the_run_recorded(run_folder: Path) -> None:
    text = text_of(run_folder)
    for stated in (
        "| test | 16 | 31.23 | 25.50 |",
        "Decoding: beam search with 4 beams.",
        SCORES["bleu_signature"],
        "| train | 3,456 |",
        "44 too long",
        "56,789 parameters",
        "| peak learning rate | 0.0017 |",
        "CC0-1.0",
        "](alignment.svg)",
        "24 tokens are cut",
        "bahdanau2015neural",
    ):
        assert stated in text, stated
    assert "hf_secret" not in text
    assert not re.search(r"{[{%]|[}%]}|\bNone\b|\bnan\b", text)


def test_the_kind_of_decoder_is_told(run_folder: Path) -> None:
    assert "a GRU\ndecoder of" in text_of(run_folder)
    config = json.loads((run_folder / "config.json").read_text(encoding="utf-8"))
    save(run_folder / "config.json", {**config, "conditional_gru": True})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert "a conditional GRU\ndecoder of" in text


def test_alignment_error_rate_stands_beside_what_knows_nothing(run_folder: Path) -> None:
    assert "AER" not in text_of(run_folder)
    rates = {"error_rate": 0.23456, "precision": 0.8, "recall": 0.7, "num_sentences": 150}
    none = {"uniform_error_rate": 0.875, "diagonal_error_rate": 0.6}
    save(run_folder / "eval_results.json", {"test": SCORES, "alignment": {**rates, **none}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert "on 150 held-out\npairs" in text
    table = (
        "| this model's attention | 23.5 |\n| the diagonal | 60.0 |\n| drawn at random | 87.5 |\n"
    )
    assert f"| links | AER, % |\n| --- | ---: |\n{table}" in text
    assert "\n\n\n" not in text
    # Half a measurement is none.
    save(run_folder / "eval_results.json", {"test": SCORES, "alignment": rates})
    assert "AER" not in write_model_card(run_folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("start", "said", "base"),
    [("alice/model", "alice/model", "alice/model"), ("/m/own", "own", None)],
)
def test_what_the_model_went_on_from_is_told(
    run_folder: Path, start: str, said: str, base: str | None
) -> None:
    assert "went on from" not in text_of(run_folder)
    save(run_folder / "settings.json", {**SETTINGS, "model": {"model_name_or_path": start}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert f"The training started from `{said}`, which was trained on other pairs" in text
    assert ModelCard(text).data.to_dict().get("base_model") == base
    assert "/m/" not in text


def test_confidence_and_scores_of_few_sentences_are_told(run_folder: Path) -> None:
    parts = {"words": {"ece": 0.01754, "counts": [1]}, "sentences": {"ece": 0.0088}, "x": 3}
    for number in (99, 100):
        scores = {**SCORES, "num_sentences": number}
        save(run_folder / "eval_results.json", {"test": scores, "confidence": parts})
        write_model_card(run_folder)
        text = text_of(run_folder)
        assert ("fewer than 100 sentences says little" in text) == (number == 99)
        assert "calibration error on validation: words 0.018, sentences 0.009." in text
    save(run_folder / "eval_results.json", {"test": scores})
    write_model_card(run_folder)
    assert "calibration" not in text_of(run_folder)


@pytest.mark.parametrize(
    ("license", "sentence"),
    [
        ("apache-2.0", "licensed under Apache-2.0, and so are the weights."),
        ("cc-by-4.0", "licensed under Apache-2.0, the weights under `cc-by-4.0`."),
    ],
)
def test_the_licences_are_one_sentence(run_folder: Path, license: str, sentence: str) -> None:
    write_model_card(run_folder, license=license)
    assert sentence in text_of(run_folder)


def test_scores_by_length_are_those_of_the_sentences(run_folder: Path) -> None:
    row = r"^\| (\d+)–(\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(row, text_of(run_folder), re.M)
    assert [(first, last) for first, last, *_ in rows] == [("1", "5"), ("6", "10"), ("11", "15")]
    for first, last, *shown in rows:
        group = [
            (hyp, zh)
            for (en, zh), hyp in zip(PAIRS, HYPOTHESES, strict=True)
            if int(first) <= len(en.split()) <= int(last)
        ]
        scores = score_translations(*zip(*group, strict=True), target_lang="zh")
        assert shown == [str(len(group)), f"{scores.bleu:.2f}", f"{scores.chrf:.2f}"]


def test_what_was_not_measured_is_absent(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    text = write_model_card(folder).read_text(encoding="utf-8")
    data = ModelCard(text).data.to_dict()
    assert not {"model-index", "metrics", "language", "datasets"} & set(data)
    assert "Not measured." in text
    body = text.split("## Limits")[0]
    body = re.sub(r"(?is)```.*?```|license: [\w.-]+|seq2seq|et al\. 2015", "", body)
    numbers = set(re.findall(r"\d+", body))
    assert numbers == {"1", "40"}  # layers and width, from config.json
    assert not re.search(r"{[{%]|\bNone\b|CC0|\]\(alignment", text)


@pytest.mark.parametrize(
    ("data", "stated", "datasets"),
    [
        ({"dataset_name": "Helsinki-NLP/opus-100", "dataset_config_name": "en-zh"},
         "`Helsinki-NLP/opus-100` (`en-zh`)", ["Helsinki-NLP/opus-100"]),
        ({"train_file": "/data/own/pairs.tsv.gz"}, "`pairs.tsv.gz`", None),
        ({"train_file": "/data/own/p.tsv", "dataset_license": "cc-by-2.0"},
         "`p.tsv`. Its licence, as stated for the run: `cc-by-2.0`.", None),
        ({"train_file": "/data/own/a.en,/data/own/a.zh"}, "`a.en, a.zh`", None),
        ({"train_file": "/data/p.tsv", "mix_file": "/data/q.tsv"}, "`p.tsv, q.tsv`", None),
        ({"mix_file": "/data/q.tsv"}, "`bahdanau_hf bundled pairs, q.tsv`", None),
        ({"dataset_name": "."}, "licence is not recorded", None),  # a folder that exists
    ],
)  # fmt: skip
def test_data_are_named_without_where_they_lay(
    run_folder: Path, data: dict[str, str], stated: str, datasets: list[str] | None
) -> None:
    save(run_folder / "settings.json", {**SETTINGS, "data": {**SETTINGS["data"], **data}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert stated in text
    assert "CC0" not in text
    assert "/data" not in text
    assert ModelCard(text).data.to_dict().get("datasets") == datasets


def test_validation_counts_where_no_test_was_run(run_folder: Path) -> None:
    save(run_folder / "eval_results.json", {"validation": {"bleu": 12.5, "chrf": None}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    [result] = model_index_to_eval_results(ModelCard(text).data.to_dict()["model-index"])[1]
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "bleu",
        12.5,
        "validation",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "marian"}', "type 'marian'"),
        ("config.json", None, "holds none"),
        ("settings.json", "{broken", "settings.json"),
        ("eval_results.json", "[1]", "eval_results.json"),
    ],
)
def test_bad_folders_are_refused_in_one_line(
    run_folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (run_folder / name).unlink()
    else:
        (run_folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_model_card(run_folder)
    assert "\n" not in str(caught.value)


def test_scores_by_novelty_stand_under_their_own_heading(run_folder: Path) -> None:
    head = "| Largest overlap of its words with a training sentence (Jaccard) | test sentences |"
    rows = text_of(run_folder).partition(head)[2].splitlines()[2:5]
    assert [row.split(" | ")[:2] for row in rows] == [*(["| 0–0.5", "14"], ["| 0.7+", "2"], [""])]
