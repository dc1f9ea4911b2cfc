"""How far exported graphs are from the model they were made of."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..data.sources import bundled_pairs, pair_texts
from ..data.tokenization import side_kinds
from ..errors import InputError
from ..metrics.translation import score_translations
from ..modeling.modeling_bahdanau import CACHE, BahdanauForConditionalGeneration
from ..modeling.pipeline_bahdanau import encode_sentences, max_source_length, source_batch
from ..reporting.run_report import read_predictions
from .onnx_search import WholeSearch

_BATCH_SIZE = 32
_MOST_SENTENCES = 500


class Agreement(NamedTuple):
    """Of how many sources the translations are the same, and what the change does to the score."""

    same: int
    total: int
    sources: str  # what they are, in words
    bleu: tuple[float, float] | None = None  # the model's and the graphs', of sentences

    def __str__(self) -> str:
        changed = f"{self.total - self.same} of {self.total} {self.sources} change"
        if self.bleu is None:
            return changed
        return f"{changed}, BLEU {self.bleu[0]:.2f} before and {self.bleu[1]:.2f} after"


class TwoGraphs:
    """Encoder and decoder step, with a greedy search over them; called as `WholeSearch` is."""

    def __init__(self, encoder: Path, decoder: Path, settings: dict[str, Any]) -> None:
        import onnxruntime

        self.reader, self.stepper = (
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for path in (encoder, decoder)
        )
        self._start, self._ends = settings["decoder_start_token_id"], settings["eos_token_ids"]

    def read(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """What the encoder hands on, by name."""
        names = [output.name for output in self.reader.get_outputs()]
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        return dict(zip(names, self.reader.run(None, given), strict=True))

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int
    ) -> np.ndarray:
        """Translate a batch, int64 `(B, S)`, to int64 `(B, T)`."""
        memory = self.read(input_ids, attention_mask)
        tokens = [np.full((len(input_ids), 1), self._start, np.int64)]
        has_ended = np.zeros((len(input_ids), 1), bool)
        while len(tokens) <= max_new_tokens and not has_ended.all():
            found = self.stepper.run(None, {"input_ids": tokens[-1], **memory})
            logits, memory["state"] = found[:2]
            tokens.append(logits.argmax(-1)[:, None])
            has_ended |= np.isin(tokens[-1], self._ends)
        return np.concatenate(tokens[1:], axis=1)


def random_batch(model: BahdanauForConditionalGeneration, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Ids the decoder knows too, and a mask with padding behind and in front; `(rows, 7)`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::3, 4:] = 0
    mask[2::3, :2] = 0
    return ids, mask


def largest_difference(model: BahdanauForConditionalGeneration, graphs: TwoGraphs) -> float:
    """Between logits, states and attention weights of the model and of both graphs, on one batch.

    The model is in float32, on the CPU, not in training.
    """
    ids, mask = random_batch(model)
    memory = graphs.read(ids.numpy(), mask.numpy())
    found = graphs.stepper.run(None, {"input_ids": ids.numpy()[:, :1], **memory})
    with torch.no_grad():
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=ids[:, :1],
            use_cache=True,
            output_attentions=True,
        )
    expected = [outputs.logits[:, 0], outputs[CACHE].state]
    if outputs.cross_attentions is not None:
        expected.append(outputs.cross_attentions[0][:, 0, 0])
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(x - y.numpy()).max()) for x, y in pairs)


def compare_translations(
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    search: WholeSearch | TwoGraphs,
    settings: dict[str, Any],
) -> Agreement:
    """Translate sentences that the model was not trained on both ways.

    They are the test split of its run, where it was loaded from a run's folder; else the bundled
    validation sentences or, if the model is of other languages, random ids. The model is in
    float32, on the CPU, not in training; the settings are those of `translation.json`.
    """
    what, texts, references = _held_out(Path(model.name_or_path), settings)
    most = max_source_length(tokenizer)
    sources = [s.ids for s in encode_sentences(tokenizer, texts, most)] if texts else []
    if not texts:
        ids, mask = random_batch(model, _BATCH_SIZE)
        what = "rows of random ids"
        sources = [row[kept].tolist() for row, kept in zip(ids, mask.bool(), strict=True)]
    ends = settings["eos_token_ids"]
    rules = {"max_new_tokens": settings["max_new_tokens"], "num_beams": 1}
    if isinstance(search, WholeSearch):
        rules["num_beams"] = settings["num_beams"]
    order = sorted((i for i, ids in enumerate(sources) if ids), key=lambda i: len(sources[i]))
    ours: list[list[int]] = []
    theirs: list[list[int]] = []
    for start in range(0, len(order), _BATCH_SIZE):
        rows = [sources[i] for i in order[start : start + _BATCH_SIZE]]
        batch = source_batch(model, tokenizer, rows)
        ours += model.generate(**batch, **rules)[:, 1:].tolist()
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        theirs += search(**arrays, max_new_tokens=rules["max_new_tokens"]).tolist()
    ours, theirs = (
        [list(takewhile(lambda token: token not in ends, ids)) for ids in side]
        for side in (ours, theirs)
    )
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    if not references:
        return Agreement(same, len(order), what)
    expected = [references[i] for i in order]
    target = {"target_lang": settings["target_lang"], "target_kind": side_kinds(tokenizer)[1]}
    before, after = (
        score_translations(
            tokenizer.batch_decode(side, skip_special_tokens=True), expected, **target
        ).bleu
        for side in (ours, theirs)
    )
    return Agreement(same, len(order), what, (before, after))


def _held_out(folder: Path, settings: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    """Sentences in words, and their sources and references; none of them where there are none."""
    languages = settings["source_lang"], settings["target_lang"]
    rows = read_predictions(folder)[0][:_MOST_SENTENCES]
    if rows and languages[1]:
        sources, references = [row.source for row in rows], [row.reference for row in rows]
        return "test sentences of its run", sources, references
    try:
        texts, references = pair_texts(bundled_pairs(*languages)["validation"], *languages)
    except (InputError, TypeError):  # other languages, or none that are known
        return "", [], []
    return "bundled validation sentences", texts, references
