"""Train a tokenizer on the training pairs and save it.

    python scripts/train_tokenizer.py [recipe.yaml] --output_dir DIR [flags]

Takes the recipes and the data flags of `scripts/train.py`, so both read and clean the same text;
`scripts/train.py --tokenizer_name DIR` then uses the result instead of training its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bahdanau_hf.data.preprocessing import load_pairs, pair_texts
from bahdanau_hf.data.tokenization import target_vocab_size, train_tokenizer
from bahdanau_hf.errors import InputError
from bahdanau_hf.training.arguments import parse_arguments

STREAM_PAIRS = 1_000_000  # of a stream, only so many pairs are read


def main(arguments: Sequence[str]) -> None:
    """Read, clean, train, save; print what came of it."""
    _, data, run = parse_arguments(arguments)
    splits, dropped = load_pairs(data)
    limit = STREAM_PAIRS if data.streaming else None
    sources, targets = pair_texts(splits["train"], data.source_lang, data.target_lang, limit)
    print(dropped["train"].table())
    tokenizer = train_tokenizer(
        sources,
        targets,
        kind=data.tokenizer_kind,
        vocab_size=data.vocab_size,
        min_frequency=data.min_frequency,
        lowercase=data.lowercase,
        source_lang=data.source_lang,
        target_lang=data.target_lang,
        model_max_length=data.max_source_length,
    )
    tokenizer.save_pretrained(run.output_dir)
    print(
        f"{len(tokenizer):,} tokens, {target_vocab_size(tokenizer):,} of them in the target part, "
        f"saved in {run.output_dir}"
    )
    for text in (sources[0], targets[0]):
        print(f"{text}  ->  {' '.join(map(repr, tokenizer.tokenize(text)))}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"train_tokenizer.py: {error}", file=sys.stderr)
        sys.exit(2)
