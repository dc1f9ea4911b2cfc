"""Train a tokenizer on the training pairs and save it in `--output_dir`.

Takes the recipes and the data flags of `bahdanau-hf train`, so both read and clean the same text;
`bahdanau-hf train --tokenizer_name DIR` then uses the result instead of training its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments import parse_arguments

STREAM_PAIRS = 1_000_000  # of a stream, only so many pairs are read


def run(arguments: Sequence[str]) -> None:
    """Read, clean, train, save; print the number of tokens and two examples.

    Raises:
        InputError: flags or pairs that cannot be used.
    """
    _, data, training = parse_arguments(arguments, "bahdanau-hf train-tokenizer")

    from ..data.preprocessing import load_pairs, pair_texts
    from ..data.tokenization import target_vocab_size, train_tokenizer

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
    tokenizer.save_pretrained(training.output_dir)
    print(
        f"{len(tokenizer):,} tokens, {target_vocab_size(tokenizer):,} of them in the target part, "
        f"saved in {training.output_dir}"
    )
    for text in (sources[0], targets[0]):
        print(f"{text}  ->  {' '.join(map(repr, tokenizer.tokenize(text)))}")
