"""Measures a model in training: validation, and the translated and scored test split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import get_mixed_precision_context_manager
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..alignment.record import Alignment
from ..checkpoints.run_folder import write_json, write_whole
from ..data.batching import IGNORED_LABEL, PairCollator
from ..data.preprocessing import pair_lengths
from ..distributed import gather_lists, on_main_process, sum_over_processes
from ..inference.translator import Translation, Translator
from ..metrics.translation import TranslationScores, score_translations, sentence_scores
from ..reporting.attention_plot import save_alignment

NUM_ALIGNMENTS = 12
_TABLE_BREAKS = str.maketrans("\t\n\r", "   ")


@contextmanager
def precision_of_training(accelerator: Accelerator, model: PreTrainedModel) -> Iterator[None]:
    """Let the unwrapped model compute as it does in training, whichever way it is called.

    For mixed precision accelerate puts a `forward` of its own on the very model, and unwrapping
    leaves it there. Only what passes through it is computed in that precision: of `generate` not
    the encoder, and not the searches that take their steps themselves, which besides want a model
    as it was built. So it is taken off meanwhile, and the precision holds for everything.

    Args:
        accelerator: the run's.
        model: unwrapped; as it was afterwards.
    """
    wrapper = model.__dict__.pop("forward", None)
    try:
        # With accelerate 1.10 accelerator.autocast() is not left after an error.
        with get_mixed_precision_context_manager(
            accelerator.native_amp, accelerator.autocast_handler
        ):
            yield
    finally:
        if wrapper is not None:
            model.__dict__["forward"] = wrapper


@torch.inference_mode()
def validation_loss(
    model: PreTrainedModel,
    encoded: Dataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    collator: PairCollator,
) -> float:
    """Mean cross-entropy of a target token, in nats, without smoothing; each pair counts once.

    Args:
        model: unwrapped; its mode is left as it was.
        encoded: `input_ids`, `attention_mask`, `labels`.
        accelerator: the run's; the processes share the batches out.
        batch_size: pairs in a batch.
        collator: pads a batch.
    """
    was_training = model.training
    model.eval()
    loss_sum, num_tokens = 0.0, 0.0
    source_lengths, target_lengths = pair_lengths(encoded)
    # Longest first: what does not fit into memory fails at once.
    order = np.lexsort((source_lengths, target_lengths))[::-1]
    starts = range(0, len(order), batch_size)
    for start in starts[accelerator.process_index :: accelerator.num_processes]:
        batch = collator(encoded.__getitems__(order[start : start + batch_size].tolist()))
        num_tokens += float((batch["labels"] != IGNORED_LABEL).sum())
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        loss_sum += float(model(**batch, skip_logits=True, num_items_in_batch=1).loss)
    model.train(was_training)
    loss_sum, num_tokens = sum_over_processes(accelerator, [loss_sum, num_tokens])
    return loss_sum / num_tokens


def translate_on_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_beams: int,
    max_new_tokens: int | None = None,
) -> list[str]:
    """Translate with every process at once.

    Args:
        model: unwrapped; its mode is left as it was.
        tokenizer: the model's.
        texts: sentences; the processes share them out by length.
        accelerator: the run's.
        batch_size: sentences in a batch.
        num_beams: beams of the search; 1: greedy.
        max_new_tokens: stop after so many; default: the model's `generation_config`.

    Returns:
        The translations, in the order of the texts, on every process.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    translator = Translator(model, tokenizer, batch_size=batch_size)
    translations = translator.translate(
        [texts[i] for i in mine], num_beams=num_beams, max_new_tokens=max_new_tokens
    )
    pairs = [(i, t.text) for i, t in zip(mine, translations, strict=True)]
    return [text for _, text in sorted(gather_lists(accelerator, pairs))]


def score_on_main(
    accelerator: Accelerator, hypotheses: list[str], references: list[str], target_lang: str
) -> TranslationScores:
    """Score translations in one place, so that all processes decide by the same number."""
    return on_main_process(
        accelerator, lambda: score_translations(hypotheses, references, target_lang=target_lang)
    )


def write_test_results(
    output_dir: Path,
    sources: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    target_lang: str,
) -> None:
    """Write `test_predictions.tsv`: source, reference, hypothesis and sentence BLEU of each."""
    scores = sentence_scores(hypotheses, references, target_lang)
    lines = ["source\treference\thypothesis\tsentence_bleu"]
    for *texts, score in zip(sources, references, hypotheses, scores, strict=True):
        cells = [text.translate(_TABLE_BREAKS) for text in texts]
        lines.append("\t".join([*cells, f"{score:.2f}"]))
    write_whole(output_dir / "test_predictions.tsv", "\n".join(lines) + "\n")


def translate_some(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[str],
    number: int,
    **options: Any,
) -> list[Translation]:
    """Translate, with alignments, sentences spread evenly over a split; always the same ones.

    Args:
        model: its mode is left as it was; of one without attention nothing comes.
        tokenizer: the model's.
        sources: the split.
        number: how many, at most.
        **options: as those of `Translator.translate`.
    """
    if not model.config.use_attention or not sources:
        return []
    chosen = [sources[i] for i in _evenly(len(sources), number)]
    return Translator(model, tokenizer).translate(chosen, return_alignments=True, **options)


def write_alignments(
    output_dir: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[str],
) -> list[Alignment]:
    """Draw where the model looks in some sentences of a split.

    Writes `alignments.json`, and the map of one of them as `alignment.svg` and, where the extra
    [plot] is installed, as `alignment.png`. Without attention nothing is written.
    """
    translations = translate_some(model, tokenizer, sources, NUM_ALIGNMENTS)
    alignments = [t.alignment for t in translations if t.alignment is not None]
    if not alignments:
        return []
    write_json(output_dir / "alignments.json", [a.as_dict() for a in alignments])
    # One that fills a page well: of middling length.
    by_length = sorted(alignments, key=lambda a: len(a.source_tokens) + len(a.target_tokens))
    shown = by_length[len(by_length) // 2]
    save_alignment(shown, output_dir / "alignment.svg")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return alignments
    save_alignment(shown, output_dir / "alignment.png")
    return alignments


def _evenly(total: int, wanted: int) -> list[int]:
    return sorted({round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)})
