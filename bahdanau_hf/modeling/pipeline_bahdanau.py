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
from itertools import chain
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
    score: float | None  # if asked for: its tokens' log-probabilities, or what beams are ranked by


def max_source_length(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of a sentence that the model reads, the end included; `None`: any number."""
    longest = tokenizer.model_max_length
    return int(longest) if longest < 1_000_000 else None  # without a limit, it is 1e30


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
        sentences.append(EncodedSentence(text, ids if len(ids) > 1 else [], truncated))
    return sentences


def _has_words(tokenizer: Any, text: str, most: int, ids: list[int]) -> bool:
    """Whether a clean text has a letter that a token stands for, and one outside of code."""
    tokens = map(tokenizer.backend_tokenizer.id_to_token, ids)
    known = chain(text[most:], *(token for token in tokens if token not in NOT_TEXT))
    return any(map(str.isalpha, known)) and any(map(str.isalpha, CODE.sub("", text)))


# --- from ids to translations --------------------------------------------------------------------


def search_arguments(defaults: GenerationConfig, wanted: int = 1, **asked: Any) -> dict[str, Any]:
    """What is asked of `generate`, with limit and beams: the checkpoint's, else 128 and enough."""
    limit, length = asked.pop("max_new_tokens", None), asked.pop("max_length", None)
    if limit is None:  # a length counts the start token too
        longest = defaults.max_length or _NEW_TOKENS + 1
        limit = length - 1 if length is not None else defaults.max_new_tokens or longest - 1
    by_length = defaults.max_new_tokens is None  # `generate` warns of limits of two kinds
    asked |= {"max_length": limit + 1} if by_length else {"max_new_tokens": limit}
    if asked.get("num_beams") is None:
        samples = asked.get("do_sample", defaults.do_sample)
        asked["num_beams"] = max(defaults.num_beams or 1, 1 if samples else wanted)
    return asked


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
    - `src_lang`, `tgt_lang`, or a task such as `translation_en_to_zh`: must be the model's.
    - `truncation=False`: read sentences whole, however long.
    - `return_tensors`: `translation_token_ids` instead of the text; `return_text`: beside it.

    What holds no word that the model knows is copied, and its answer has `copied`.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = False
    _load_video_processor = _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whoever looked up this class has put classes into the dictionary, which cannot be saved.
        config = self.model.config
        vars(config)["custom_pipelines"] = vars(type(config)())["custom_pipelines"]

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
        named = re.fullmatch("translation_(.+)_to_(.+)", self.task or "") or [None] * 3
        for place, (side, name) in enumerate((("src", "source_lang"), ("tgt", "target_lang")), 1):
            given, own = kwargs.pop(f"{side}_lang", None) or named[place], known.get(name)
            if given and own and len({re.split("[-_]", x.lower())[0] for x in (given, own)}) > 1:
                raise ValueError(f"{side}_lang {given!r}: this model's is {own!r}")
        for name in ("clean_up_tokenization_spaces", "return_dict_in_generate"):
            kwargs.pop(name, None)  # of version 4: here they change nothing
        return {k: kwargs.pop(k) for k in ("truncation",) if k in kwargs}, kwargs, {}

    def preprocess(self, input_: Any, truncation: Any = True) -> dict[str, EncodedSentence]:
        """Encode a sentence."""
        if not isinstance(input_, str):
            raise ValueError(f"a sentence must be text, not {input_!r:.60}")
        is_cut = truncation not in (False, "do_not_truncate")
        limit = max_source_length(self.tokenizer) if is_cut else None
        (sentence,) = encode_sentences(self.tokenizer, [input_], limit, copying=True)
        if sentence.truncated:
            logger.warning(f"a sentence of more than {limit} tokens lost its end: {input_:.60}")
        return {"sentence": sentence}

    def _forward(
        self, model_inputs: dict[str, Any], return_alignments: bool = False, **options: Any
    ) -> dict[str, Any]:
        model, tokenizer = self.model, self.tokenizer
        if return_alignments and not model.config.use_attention:
            raise ValueError("this model has no attention (use_attention is false)")
        wanted = options.pop("num_return_sequences", None) or 1
        return_scores = options.pop("return_scores", False) or wanted > 1
        shown = {"translation_token_ids": bool(options.pop("return_tensors", False))}
        has_text = options.pop("return_text", None)
        shown["translation_text"] = not any(shown.values()) if has_text is None else has_text
        if "generation_config" not in options:
            options = search_arguments(model.generation_config, wanted, **options)
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
        score, others, answers = 0.0 if return_scores else None, iter(found), []
        for s in sentences:
            some = next(others) if s.ids else [Hypothesis([], s.copy, score)]
            answers.append([self._answer(s, one, weights, shown) for one in some])
        return {"answers": answers[0] if is_single else answers}

    def _answer(
        self, source: EncodedSentence, found: Hypothesis, weights: Any, shown: dict[str, bool]
    ) -> dict[str, Any]:
        """Fill in what was asked for; the next of the weights belong to what is not blank."""
        shown = {**shown, "copied": bool(source.copy), "score": found.score is not None}
        values = (torch.tensor(found.ids), found.text, True, found.score)
        pairs = zip(shown.items(), values, strict=True)
        answer: dict[str, Any] = {name: value for (name, is_shown), value in pairs if is_shown}
        if weights is None:
            return answer
        if ids := source.ids:
            columns, rows, merged = name_attention(self.tokenizer, next(weights), ids, found.ids)
            rounded = [[round(weight, 4) for weight in row] for row in merged.tolist()]
            alignment = {"source_tokens": columns, "target_tokens": rows, "weights": rounded}
            return {**answer, "alignment": alignment}
        return {**answer, "alignment": None}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Hand out a sentence's translations."""
        return model_outputs["answers"]
