"""From sentences to translations: ids, the search, where the model looked, and the pipeline.

`pipeline("translation", model=..., trust_remote_code=True)` finds the pipeline, also where nothing
but `transformers` is installed; that library has had none of its own since version 5.

Dimensions: B batch, S source, T target.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, Pipeline, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from .text_bahdanau import CODE, EOS_ID, NOT_TEXT, PAD_ID, UNK_ID, clean_text, token_pieces

logger = logging.get_logger(__name__)

_NEW_TOKENS = 128  # where neither caller nor checkpoint set a limit
_NO_LIMIT = 1_000_000  # a tokenizer without a limit says 1e30
_CHARACTERS_PER_TOKEN = 256  # what is longer than so many a token is cut before it is encoded
Rows = Sequence[list[int]]  # token ids of sentences, without start token and padding


@dataclass(frozen=True)
class EncodedSentence:
    """A sentence on its way through."""

    text: str  # as it was given
    ids: list[int]  # its tokens, without padding; none if there is nothing to translate
    truncated: bool  # it was longer than the model reads, and lost its end
    copy: str = ""  # what stands for the translation where there are no tokens


class Hypothesis(NamedTuple):
    """One result of the search."""

    ids: list[int]  # `<eos>` last unless the limit came first
    text: str  # the same as one line of text
    # If asked for: the natural logarithm of the translation's probability, summed over its tokens;
    # of beams what the search ranks by (`sequences_scores`).
    score: float | None


# --- from sentences to ids -----------------------------------------------------------------------


def max_source_length(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of a sentence that the model reads, the end included; `None`: any number."""
    longest = tokenizer.model_max_length
    return int(longest) if longest < _NO_LIMIT else None


def encode_sentences(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    max_length: int | None = None,
    copying: bool = False,
) -> list[EncodedSentence]:
    """Turn sentences into ids; what is blank, or holds nothing that has tokens, gets none.

    Nor does, if `copying`, what has no word that the tokenizer knows, or only addresses and code.

    After `max_length` tokens a sentence is cut, its end token kept (or not, where the tokenizer
    says `cut_keeps_end: false`); `None`: nowhere.
    """
    limit = sys.maxsize if max_length is None else max_length
    most = limit * _CHARACTERS_PER_TOKEN
    keeps_end = tokenizer.init_kwargs.get("cut_keeps_end", True)
    cleaned = [clean_text(text) for text in texts]
    read = tokenizer([text[:most] for text in cleaned], return_attention_mask=False, verbose=False)
    sentences = []
    for text, clean, ids in zip(texts, cleaned, read["input_ids"], strict=True):
        if copying and clean and not _has_words(tokenizer, clean, most, ids):
            one_line = text.strip() if text.strip().isprintable() else clean
            sentences.append(EncodedSentence(text, [], False, one_line))
            continue
        truncated = len(ids) > limit or len(clean) > most
        if len(ids) > limit:
            ids = [*ids[: limit - 1], EOS_ID] if keeps_end else ids[:limit]
        # What holds nothing but the end has no words: the model is not asked.
        sentences.append(EncodedSentence(text, ids if len(ids) > 1 else [], truncated))
    return sentences


def _has_words(tokenizer: Any, text: str, most: int, ids: list[int]) -> bool:
    """Whether a clean text has a letter, outside of code, that a token of its own stands for."""
    names = map(tokenizer.backend_tokenizer.id_to_token, ids)
    known = any(any(map(str.isalpha, name)) for name in names if name not in NOT_TEXT)
    known = known or any(map(str.isalpha, text[most:]))
    return known and any(map(str.isalpha, CODE.sub("", text)))


# --- from ids to translations --------------------------------------------------------------------


def beam_number(
    defaults: GenerationConfig, num_beams: int | None, wanted: int, do_sample: bool | None
) -> int:
    """Beams of the search: as asked, else as the checkpoint says and enough for what is wanted."""
    if num_beams is not None:
        return num_beams
    samples = defaults.do_sample if do_sample is None else do_sample
    return max(defaults.num_beams or 1, 1 if samples else wanted)


