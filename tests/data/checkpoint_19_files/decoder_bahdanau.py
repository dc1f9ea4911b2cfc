"""The decoder: parameters, masks and outputs around the recurrence.

Dimensions: B batch, S source, T target, E embedding, H hidden, A attention, C annotation (H, or 2H
with two directions), L decoder layers.
"""

# No `from __future__ import annotations`: the library reads `config: BahdanauConfig` as a type.
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import can_return_tuple

from .cache_bahdanau import CACHE, BahdanauCache
from .configuration_bahdanau import BahdanauConfig
from .encoder_bahdanau import BahdanauPreTrainedModel, embed
from .products_bahdanau import Linear, linear
from .recurrence_bahdanau import (
    DecoderWeights,
    DropoutMasks,
    GRUWeights,
    Memory,
    choose,
    decode,
    decode_fast,
    prepare,
)

HOLD = 1e4  # added to an update gate before its sigmoid, which is then exactly 1: the state stays


@dataclass
class BahdanauDecoderOutput(BaseModelOutputWithPastAndCrossAttentions):
    """What the decoder makes of the words so far.

    Attributes:
        last_hidden_state: what the output layer reads, `(B, T, output_size)`.
        past_key_values: the cache, after these steps; `cache` from transformers 5.24 on.
        hidden_states: embeddings `(B, T, E)` and every layer's states `(B, T, H)`, if asked for;
            the last is always `last_hidden_state`, so the deep readout's output takes the place of
            the top layer's states.
        attentions: always `None`; a recurrent decoder does not attend to itself.
        cross_attentions: one tensor `(B, 1, T, S)`, if asked for and the model attends.
    """


class BahdanauAttention(nn.Module):
    """The parameters of additive attention; `recurrence_bahdanau` has its equations."""

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.attention_hidden_size or config.hidden_size
        self.query = nn.Linear(config.hidden_size, width, bias=False)  # W_a
        self.key = Linear(config.annotation_size, width, bias=False)  # U_a
        self.score = nn.Linear(width, 1, bias=False)  # v_a


class BahdanauReadout(nn.Module):
    """The paper's maxout layer over state, context and previous word (appendix A.2.2).

    t = max over pairs of (U_o s_i + V_o E y_{i-1} + C_o c_i)
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.hidden_size + config.annotation_size + config.embedding_size
        self.projection = Linear(width, 2 * config.output_size)

    def forward(
        self,
        state: Tensor,
        context: Tensor,
        embedding: Tensor,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`(..., H)`, `(..., C)` and `(..., E)` to `(..., output_size)`.

        With `project` in place of the projection, whose weights it has laid out.
        """
        project = self.projection if project is None else project
        pieces = project(torch.cat([state, context, embedding], dim=-1))
        return pieces.unflatten(-1, (-1, 2)).amax(dim=-1)


