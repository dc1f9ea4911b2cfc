"""Train a tokenizer on the training pairs and save it in `--output_dir`.

Takes the recipes and the data flags of `bahdanau-hf train`, so both read and clean the same text;
`bahdanau-hf train --tokenizer_name DIR` then uses the result instead of training its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import InputError
from ..training.arguments import parse_arguments

STREAM_PAIRS = 1_000_000  # of a stream, only so many pairs are read


def run(arguments: Sequence[str]) -> None:
    """Read, clean, train, save; print the number of tokens and two examples."""
    settings = parse_arguments(arguments, "bahdanau-hf train-tokenizer")
    for name in sorted(settings.data.by_flag - {"output_dir"}):
        if not hasattr(settings.data, name):
            raise InputError(f"train-tokenizer trains no model: leave out --{name}")

    from ..data.sources import pair_texts
    from ..data.tokenization import target_vocab_size
    from ..training.pairs import RunPairs
    from ..training.setup import new_tokenizer

    logging.getLogger("bahdanau_hf").setLevel(logging.INFO)  # how the sides were told apart
    data, output_dir = settings.data, settings.train.output_dir
    pairs = RunPairs.load(data)
    limit = STREAM_PAIRS if data.streaming else None
    languages = (data.source_lang, data.target_lang)
    sources, targets = pair_texts(pairs.texts["train"], *languages, limit)
    print(pairs.dropped_table())
    print(pairs.sizes())
    tokenizer = new_tokenizer(data, sources, targets)
    tokenizer.save_pretrained(output_dir)
    print(
        f"{len(tokenizer):,} tokens, {target_vocab_size(tokenizer):,} of them in the target part, "
        f"saved in {output_dir}"
    )
    for text in (sources[0], targets[0]):
        print(f"{text}  ->  {' '.join(map(repr, tokenizer.tokenize(text)))}")