def new_token_limit(
    defaults: GenerationConfig, max_new_tokens: int | None = None, max_length: int | None = None
) -> int:
    """Tokens after which a translation stops: as asked, else as the checkpoint says, else 128."""
    if max_new_tokens is None and max_length is not None:
        max_new_tokens = max_length - 1  # it counts the start token too
    if max_new_tokens is None:
        max_new_tokens = defaults.max_new_tokens or (defaults.max_length or _NEW_TOKENS + 1) - 1
    return max_new_tokens


def limit_argument(defaults: GenerationConfig, max_new_tokens: int) -> dict[str, int]:
    """The argument of `generate` for a limit: it warns if its defaults name another."""
    by_length = defaults.max_new_tokens is None
    return {"max_length": max_new_tokens + 1} if by_length else {"max_new_tokens": max_new_tokens}


def find_translations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Rows,
    num_return_sequences: int = 1,
    return_scores: bool = False,
    **generate_kwargs: Any,
) -> list[list[Hypothesis]]:
    """Translate a batch with `model.generate`, which gets all further arguments.

    Each sentence, `<eos>` last, gets at least one hypothesis, the best first, all of other texts.
    The model is in evaluation mode. Scores keep `rows * vocab_size * 4` bytes a step.
    """
    if not sources:
        return []
    if generate_kwargs.get("stop_strings"):
        generate_kwargs["tokenizer"] = tokenizer
    outputs = model.generate(
        **source_batch(model, tokenizer, sources),
        num_return_sequences=num_return_sequences,
        return_dict_in_generate=return_scores,
        output_scores=return_scores,
        **generate_kwargs,
    )
    sequences = (outputs.sequences if return_scores else outputs)[:, 1:]  # (B * returns, T)
    is_last = (sequences == EOS_ID) | (sequences == PAD_ID)
    # Behind the end, beam search fills up with <eos>, the others with <pad>.
    is_real = (is_last.cumsum(dim=1) - is_last.long() == 0) & (sequences != PAD_ID)
    is_real[:, 0] = True
    ids = [row[:n] for row, n in zip(sequences.tolist(), is_real.sum(dim=1).tolist(), strict=True)]
    scores = _scores(outputs, sequences, is_real).tolist() if return_scores else [None] * len(ids)
    texts = map(clean_text, tokenizer.batch_decode(ids, skip_special_tokens=True))
    found = list(map(Hypothesis, ids, texts, scores))
    n = num_return_sequences
    return [_distinct(found[i : i + n]) for i in range(0, len(found), n)]


def _scores(outputs: Any, sequences: Tensor, is_real: Tensor) -> Tensor:
    """Score of each row: what beam search ranked by, else the sum of the log-probabilities."""
    if getattr(outputs, "sequences_scores", None) is not None:
        return outputs.sequences_scores
    start = sequences.shape[1] - len(outputs.scores)  # the caller may have begun the translation
    log_probs = [
        step.gather(1, sequences[:, t, None])[:, 0] - step.logsumexp(dim=1)
        for t, step in enumerate(outputs.scores, start)
    ]
    return torch.stack(log_probs, dim=1).masked_fill(~is_real[:, start:], 0).sum(dim=1)


