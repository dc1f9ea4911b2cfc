"""How much BLEU can be had where references are partly Traditional, partly Simplified?

    python -m benchmarks.script_choice RUN --data FOLDER

RUN is of scripts/train.py with --chinese_script simplified on FOLDER's pairs; its translations of
the test split are scored against references whose scripts are as they are: all left Simplified,
all turned to Traditional, each in the script of its reference (which no system can know), and each
in the script that is likelier for its English sentence, by a logistic regression on words, pairs of
words and pieces of four characters that was fitted to the training pairs. Leaves numbers in
benchmarks/results/quality/script_choice.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bahdanau_hf.data.preprocessing import script_converter
from bahdanau_hf.data.readers import open_pairs
from bahdanau_hf.metrics.translation import score_translations

from .machine import command_line, describe_machine
from .quality import RESULTS, split_file

SPLITS = ("train", "validation", "test")
BUCKETS = 2**18
EPOCHS = 1  # further ones learn the training pairs by heart
BATCH_SIZE = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Score and keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.script_choice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run that has test_predictions.tsv")
    parser.add_argument("--data", type=Path, required=True, help="folder of the three splits")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = (args.run / "test_predictions.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    sources, _, hypotheses = zip(*(line.split("\t")[:3] for line in lines), strict=True)
    pairs = {
        split: [*open_pairs(str(split_file(args.data, split)), "en", "zh")] for split in SPLITS
    }
    if [source for source, _ in pairs["test"]] != [*sources]:
        parser.error(f"{args.run} did not translate the test split of {args.data} whole, in order")
    result = measure(sources, hypotheses, pairs)
    result["machine"] = describe_machine() | {"command": command_line("benchmarks.script_choice")}
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / "script_choice.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


def measure(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    pairs: dict[str, list[tuple[str, str]]],
) -> dict[str, Any]:
    """BLEU by the choice of script, and how well the choice can be foretold.

    Args:
        sources: of the test split.
        hypotheses: their translations, Simplified.
        pairs: of every split, scripts as they are.
    """
    to_simplified, to_traditional = script_converter("simplified"), script_converter("traditional")
    references = [target for _, target in pairs["test"]]
    scripts = [script(text) for text in references]
    traditional = [to_traditional(text) for text in hypotheses]
    foretell = fit_script(pairs["train"])
    foretold = foretell(sources)

    def bleu(choices: Iterable[bool]) -> float:
        chosen = zip(choices, traditional, hypotheses, strict=True)
        return round(score_translations([a if c else b for c, a, b in chosen], references).bleu, 2)

    certain = [(s, t) for s, t in pairs["validation"] if is_certain(t)]
    right = [
        guess == (script(target) == "traditional")
        for guess, (_, target) in zip(foretell([s for s, _ in certain]), certain, strict=True)
    ]
    simplified = [to_simplified(text) for text in references]
    return {
        "references": {kind: scripts.count(kind) for kind in sorted(set(scripts))},
        "simplified_references": round(score_translations(hypotheses, simplified).bleu, 2),
        "all_simplified": bleu([False] * len(references)),
        "all_traditional": bleu([True] * len(references)),
        "as_the_reference": bleu(kind == "traditional" for kind in scripts),
        "foretold": bleu(foretold),
        "foretold_right": round(sum(right) / len(right), 4),
    }


@functools.cache
def script(text: str) -> str:
    """`simplified`, `traditional`, `both` (characters that are the same in both), or `mixed`."""
    was_traditional = script_converter("simplified")(text) != text
    was_simplified = script_converter("traditional")(text) != text
    if was_traditional and was_simplified:
        return "mixed"
    return "traditional" if was_traditional else "simplified" if was_simplified else "both"


def features(text: str) -> Tensor:
    """Numbers of a sentence's words, pairs of words and pieces of four characters."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    names = {*words, *map(" ".join, zip(["^", *words], [*words, "$"], strict=True))}
    names |= {f"#{text[i : i + 4]}" for i in range(len(text) - 3)}
    return torch.tensor([zlib.crc32(name.encode()) % BUCKETS for name in sorted(names)])


def fit_script(pairs: Sequence[tuple[str, str]]) -> Callable[[Sequence[str]], list[bool]]:
    """What says of English sentences whether Traditional is the likelier script."""
    known = [(features(s), float(script(t) == "traditional")) for s, t in pairs if is_certain(t)]
    torch.manual_seed(0)
    weights = nn.EmbeddingBag(BUCKETS, 1, mode="sum")
    nn.init.zeros_(weights.weight)
    optimizer = torch.optim.AdamW(weights.parameters(), lr=0.005, weight_decay=0.1)

    def score(rows: Sequence[Tensor]) -> Tensor:
        starts = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
        return weights(torch.cat([*rows]), starts)[:, 0]

    for _ in range(EPOCHS):
        order = torch.randperm(len(known)).split(BATCH_SIZE)
        for places in order:
            rows, answers = zip(*(known[i] for i in places), strict=True)
            loss = F.binary_cross_entropy_with_logits(score(rows), torch.tensor(answers))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return lambda texts: (score([features(text) for text in texts]) > 0).tolist()


def is_certain(text: str) -> bool:
    """Whether a text's script is one of the two."""
    return script(text) in ("traditional", "simplified")


if __name__ == "__main__":
    raise SystemExit(main())