class BahdanauDecoder(BahdanauPreTrainedModel):
    """GRU layers over the target, the first one fed by what the attention finds in the source."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        E, H, C = config.embedding_size, config.hidden_size, config.annotation_size
        self.embed_tokens = nn.Embedding(config.vocab_size, E)
        # Each layer's start state from both directions; one direction's states go in as they are.
        self.bridge = nn.ModuleList(
            nn.Linear(C, H)
            for _ in range(config.decoder_layers if config.bidirectional_encoder else 0)
        )
        self.attention = BahdanauAttention(config) if config.use_attention else None
        self.layers = nn.ModuleList(
            nn.GRUCell(C + E if i == 0 else H, H) for i in range(config.decoder_layers)
        )
        self.readout = BahdanauReadout(config) if config.readout == "deep" else None
        self.post_init()

    def start_state(self, final_state: Tensor) -> Tensor:
        """Make the layers' start states `(B, L, H)` from the encoder's final ones, tops aligned."""
        if not self.bridge:
            return final_state
        num_layers, offset = final_state.shape[1], final_state.shape[1] - len(self.bridge)
        sources = [min(max(i + offset, 0), num_layers - 1) for i in range(len(self.bridge))]
        states = [bridge(final_state[:, i]) for bridge, i in zip(self.bridge, sources, strict=True)]
        return torch.tanh(torch.stack(states, dim=1))

    def weights(self) -> DecoderWeights:
        """The recurrence's weights."""
        layers = tuple(
            GRUWeights(*(cell.get_parameter(name) for name in GRUWeights._fields))
            for cell in self.layers
        )
        if self.attention is None:
            return DecoderWeights(layers, None, None)
        return DecoderWeights(layers, self.attention.query.weight, self.attention.score.weight[0])

    def read(
        self,
        annotations: Tensor,
        final_state: Tensor,
        mask: Tensor | None,
        project: Callable[[Tensor], tuple[Tensor | None, Tensor]] | None = None,
    ) -> Memory:
        """Project the source once, for all steps to come.

        With `project` in place of the projections to keys and gates, whose weights it has laid out.
        """
        if self.attention is None:
            annotations = final_state[:, -1:]  # the plain seq2seq's one context
            mask = None
        dtype = torch.promote_types(annotations.dtype, torch.float32)
        bias = torch.zeros(annotations.shape[:2], dtype=dtype, device=annotations.device)
        if mask is not None:
            bias = bias.masked_fill(~mask.bool(), torch.finfo(bias.dtype).min)
        keys, gates = (project or self._project)(annotations)
        return Memory(annotations, bias, keys, gates)

    def _project(self, annotations: Tensor) -> tuple[Tensor | None, Tensor]:
        context_weights = self.layers[0].get_parameter("weight_ih")[:, : annotations.shape[-1]]
        keys = None if self.attention is None else self.attention.key(annotations)
        return keys, linear(annotations, context_weights)

    def _dropout_masks(self, num_steps: int, memory: Memory, state: Tensor) -> DropoutMasks:
        """Draw the factors of all steps before the loop; none outside training."""
        batch_size, num_layers, width = state.shape
        p, p_attention = float(self.config.dropout), float(self.config.attention_dropout)
        layers = attention = None
        if self.training and p > 0 and num_layers > 1:
            layers = F.dropout(state.new_ones(num_steps, num_layers - 1, batch_size, width), p)
        if self.training and p_attention > 0 and self.attention is not None:
            attention = F.dropout(state.new_ones(num_steps, *memory.bias.shape), p_attention)
        return DropoutMasks(layers, attention)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_final_state: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BahdanauDecoderOutput:
        """Take T steps with known inputs.

        Args:
            input_ids: `(B, T)`, below `vocab_size`.
            attention_mask: `(B, T)` or longer (the cached steps first); a step with 0 leaves the
                row's state as it was.
            encoder_hidden_states: annotations, `(B, S, C)`.
            encoder_final_state: `(B, encoder_layers, C)`.
            encoder_attention_mask: `(B, S)`, 1 on real tokens.
            past_key_values: go on from here; the encoder's results are then in it.
            inputs_embeds: `(B, T, E)`, instead of `input_ids`.
            use_cache: return a cache to go on from.
            output_attentions: return the attention weights.
            output_hidden_states: return every layer's states.
        """
        config = self.config
        inputs_embeds = embed(self.embed_tokens, input_ids, inputs_embeds, "decoder_")
        embeddings = F.dropout(inputs_embeds, config.embedding_dropout, self.training)
        if past_key_values is not None and not isinstance(past_key_values, BahdanauCache):
            raise ValueError(
                "past_key_values must be a BahdanauCache, as this model returns it, not "
                f"{type(past_key_values).__name__}"
            )
        if past_key_values is None and use_cache:
            past_key_values = BahdanauCache()
        cache = past_key_values
        if cache is not None and cache.state is not None and cache.memory is not None:
            state, memory = cache.state, cache.memory
        elif encoder_hidden_states is None or encoder_final_state is None:
            raise ValueError(
                "without a cache to go on from, the decoder needs the encoder's output"
            )
        else:
            memory = self.read(encoder_hidden_states, encoder_final_state, encoder_attention_mask)
            state = self.start_state(encoder_final_state)
        hold = None
        if attention_mask is not None:
            if attention_mask.shape[1] < embeddings.shape[1]:
                raise ValueError(
                    f"decoder_attention_mask covers {attention_mask.shape[1]} steps, but there are "
                    f"{embeddings.shape[1]}"
                )
            hold = (1 - attention_mask[:, -embeddings.shape[1] :].to(state.dtype)) * HOLD
        masks = self._dropout_masks(embeddings.shape[1], memory, state)
        if past_key_values is None or choose(self.implementation) == "reference":
            decoded = decode(
                embeddings, state, memory, self.weights(), masks, hold, self.implementation
            )
        else:
            if past_key_values.prepared is None or self.training:
                past_key_values.prepared = prepare(self.weights(), config.annotation_size)
            prepared = past_key_values.prepared
            decoded = decode_fast(embeddings, state, memory, prepared, masks, hold)
        if past_key_values is not None:
            past_key_values.memory = memory
            past_key_values.update_state(decoded.states[-1].transpose(0, 1), embeddings.shape[1])

        dtype = embeddings.dtype  # the recurrence itself keeps at least float32
        states = decoded.states.permute(1, 2, 0, 3).to(dtype)  # (L, B, T, H)
        weights = None
        if decoded.weights is not None:
            weights = decoded.weights.transpose(0, 1).to(dtype)  # (B, T, S)
        output = states[-1]
        if self.readout is not None:
            if weights is None:
                context = memory.annotations.expand(-1, output.shape[1], -1)
            else:
                alpha = weights
                if masks.attention is not None:
                    alpha = alpha * masks.attention.transpose(0, 1)
                context = torch.bmm(alpha, memory.annotations)
            output = self.readout(output, context, embeddings)
        hidden_states = cross_attentions = None
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            hidden_states = (embeddings, *states[:-1].unbind(0), output)
        if config.output_attentions if output_attentions is None else output_attentions:
            cross_attentions = None if weights is None else (weights.unsqueeze(1),)
        return BahdanauDecoderOutput(
            last_hidden_state=output,
            hidden_states=hidden_states,
            cross_attentions=cross_attentions,
            **{CACHE: past_key_values},
        )