# Beside each model, the modes that the threads in `evaluating` found it in: its own comes first.
_MODES: WeakKeyDictionary[PreTrainedModel, list[bool]] = WeakKeyDictionary()
_MODES_LOCK = Lock()


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode for a while; the last of several threads puts it back."""
    with _MODES_LOCK:
        modes = _MODES.setdefault(model, [])
        modes.append(model.training)
        model.eval()
    try:
        yield
    finally:
        with _MODES_LOCK:
            mode = modes.pop()
            if not modes:
                model.train(mode)


# --- where the model looked ----------------------------------------------------------------------


@torch.no_grad()
def read_attention(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sources: Rows, targets: Rows
) -> list[Tensor]:
    """Read each target to a model in evaluation mode; its attention, float32 `(T, S)` on the CPU.

    A token outside the target part of the vocabulary is read as `<unk>`.
    """
    if not sources:
        return []
    batch = source_batch(model, tokenizer, sources)
    start, size = model.config.decoder_start_token_id, model.config.vocab_size
    known = [[start, *(i if i < size else UNK_ID for i in ids[:-1])] for ids in targets]
    read = _padded(known, model.device)
    outputs = model(
        **batch, decoder_input_ids=read, use_cache=False, output_attentions=True, logits_to_keep=1
    )
    weights = outputs.cross_attentions[0][:, 0].float().cpu()  # (B, T, S)
    return [w[: len(t), : len(s)] for s, t, w in zip(sources, targets, weights, strict=True)]


def name_attention(
    tokenizer: PreTrainedTokenizerFast, weights: Tensor, source: list[int], target: list[int]
) -> tuple[list[str], list[str], Tensor]:
    """Tokens of both sides and the weights `(T, S)` between them; bytes become their character."""
    columns = token_pieces(tokenizer.convert_ids_to_tokens(source))
    rows = token_pieces(tokenizer.convert_ids_to_tokens(target))
    merged = torch.stack([weights[:, piece].sum(dim=1) for _, piece in columns], dim=1)
    merged = torch.stack([merged[piece].mean(dim=0) for _, piece in rows])
    return [text for text, _ in columns], [text for text, _ in rows], merged


def source_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sources: Rows
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of sentences, `(B, S)`, as the model reads them."""
    # An encoder that reads padding must always find as much of it as in training.
    width = (max_source_length(tokenizer) or 0) if model.config.encoder_reads_padding else 0
    mask = _padded([[1] * len(row) for row in sources], model.device, width, 0)
    return {"input_ids": _padded(sources, model.device, width), "attention_mask": mask}


def _padded(rows: Rows, device: torch.device, at_least: int = 0, filler: int = PAD_ID) -> Tensor:
    width = max(at_least, *map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)


