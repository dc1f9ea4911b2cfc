"""The model: encoder, decoder with additive attention, and the vocabulary head.

Dimensions: B batch, S source, T target, E embedding, H hidden, A attention, C annotation (H, or 2H
with two directions), L decoder layers, V target vocabulary.

Departures from Bahdanau et al. 2015 (its sections in brackets):

- GRUs are PyTorch's: the reset gate acts on `U s` (and a bias of its own) instead of `s`, and the
  update gate is one minus the paper's (A.1.1, A.2.1, A.2.2; see `gru_step`).
- Any number of layers; with two directions every decoder layer's start state is a tanh layer over
  both directions' final states, where the paper takes the backward one (A.2.2).
- Biases stand throughout, which the paper leaves out of its equations, but not in the attention
  (A.1.2).
- Initial values are those of `_init_weights`; the paper draws matrices from N(0, 0.01²), those of
  the attention from N(0, 0.001²), and starts v_a at 0 (B.1).
- `readout="deep"` reads the new state s_i, as p(y_i | s_i, y_{i-1}, c_i) has it, where the paper's
  formula of the maxout layer prints s_{i-1} (A.2.2).
- `readout="linear"` reads the top layer's state alone.
"""

# No `from __future__ import annotations`: the library reads `config: BahdanauConfig` as a type.
import os
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import LogitsProcessorList, StoppingCriteriaList
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import can_return_tuple

from .cache_bahdanau import CACHE, BahdanauCache
from .configuration_bahdanau import BahdanauConfig
from .decoder_bahdanau import BahdanauDecoder
from .decoding_bahdanau import asks_for_tokens_only, beam_search, greedy_search
from .encoder_bahdanau import (
    BahdanauEncoder,
    BahdanauEncoderOutput,
    BahdanauPreTrainedModel,
    check_ids,
)
from .graph_bahdanau import graphed_beam_search, graphed_greedy_search
from .loss_bahdanau import cross_entropy
from .packed_bahdanau import has_int8
from .products_bahdanau import Linear
from .recurrence_bahdanau import choose

if TYPE_CHECKING:  # what is named here is saved with a model
    from .pipeline_bahdanau import BahdanauTranslationPipeline  # noqa: F401

IGNORED_LABEL = -100


def shift_tokens_right(labels: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """Make the decoder's input, `(B, T)`, from labels: the start token, then all but the last."""
    shifted = labels.new_full(labels.shape, decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORED_LABEL, pad_token_id)


class BahdanauModel(BahdanauPreTrainedModel):
    """Encoder and decoder without the vocabulary head."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.encoder = BahdanauEncoder(config)
        self.decoder = BahdanauDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the encoder's embedding."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's embedding."""
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BahdanauEncoderOutput | tuple | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: BahdanauCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """Read the source, unless `encoder_outputs` holds it already, and take the target's steps.

        Arguments as in `BahdanauForConditionalGeneration.forward`.
        """
        if past_key_values is not None and cache is not None:
            raise ValueError("past_key_values and cache are two names of one argument: pass one")
        cache = cache if past_key_values is None else past_key_values
        source: BahdanauEncoderOutput
        if encoder_outputs is not None:
            source = _as_encoder_output(encoder_outputs)
        elif input_ids is None and inputs_embeds is None and cache:
            source = BahdanauEncoderOutput()  # it is in the cache
        else:
            if input_ids is not None and attention_mask is None:
                self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
            source = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=source.last_hidden_state,
            encoder_final_state=source.final_state,
            encoder_attention_mask=attention_mask,
            past_key_values=cache,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=source.last_hidden_state,
            encoder_hidden_states=source.hidden_states,
            **{CACHE: decoded.get(CACHE)},
        )


def _as_encoder_output(outputs: BahdanauEncoderOutput | dict | tuple) -> BahdanauEncoderOutput:
    """Take the encoder's result in any form that it comes in, refusing another model's."""
    names = ("last_hidden_state", "final_state", "hidden_states")
    if not isinstance(outputs, dict):
        outputs = dict(zip(names, outputs, strict=False))
    if outputs.get("last_hidden_state") is None or outputs.get("final_state") is None:
        raise ValueError(
            "encoder_outputs has no final_state, from which the decoder starts: pass what this "
            "model's encoder returns"
        )
    return BahdanauEncoderOutput(**{name: outputs.get(name) for name in names})


