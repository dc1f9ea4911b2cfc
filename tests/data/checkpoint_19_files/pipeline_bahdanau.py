"""The `translation` pipeline of a checkpoint.

`pipeline("translation", model=..., trust_remote_code=True)` finds it, also where nothing but
`transformers` is installed: the library itself has had none since its version 5.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Pipeline
from transformers.utils import logging

from .batch_bahdanau import (
    EncodedSentence,
    Hypothesis,
    beam_number,
    encode_sentences,
    evaluating,
    find_translations,
    limit_argument,
    max_source_length,
    name_attention,
    new_token_limit,
    read_attention,
)

logger = logging.get_logger(__name__)


class BahdanauTranslationPipeline(Pipeline):
    """The `translation` pipeline, called and answering as the library's of version 4 did.

    Given a sentence or a list of them (any iterator is answered by an iterator), it returns a
    dictionary with `translation_text` for each; a single sentence gives a list of one. Options, of
    the call or, for all calls, of `pipeline(...)`:

    - `batch_size`: sentences translated together, default 1; no translation depends on it.
    - `num_beams`, `max_new_tokens`, `num_return_sequences`, `length_penalty` and all else that
      `generate` takes; default: the checkpoint's generation configuration. Several translations of
      a sentence come as a list, best first.
    - `return_scores`: also give `score`, the natural logarithm of the translation's probability,
      with beams what the search ranks by. Several translations always have it.
    - `return_alignments`: also give `alignment` with `source_tokens`, `target_tokens` and
      `weights`, a row for each target token, rounded to four decimals; `None` for a blank sentence.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whoever looked up this class has put classes into the dictionary, which cannot be saved.
        config = self.model.config
        config.custom_pipelines = type(config)().custom_pipelines

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Translate; see the class."""
        inputs = list(inputs) if isinstance(inputs, tuple) else inputs
        if isinstance(inputs, list) and not inputs:
            return []
        results = super().__call__(inputs, **kwargs)
        wanted = {**self._forward_params, **kwargs}.get("num_return_sequences") or 1
        if isinstance(inputs, list) and wanted == 1:
            return [result for (result,) in results]
        return results

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        return {}, kwargs, {}

    def preprocess(self, input_: Any) -> dict[str, EncodedSentence]:
        """Encode a sentence."""
        if not isinstance(input_, str):
            raise ValueError(f"a sentence must be text, not {input_!r:.60}")
        limit = max_source_length(self.tokenizer)
        (sentence,) = encode_sentences(self.tokenizer, [input_], limit)
        if sentence.truncated:
            logger.warning(f"a sentence of more than {limit} tokens lost its end: {input_:.60}")
        return {"sentence": sentence}

    def _forward(
        self,
        model_inputs: dict[str, Any],
        num_return_sequences: int | None = None,
        return_alignments: bool = False,
        return_scores: bool = False,
        **generate_kwargs: Any,
    ) -> dict[str, Any]:
        """Translate one sentence or a batch of them."""
        if return_alignments and not self.model.config.use_attention:
            raise ValueError("this model has no attention (use_attention is false)")
        sentences = model_inputs["sentence"]
        is_single = isinstance(sentences, EncodedSentence)
        sentences = [sentences] if is_single else sentences
        wanted, defaults = num_return_sequences or 1, self.model.generation_config
        return_scores = return_scores or wanted > 1
        if "generation_config" not in generate_kwargs:
            limits = [generate_kwargs.pop(key, None) for key in ("max_new_tokens", "max_length")]
            generate_kwargs |= limit_argument(defaults, new_token_limit(defaults, *limits))
            beams, samples = generate_kwargs.get("num_beams"), generate_kwargs.get("do_sample")
            generate_kwargs["num_beams"] = beam_number(defaults, beams, wanted, samples)
        found: list[list[Hypothesis]] = []
        attention: Sequence[Tensor | None] = []
        sources = [sentence.ids for sentence in sentences if sentence.ids]
        if sources:
            with evaluating(self.model):
                found = find_translations(
                    *(self.model, self.tokenizer, sources, wanted, return_scores), **generate_kwargs
                )
                pairs = [(s, h.ids) for s, some in zip(sources, found, strict=True) for h in some]
                attention = [None] * len(pairs)
                if return_alignments:
                    attention = read_attention(
                        self.model, self.tokenizer, *zip(*pairs, strict=True)
                    )
        hypotheses, weights = iter(found), iter(attention)
        blank = Hypothesis([], "", 0.0 if return_scores else None)
        answers = [
            [
                self._answer(sentence, hypothesis, next(weights), return_alignments)
                for hypothesis in next(hypotheses)
            ]
            if sentence.ids
            else [self._answer(sentence, blank, None, return_alignments)]
            for sentence in sentences
        ]
        return {"answers": answers[0] if is_single else answers}

    def _answer(
        self, sentence: EncodedSentence, found: Hypothesis, weights: Any, return_alignments: bool
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {"translation_text": found.text}
        if found.score is not None:
            answer["score"] = found.score
        if return_alignments:
            answer["alignment"] = None
        if weights is not None:
            names = ("source_tokens", "target_tokens", "weights")
            parts = name_attention(self.tokenizer, weights, sentence.ids, found.ids)
            answer["alignment"] = dict(zip(names, parts, strict=True))
            rows = [[round(weight, 4) for weight in row] for row in parts[2].tolist()]
            answer["alignment"]["weights"] = rows
        return answer

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Hand out a sentence's translations."""
        return model_outputs["answers"]


__all__ = ["BahdanauTranslationPipeline"]
