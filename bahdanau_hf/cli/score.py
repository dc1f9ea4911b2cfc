"""Score a model on a file of pairs, or predictions against references, and print JSON."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import checked_encoding, text_lines
from .options import MODEL, TRANSLATING, load_translator, print_json, search_options

if TYPE_CHECKING:
    from ..data.columns import Told
    from ..data.preprocessing import DroppedPairs
    from ..data.sources import AnyDataset
    from ..inference.translator import Translator


FLAGS = {
    **MODEL,
    **TRANSLATING,
    "--test_file FILE": "files of pairs: a.tsv,b.jsonl.gz or part*.tmx; or two aligned text files: "
    "a.en,a.zh",
    "--train_file FILE": "what the model was trained on, files as in --test_file: adds scores by "
    "novelty, the largest word overlap of a test sentence with a training sentence",
    **{
        f"--{side}_column NAME": f"name or number of the {side}'s column in the test file; "
        "default: found by header, names, script"
        for side in ("source", "target")
    },
    "--source_lang CODE": "default: the model's, or en",
    "--target_lang CODE": "default: the model's, or zh",
    "--target_kind {word,char}": "with --predictions: compare by words between spaces, or by "
    "characters, and add error rates; of a model it is known",
    "--chinese_script {keep,simplified,traditional}=keep": "convert the Chinese of the test file "
    "to one script (extra [zh])",
    "--unescape_html": "replace HTML entities of the test file, such as &amp;, by their characters",
    "--skip_bad_rows": "leave out rows that cannot be read, and name the first ones",
    "--predictions FILE": "translations, one per line; -: stdin",
    "--references FILE ...": "one or more files of references, one per line",
    "--sources FILE": "with --predictions: source sentences, one per line; adds scores by length",
    "--alignments": "with --model: alignment error rate of its attention on the 150 bundled "
    "hand-made alignments (English and Chinese, either direction)",
    "--backward_model DIR": "with --alignments: a model of the other direction; scores only links "
    "of both models",
    "--compare FILE": "another system's translations of the same sentences, one per line; adds a "
    "paired bootstrap significance test",
}


def run(args: argparse.Namespace) -> None:
    """Score what the flags name and print the result."""
    checked_encoding(args.encoding)
    given = [*_given(args, "model", "test_file", "predictions", "references")]
    if args.backward_model is not None and not args.alignments:
        raise InputError("--backward_model goes with --alignments")
    if args.ensemble and (args.alignments or args.model is None):
        raise InputError("--ensemble goes with --model and --test_file: several translate together")
    if args.alignments:
        if given != ["model"]:
            raise InputError(
                "--alignments goes with --model alone: its pairs come with the package"
            )
        result = _score_alignments(args)
    elif given == ["model", "test_file"]:
        result = _score_model(args)
    elif given in (["predictions"], ["predictions", "references"]):
        result = _score_files(args)
    else:
        raise InputError(
            "give --model and --test_file, or --predictions and --references: one of the two"
        )
    print_json(result)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those flags of these names that were given, in this order."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _score_alignments(args: argparse.Namespace) -> dict[str, Any]:
    translator, backward = load_translator(args), None
    if args.backward_model is not None:
        other = argparse.Namespace(**{**vars(args), "model": args.backward_model, "revision": None})
        backward = load_translator(other)

    from ..inference.alignment_error import alignment_quality

    return {**alignment_quality(translator, backward), **_given(args, "model", "backward_model")}


def _score_model(args: argparse.Namespace) -> dict[str, Any]:
    if args.sources is not None:
        raise InputError("--sources goes with --predictions: a test file has its own")
    if args.target_kind is not None:
        raise InputError("--target_kind goes with --predictions: the model has its own")
    other = None if args.compare is None else [*text_lines(args.compare, args.encoding)]
    options = search_options(args)
    translator = load_translator(args)
    source_lang, target_lang = languages = (
        _language(translator, args, "source_lang"),
        _language(translator, args, "target_lang"),
    )

    from ..data.columns import NoColumns, lines_on_sides
    from ..data.sources import pair_texts
    from ..data.tokenization import side_kinds

    told: list[Told] = []
    try:
        pairs, dropped = _read_pairs(args, args.test_file, *languages, told)
    except NoColumns as error:
        if translator.tokenizer.init_kwargs.get("target_lang") is None:
            raise
        raise InputError(
            f"{error.fact}. The model translates {source_lang} to {target_lang}: give a file of "
            "these two, or say which columns by --source_column and --target_column"
        ) from None
    sources, targets = pair_texts(pairs, *languages)
    references = [[target] for target in targets]
    if other is not None and len(other) != len(sources):
        raise InputError(
            f"{args.compare} has {len(other)} lines, but {len(sources)} pairs of {args.test_file} "
            "are scored: it must have a line for each"
        )
    start = time.perf_counter()
    translations = list(translator.stream(sources, **options))
    seconds = time.perf_counter() - start
    texts = [translation.text for translation in translations]
    target_kind = side_kinds(translator.tokenizer)[1]
    target: dict[str, Any] = {"target_lang": target_lang, "target_kind": target_kind}
    facts = {
        "model": args.model,
        **({"ensemble": args.ensemble} if args.ensemble else {}),
        **_given(args, "glossary"),
        "test_file": args.test_file,
        "sides": lines_on_sides(told),
        "source_lang": source_lang,
        "target_lang": target_lang,
        "chinese_script": args.chinese_script,
        "num_beams": args.num_beams or translator.model.generation_config.num_beams or 1,
        **({} if args.dtype is None else {"dtype": translator.dtype}),
        "num_empty_pairs_left_out": dropped.counts["empty"],
        **({"num_bad_rows_left_out": dropped.counts["bad rows"]} if args.skip_bad_rows else {}),
        "num_truncated": sum(t.truncated for t in translations),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(sources) / seconds, 1),
    }
    return _scores(args, facts, sources, texts, other, references, source_lang, target)


def _read_pairs(
    args: argparse.Namespace, files: str, source_lang: str, target_lang: str, told: list[Told]
) -> tuple[AnyDataset, DroppedPairs]:
    """The pairs of files, cleaned, and what cleaning has left out; `told` grows by the files'."""
    import datasets

    from ..data.preprocessing import clean_pairs
    from ..data.sources import file_pairs

    datasets.disable_progress_bars()
    names = ("source_column", "target_column", "encoding", "skip_bad_rows")
    reading = {name: getattr(args, name) for name in names}
    read = file_pairs(files, source_lang, target_lang, told=told, **reading)
    return clean_pairs(
        read,
        source_lang=source_lang,
        target_lang=target_lang,
        unescape_html=args.unescape_html,
        chinese_script=args.chinese_script,
        training=False,
    )


