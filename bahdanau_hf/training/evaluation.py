"""Measures a model in training: validation, and the translated and scored test split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import get_mixed_precision_context_manager
from transformers import PreTrainedModel

from ..checkpoints.run_folder import write_json, write_whole
from ..data.batching import IGNORED_LABEL, PairTable
from ..data.preprocessing import pair_lengths
from ..distributed import gather_lists, on_main_process, sum_over_processes
from ..inference.translator import Translation
from ..metrics.translation import TranslationScores, score_translations, sentence_scores
from ..reporting.attention_plot import save_alignment
from .pairs import fixed_lengths

if TYPE_CHECKING:
    from .run import Run

NUM_ALIGNMENTS = 12


@dataclass
class ScoredSplit:
    """A held-out split with its translations and their scores; lists of one length."""

    sources: list[str]
    references: list[str]
    hypotheses: list[str]
    scores: TranslationScores


@contextmanager
def precision_of_training(accelerator: Accelerator, model: PreTrainedModel) -> Iterator[None]:
    """Let the unwrapped model compute as it does in training, whichever way it is called.

    For mixed precision accelerate puts a `forward` of its own on the very model: only what passes
    through it has that precision, of `generate` not the encoder, and not the searches that take
    their steps themselves. So it is taken off meanwhile, and the precision holds for everything.
    """
    wrapper = model.__dict__.pop("forward", None)
    amp, handler = accelerator.native_amp, accelerator.autocast_handler
    try:
        # With accelerate 1.10 accelerator.autocast() is not left after an error.
        with get_mixed_precision_context_manager(amp, handler):
            yield
    finally:
        if wrapper is not None:
            model.__dict__["forward"] = wrapper


def measure(run: Run) -> dict[str, float]:
    """Loss, BLEU and chrF on validation."""
    train = run.settings.train
    loss, limit = validation_loss(run), train.max_eval_translations
    search = {"num_beams": train.eval_num_beams or 1, "max_new_tokens": length_limit(run)}
    scores = score_split(run, "validation", limit, **search).scores
    return {"eval_loss": loss, "eval_bleu": scores.bleu, "eval_chrf": scores.chrf}


def length_limit(run: Run) -> int:
    """Tokens of a translation: a model that has not yet learnt to end would write on and on."""
    longest = int(pair_lengths(run.pairs.encoded["validation"])[1].max())
    return min(run.settings.data.max_target_length, longest + longest // 2)


@torch.inference_mode()
def validation_loss(run: Run) -> float:
    """Mean cross-entropy of a target token, in nats, without smoothing; each pair counts once.

    The processes share the batches out; the mode of the model is left as it was.
    """
    model, accelerator = run.bare_model, run.accelerator
    table = PairTable(run.pairs.encoded["validation"], fixed_lengths(run.settings.data))
    batch_size = run.settings.train.per_device_eval_batch_size
    was_training = model.training
    model.eval()
    losses, num_tokens = [torch.zeros((), device=accelerator.device)], 0
    # Longest first: what does not fit into memory fails at once.
    order = np.lexsort(table.lengths)[::-1]
    starts = range(0, len(order), batch_size)
    with precision_of_training(accelerator, model):
        for start in starts[accelerator.process_index :: accelerator.num_processes]:
            batch = table[order[start : start + batch_size]]
            num_tokens += int((batch["labels"] != IGNORED_LABEL).sum())
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            losses.append(model(**batch, skip_logits=True, num_items_in_batch=1).loss)
    model.train(was_training)
    own_sum = sum(torch.stack(losses).tolist())  # a GPU is waited for once
    loss_sum, all_tokens = sum_over_processes(accelerator, [own_sum, num_tokens])
    return loss_sum / all_tokens


def score_split(run: Run, split: str, limit: int | None = None, **search: Any) -> ScoredSplit:
    """Translate a split with all processes, in the precision of training, and score it.

    Of `validation` or `test` all sentences, or the first `limit`; `search` is for
    `Translator.translate`. The model's mode is left as it was. Every process gets the same.
    """
    sources, references = run.texts(split, limit)
    accelerator = run.accelerator
    # The processes share the sentences out by length.
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    with precision_of_training(accelerator, run.bare_model):
        translations = run.translator.translate([sources[i] for i in mine], **search)
    pairs = [(i, t.text) for i, t in zip(mine, translations, strict=True)]
    hypotheses = [text for _, text in sorted(gather_lists(accelerator, pairs))]
    # In one place, so that all processes decide by the same number.
    scores = on_main_process(
        accelerator, lambda: score_translations(hypotheses, references, **run.target)
    )
    return ScoredSplit(sources, references, hypotheses, scores)


def write_test_results(run: Run, test: ScoredSplit) -> None:
    """Write `test_predictions.tsv`: source, reference, hypothesis and sentence BLEU of each."""
    scores = sentence_scores(test.hypotheses, test.references, **run.target)
    lines = ["source\treference\thypothesis\tsentence_bleu"]
    for *texts, score in zip(test.sources, test.references, test.hypotheses, scores, strict=True):
        cells = [re.sub("[\t\n\r]", " ", text) for text in texts]
        lines.append("\t".join([*cells, f"{score:.2f}"]))
    write_whole(run.output_dir / "test_predictions.tsv", "\n".join(lines) + "\n")


def translate_some(run: Run, sources: list[str], number: int, **options: Any) -> list[Translation]:
    """Translate, with alignments, up to `number` sentences spread evenly; always the same ones.

    A model without attention gives none. The options are those of `Translator.translate`.
    """
    if not run.bare_model.config.use_attention or not sources:
        return []
    places = {round(i * (len(sources) - 1) / max(1, number - 1)) for i in range(number)}
    with precision_of_training(run.accelerator, run.bare_model):
        return run.translator.translate(
            [sources[i] for i in sorted(places)], return_alignments=True, **options
        )


def write_alignments(run: Run, folder: Path, sources: list[str], references: list[str]) -> None:
    """Write `alignments.json` of some sentences of a split, between words, with the references.

    The map of one of them is drawn as `alignment.svg` and, where the extra [plot] is installed, as
    `alignment.png`. Without attention nothing is written.
    """
    translations = translate_some(run, sources, NUM_ALIGNMENTS)
    alignments = [t.alignment.by_words() for t in translations if t.alignment is not None]
    if not alignments:
        return
    expected = dict(zip(sources, references, strict=True))
    entries = [{**a.as_dict(), "reference": expected[a.source]} for a in alignments]
    write_json(folder / "alignments.json", entries)
    # One that fills a page well: of middling length.
    by_length = sorted(alignments, key=lambda a: len(a.source_tokens) + len(a.target_tokens))
    shown = by_length[len(by_length) // 2]
    save_alignment(shown, folder / "alignment.svg")
    try:
        import matplotlib  # noqa: F401
    except (ImportError, ValueError):  # MPLBACKEND names what only a notebook's environment has
        return
    save_alignment(shown, folder / "alignment.png")
