"""The files of a run that a report is made of."""

import json
from pathlib import Path
from typing import Any

SCORES = {
    "bleu": 31.256,
    "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0",
    "chrf": 28.5,
    "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "num_sentences": 1234,
    "precisions": [61.23456, 40.0, 25.5, 15.25],
}
TRAIN_LINES = [
    {"step": 10 * i, "epoch": i / 5, "loss": 6.0 / i, "learning_rate": 0.001, "grad_norm": 1.5}
    for i in range(1, 11)
]
EVAL_LINES = [
    {"step": 50, "epoch": 1.0, "eval_loss": 3.0, "eval_bleu": 12.5, "eval_chrf": 10.0},
    {"step": 100, "epoch": 2.0, "eval_loss": 2.5, "eval_bleu": 11.5, "eval_chrf": 14.0},
]
ROWS = [
    ("Call us.", "联系我们。", "联系我们。", "100.00"),
    ("Go away!", "走开！", "走！", "40.00"),
    ("Who is he?", "他是谁？", "", "0.00"),
]


def write_run(
    folder: Path,
    *,
    metrics: Any = None,
    results: Any = None,
    rows: Any = None,
    alignments: Any = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {
        "model": {"hidden_size": 256, "use_attention": True, "attention_hidden_size": None},
        "data": {"source_lang": "en", "target_lang": "zh", "train_file": "pairs.tsv"},
        "train": {"learning_rate": 0.001, "hub_token": "hf_verysecret"},
        "versions": {"torch": "2.13.0"},
        "num_parameters": 9_412_608,
        "num_pairs": {"train": 29_871, "validation": 1_000, "test": 1_000},
        "dropped": {"empty": 3, "too long": 17},
    }
    results = results or {"test": SCORES, "train_runtime_seconds": 1093.2, "best_step": 50}
    alignments = alignments or [
        {"source_tokens": ["Call", "us"], "target_tokens": ["联"], "weights": [[0.75, 0.25]]}
    ]
    lines = metrics if metrics is not None else [*TRAIN_LINES, *EVAL_LINES]
    table = [("source", "reference", "hypothesis", "sentence_bleu"), *(rows or ROWS)]
    texts = {
        "settings.json": json.dumps(settings),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "eval_results.json": json.dumps(results),
        "test_predictions.tsv": "".join("\t".join(row) + "\n" for row in table),
        "alignments.json": json.dumps(alignments),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