class BahdanauForConditionalGeneration(BahdanauPreTrainedModel, GenerationMixin):
    """The translation model: `BahdanauModel` and a softmax over the target vocabulary."""

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.weight": "model.decoder.embed_tokens.weight"
    }

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.model = BahdanauModel(config)
        self.lm_head = Linear(config.output_size, config.vocab_size)
        self.post_init()

    def use_int8(self, enabled: bool = True) -> Self:
        """Compute the products of the encoder and of greedy and beam search in 8 bits, on a CPU.

        Weights are rounded row by row, what they are multiplied with is rounded as it comes
        (dynamic quantisation). The weights themselves stay: scores, attentions and sampling use
        them as they are, and a change of them is seen.

        Raises:
            ValueError: the model is in training mode or not on a CPU, or PyTorch has no 8-bit
                products for this one.
        """
        if enabled:
            if self.training:
                raise ValueError("8-bit products are for translating: call eval() first")
            if self.device.type != "cpu":
                raise ValueError(f"8-bit products run on a CPU, not on {self.device}")
            if not has_int8():
                raise ValueError("this PyTorch has no 8-bit products: they need FBGEMM, on x86")
        for module in self.modules():
            if isinstance(module, BahdanauPreTrainedModel):
                module.int8 = enabled
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training is refused while products are computed in 8 bits."""
        if mode and self.int8:
            raise ValueError("8-bit products are for translating: call use_int8(False) to train")
        return super().train(mode)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the library's; refused while products are computed in 8 bits, which is not saved."""
        if self.int8:
            raise ValueError("8-bit products are not saved: call use_int8(False) to save the model")
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the library would build a cache of keys and values; ours is made in forward

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return the decoder's input for labels `(B, T)`; data collators call this."""
        pad, start = self.config.pad_token_id, self.config.decoder_start_token_id
        if pad is None or start is None:
            raise ValueError("labels need config.pad_token_id and config.decoder_start_token_id")
        return shift_tokens_right(labels, pad, start)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BahdanauEncoderOutput | tuple | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        skip_logits: bool = False,
        cache: BahdanauCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predict each target word from the source and the words before it.

        Args:
            input_ids: source, `(B, S)`, ids below `encoder_vocab_size`.
            attention_mask: `(B, S)`, 1 on real source tokens, at least one per row.
            decoder_input_ids: target so far, `(B, T)`, ids below `vocab_size`.
            decoder_attention_mask: `(B, T)`; a step with 0 leaves the row's state as it was.
            encoder_outputs: the encoder's result, instead of the source.
            past_key_values: a cache this model returned; `decoder_input_ids` then goes on from it.
            inputs_embeds: `(B, S, E)`, instead of `input_ids`.
            decoder_inputs_embeds: `(B, T, E)`, instead of `decoder_input_ids`.
            labels: `(B, T)`, below `vocab_size`, -100 where ignored; makes the decoder's input if
                none is given.
            use_cache: return a cache; default `config.use_cache`, never with labels.
            output_attentions: return `cross_attentions`, one `(B, 1, T, S)`.
            output_hidden_states: return every layer's output.
            logits_to_keep: only the last so many steps' logits (0: all), or these steps'.
            num_items_in_batch: what to divide the summed loss by; default the labels counted here.
            skip_logits: with labels: compute the loss on real tokens alone and return no logits.
            cache: the name of `past_key_values` from transformers 5.24 on; pass one of them.
            kwargs: `label_smoothing`, the share of probability spread evenly over the vocabulary,
                in [0, 1), default 0. It has no place of its own since the library's `Trainer` takes
                every argument with "label" in its name for labels. All others are ignored.

        Raises:
            ValueError: an id or a label out of range, a row without a real token, inputs missing or
                given twice, a foreign cache.
        """
        if labels is not None:
            use_cache = False
            check_ids(
                labels.masked_fill(labels == IGNORED_LABEL, 0), self.config.vocab_size, "labels"
            )
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = F.dropout(outputs.last_hidden_state, self.config.readout_dropout, self.training)
        loss = logits = None
        if labels is None or not skip_logits:
            keep = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            hidden = hidden[:, keep]
            logits = self.lm_head(hidden)
        if labels is not None:
            real, label_smoothing = labels != IGNORED_LABEL, kwargs.get("label_smoothing", 0.0)
            if logits is None:
                loss = cross_entropy(
                    hidden[real],
                    self.lm_head.weight,
                    self.lm_head.bias,
                    labels[real],
                    label_smoothing,
                )
            else:
                loss = F.cross_entropy(
                    logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
                    labels.flatten(),
                    ignore_index=IGNORED_LABEL,
                    reduction="sum",
                    label_smoothing=label_smoothing,
                )
            loss = loss / (real.sum() if num_items_in_batch is None else num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            decoder_hidden_states=outputs.decoder_hidden_states,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            **{CACHE: outputs.get(CACHE)},
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepare one step; a full prefix passed with its cache is cut to what is new."""
        cache = kwargs.get(CACHE)
        if next_sequence_length is None and cache is not None:
            done = cache.get_seq_length()
            if 0 < done < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - done
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )

    def _expand_inputs_for_generation(self, *args: Any, **model_kwargs: Any) -> tuple:
        """Repeat rows for beams and samples, in a copy of `encoder_outputs`: it is the caller's."""
        if model_kwargs.get("encoder_outputs") is not None:
            model_kwargs["encoder_outputs"] = _as_encoder_output(model_kwargs["encoder_outputs"])
        return super()._expand_inputs_for_generation(*args, **model_kwargs)

    def _sample(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Greedy decoding: our loop where tokens are all that is asked for, else the library's."""
        implementation = choose(self.implementation)
        plain = streamer is None and not synced_gpus and implementation != "reference"
        if plain and asks_for_tokens_only(
            generation_config, logits_processor, stopping_criteria, model_kwargs
        ):
            pad = generation_config._pad_token_tensor
            search = graphed_greedy_search if implementation == "graph" else greedy_search
            return search(
                self.model.decoder,
                self.lm_head,
                input_ids,
                model_kwargs["encoder_outputs"],
                model_kwargs.get("attention_mask"),
                max_length=generation_config.max_length,
                eos_token_ids=generation_config._eos_token_tensor,
                pad_token_id=0 if pad is None else int(pad),
            )
        return super()._sample(
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            synced_gpus=synced_gpus,
            streamer=streamer,
            **model_kwargs,
        )

    def _beam_search(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Beam search: our loop where tokens are all that is asked for, else the library's."""
        implementation = choose(self.implementation)
        plain = not synced_gpus and implementation != "reference"
        if plain and asks_for_tokens_only(
            generation_config, logits_processor, stopping_criteria, model_kwargs
        ):
            eos, pad = generation_config._eos_token_tensor, generation_config._pad_token_tensor
            fill = 0 if pad is None else int(pad)
            if fill == 0 and eos is not None:
                fill = int(eos[0])  # what the library's beam search puts there
            search = graphed_beam_search if implementation == "graph" else beam_search
            return search(
                self.model.decoder,
                self.lm_head,
                input_ids,
                model_kwargs["encoder_outputs"],
                model_kwargs.get("attention_mask"),
                max_length=generation_config.max_length,
                eos_token_ids=eos,
                fill_token_id=fill,
                num_beams=generation_config.num_beams,
                num_return_sequences=generation_config.num_return_sequences,
                length_penalty=generation_config.length_penalty,
                early_stopping=generation_config.early_stopping,
            )
        return super()._beam_search(
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            synced_gpus=synced_gpus,
            **model_kwargs,
        )


__all__ = ["BahdanauForConditionalGeneration", "BahdanauModel", "BahdanauPreTrainedModel"]