def _language(translator: Translator, args: argparse.Namespace, side: str) -> str:
    """The language code asked for, or else the one the model was trained for."""
    from ..languages import base_language

    trained = translator.tokenizer.init_kwargs.get(side)
    given = getattr(args, side)
    if given and trained and base_language(given) != base_language(trained):
        raise InputError(f"--{side} {given}: the model was trained for {side} {trained}")
    return str(given or trained or {"source_lang": "en", "target_lang": "zh"}[side])


def _score_files(args: argparse.Namespace) -> dict[str, Any]:
    if not args.references:
        raise InputError("--predictions needs --references")
    if args.train_file is not None and args.sources is None:
        raise InputError("--train_file needs the --sources, which it is compared with")
    if args.chinese_script != "keep":
        raise InputError("--chinese_script goes with --test_file: files are scored as they are")
    names = [args.predictions, *args.references, args.sources, args.compare]
    if names.count("-") > 1:
        raise InputError("only one of the files can be standard input")
    columns = {name: [*text_lines(name, args.encoding)] for name in names if name is not None}
    predictions = columns[args.predictions]
    for name, column in columns.items():
        if len(column) != len(predictions):
            raise InputError(
                f"{args.predictions} has {len(predictions)} lines and {name} has {len(column)}: "
                "they must be aligned"
            )
    source_lang, target_lang = args.source_lang or "en", args.target_lang or "zh"
    target: dict[str, Any] = {"target_lang": target_lang, "target_kind": args.target_kind}
    references = [list(row) for row in zip(*(columns[n] for n in args.references), strict=True)]
    facts = {**_given(args, "predictions", "references", "sources"), "target_lang": target_lang}
    sources, other = columns.get(args.sources), columns.get(args.compare)
    return _scores(args, facts, sources, predictions, other, references, source_lang, target)


def _scores(
    args: argparse.Namespace,
    facts: dict[str, Any],
    sources: Sequence[str] | None,
    predictions: Sequence[str],
    other: Sequence[str] | None,
    references: Sequence[Sequence[str]],
    source_lang: str,
    target: dict[str, Any],
) -> dict[str, Any]:
    """Scores of all sentences and, where the sources are known, of groups of them; then the facts.

    Last stands the paired bootstrap against another system's translations, if there are any.
    """
    from ..data.sources import pair_texts
    from ..metrics.analysis import compare_systems, score_groups
    from ..metrics.translation import few_sentences, score_translations

    scores = score_translations(predictions, references, **target)
    note = few_sentences(scores.num_sentences)
    result = {**({"note": note} if note else {}), **scores.as_dict()}
    if sources is not None:
        trained_on = None
        if args.train_file is not None:
            pairs, _ = _read_pairs(args, args.train_file, source_lang, target["target_lang"], [])
            trained_on, _ = pair_texts(pairs, source_lang, target["target_lang"])
        groups = score_groups(
            sources, predictions, references, trained_on, source_lang=source_lang, **target
        )
        result |= {**groups, **_given(args, "train_file")}
    result |= facts
    if other is not None:
        compared = compare_systems(predictions, other, references, **target)
        metrics = {name: comparison.as_dict() for name, comparison in compared.items()}
        result["comparison"] = {"baseline": args.compare, **metrics}
    return result