def _distinct(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Best first; of those that read the same, though their tokens differ, only the best."""
    by_text: dict[str, Hypothesis] = {}
    for hypothesis in sorted(hypotheses, key=lambda h: h.score or 0.0, reverse=True):
        by_text.setdefault(hypothesis.text, hypothesis)
    return list(by_text.values())


# --- the pipeline --------------------------------------------------------------------------------


class BahdanauTranslationPipeline(Pipeline):
    """The `translation` pipeline, called and answering as the library's of version 4 did.

    Given a sentence or a list of them (an iterator is answered by an iterator), it returns a dict
    with `translation_text` for each; a single sentence gives a list of one. Options, of the call or
    of `pipeline(...)`:

    - `batch_size`: sentences translated together, default 1; no translation depends on it.
    - what `generate` takes. Several translations of a sentence come as a list, best first.
    - `return_scores`: also give `score`, as in `Hypothesis`. Several translations always have it.
    - `return_alignments`: also give `alignment` with `source_tokens`, `target_tokens` and
      `weights`, a row for each target token, rounded to four decimals; `None` for a blank sentence.
    - `src_lang` and `tgt_lang`, also by the task's name (`translation_en_to_zh`): must be the
      model's. `truncation=False`: sentences are read whole, however long.
    - `return_tensors`: `translation_token_ids` instead of the text; `return_text`: beside it.

    What holds no word that the model knows is copied, and its answer has `copied`.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = False
    _load_video_processor = _load_feature_extractor = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Translate; see the class."""
        is_list = isinstance(inputs, Sequence) and not isinstance(inputs, str)
        if is_list and not inputs:
            return []
        results = super().__call__(list(inputs) if is_list else inputs, **kwargs)
        wanted = {**self._forward_params, **kwargs}.get("num_return_sequences") or 1
        return [result for (result,) in results] if is_list and wanted == 1 else results

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        known, kind = self.tokenizer.init_kwargs, self.model.config.model_type
        if kind != "bahdanau":
            raise ValueError(f"this translation pipeline is for bahdanau models, not for {kind}")
        named = re.fullmatch("translation_(.+)_to_(.+)", self.task or "")
        for side, (name, key) in enumerate(
            (("src_lang", "source_lang"), ("tgt_lang", "target_lang"))
        ):
            given = kwargs.pop(name, None) or (named and named[side + 1])
            base, own = (
                re.split("[-_]", str(x).lower())[0] for x in (given, known.get(key, given))
            )
            if given and base != own:
                raise ValueError(f"{name} {given!r}: this model's is {known[key]!r}")
        for name in ("clean_up_tokenization_spaces", "return_dict_in_generate"):
            kwargs.pop(name, None)  # of version 4; they change nothing here
        keys = ("truncation",), ("return_text", "return_tensors")
        reading, writing = ({k: kwargs.pop(k) for k in some if k in kwargs} for some in keys)
        return reading, kwargs, writing

    def preprocess(self, input_: Any, truncation: Any = True) -> dict[str, EncodedSentence]:
        """Encode a sentence."""
        if not isinstance(input_, str):
            raise ValueError(f"a sentence must be text, not {input_!r:.60}")
        is_whole = truncation in (False, "do_not_truncate")
        limit = None if is_whole else max_source_length(self.tokenizer)
        (sentence,) = encode_sentences(self.tokenizer, [input_], limit, copying=True)
        if sentence.truncated:
            logger.warning(f"a sentence of more than {limit} tokens lost its end: {input_:.60}")
        return {"sentence": sentence}

    def _forward(
        self, model_inputs: dict[str, Any], return_alignments: bool = False, **options: Any
    ) -> dict[str, Any]:
        model, tokenizer, defaults = self.model, self.tokenizer, self.model.generation_config
        if return_alignments and not model.config.use_attention:
            raise ValueError("this model has no attention (use_attention is false)")
        wanted = options.pop("num_return_sequences", None) or 1
        return_scores = options.pop("return_scores", False) or wanted > 1
        if "generation_config" not in options:
            limits = [options.pop(key, None) for key in ("max_new_tokens", "max_length")]
            options |= limit_argument(defaults, new_token_limit(defaults, *limits))
            beams, samples = options.get("num_beams"), options.get("do_sample")
            options["num_beams"] = beam_number(defaults, beams, wanted, samples)
        sentences = model_inputs["sentence"]
        is_single = isinstance(sentences, EncodedSentence)
        sentences = [sentences] if is_single else sentences
        sources = [s.ids for s in sentences if s.ids]
        with evaluating(model):
            found = find_translations(model, tokenizer, sources, wanted, return_scores, **options)
            weights = None
            if return_alignments:
                repeated = [ids for ids, some in zip(sources, found, strict=True) for _ in some]
                targets = [hypothesis.ids for some in found for hypothesis in some]
                weights = iter(read_attention(model, tokenizer, repeated, targets))
        score, others = 0.0 if return_scores else None, iter(found)
        answers = [
            [
                self._answer(s, one, weights)
                for one in (next(others) if s.ids else [Hypothesis([], s.copy, score)])
            ]
            for s in sentences
        ]
        return {"answers": answers[0] if is_single else answers}

    def _answer(
        self, source: EncodedSentence, found: Hypothesis, weights: Iterator[Tensor] | None
    ) -> dict[str, Any]:
        """Fill in what was asked for; the next of the weights belong to what is not blank."""
        answer: dict[str, Any] = {"translation_text": found.text}
        answer["translation_token_ids"] = torch.tensor(found.ids)
        if source.copy:
            answer["copied"] = True
        if found.score is not None:
            answer["score"] = found.score
        if weights is None:
            return answer
        answer["alignment"] = None
        if ids := source.ids:
            columns, rows, merged = name_attention(self.tokenizer, next(weights), ids, found.ids)
            rounded = [[round(weight, 4) for weight in row] for row in merged.tolist()]
            names = ("source_tokens", "target_tokens", "weights")
            answer["alignment"] = dict(zip(names, (columns, rows, rounded), strict=True))
        return answer

    def postprocess(
        self, model_outputs: dict[str, Any], return_tensors: bool = False, return_text: Any = None
    ) -> list[dict[str, Any]]:
        """Hand out a sentence's translations."""
        has_text = not return_tensors if return_text is None else return_text
        left_out = {"translation_text": has_text, "translation_token_ids": return_tensors}
        names = {name for name, wanted in left_out.items() if not wanted}
        return [{k: x for k, x in a.items() if k not in names} for a in model_outputs["answers"]]
