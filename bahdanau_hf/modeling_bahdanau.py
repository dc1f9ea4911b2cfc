"""The model: encoder, decoder with additive attention, and the vocabulary head.

Dimensions: B batch, S source, T target, E embedding, H hidden, A attention, C annotation (H, or 2H
with two directions), L decoder layers, V target vocabulary.

Departures from Bahdanau et al. 2015 (its sections in brackets):

- GRUs are PyTorch's: the reset gate acts on `U s` instead of `s`, and its update gate is one minus
  the paper's (A.1.1, A.1.2; see `gru_step`).
- Any number of layers; with two directions every decoder layer's start state is a tanh layer over
  both directions' final states, where the paper takes the backward one (A.2.2).
- Biases stand throughout, which the paper leaves out of its equations; not in the attention (A.1.2).
- `readout="deep"` reads the new state s_i, as p(y_i | s_i, y_{i-1}, c_i) has it, where the paper's
  formula of the maxout layer prints s_{i-1} (A.2.2).
- `readout="linear"` reads the top layer's state alone.
"""

# No `from __future__ import annotations` here: the library reads `config: BahdanauConfig` as a type.
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import can_return_tuple

from .cache_bahdanau import BahdanauCache
from .configuration_bahdanau import BahdanauConfig
from .recurrence_bahdanau import (
    DecoderWeights,
    DropoutMasks,
    GRUWeights,
    Memory,
    decode,
    decode_hoisted,
    prepare,
)

IGNORED_LABEL = -100
HOLD = 1e4  # added to an update gate before its sigmoid, which is then exactly 1: the state stays


@dataclass
class BahdanauEncoderOutput(ModelOutput):
    """What the encoder says about a source sentence.

    Attributes:
        last_hidden_state: annotations, `(B, S, C)`; 0 on padding.
        final_state: each layer's state after its last real token, `(B, encoder_layers, C)`; the
            backward direction's last is the first.
        hidden_states: embeddings `(B, S, E)` and every layer's output `(B, S, C)`, if asked for.
        attentions: always `None`; a recurrent encoder has none.
    """

    last_hidden_state: Tensor | None = None
    final_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def shift_tokens_right(labels: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """Make the decoder's input, `(B, T)`, from labels: the start token, then all but the last."""
    shifted = labels.new_full(labels.shape, decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORED_LABEL, pad_token_id)


def _check_ids(ids: Tensor, size: int, what: str) -> None:
    """Say which id is out of range, where an embedding would fail without a word on why."""
    if ids.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= size:
        bad = int(low) if low < 0 else int(high)
        raise ValueError(
            f"{what} has the id {bad}, but ids go from 0 to {size - 1}: does the tokenizer belong "
            "to this model?"
        )


class BahdanauPreTrainedModel(PreTrainedModel):
    """Initialisation and what the library asks of every class here."""

    config: BahdanauConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _is_stateful = True  # assisted decoding is refused: a recurrent state cannot be rolled back
    _no_split_modules = ["BahdanauEncoder", "BahdanauDecoder"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set initial weights, as `config.initializer` says.

        | parameter                      | "xavier" (the tutorial's)      | "orthogonal"              |
        | ------------------------------ | ------------------------------ | ------------------------- |
        | embeddings                     | normal(0, embedding_initializer_range) | the same          |
        | linear and input matrices      | Xavier uniform                 | Xavier uniform            |
        | recurrent matrices             | Xavier uniform, gates as one   | orthogonal, gate by gate  |
        | biases                         | uniform(-1/sqrt(n), 1/sqrt(n)) | 0                         |

        Matrices and biases are multiplied by `initializer_range`; n is the width of a bias's input
        (of the state, in a GRU).
        """
        gain = self.config.initializer_range
        orthogonal = self.config.initializer == "orthogonal"
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.embedding_initializer_range)
        elif isinstance(module, nn.Linear | nn.GRU | nn.GRUCell):
            fan = module.in_features if isinstance(module, nn.Linear) else module.hidden_size
            bound = 0.0 if orthogonal else gain / fan**0.5
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name:
                    init.uniform_(parameter, -bound, bound)
                elif "weight_hh" in name and orthogonal:
                    if not getattr(parameter, "_is_hf_initialized", False):
                        for gate in parameter.chunk(3):
                            init.orthogonal_(gate, gain=gain)
                else:
                    init.xavier_uniform_(parameter, gain=gain)


class BahdanauEncoder(BahdanauPreTrainedModel):
    """GRU layers over the source, in one direction or two; padding never reaches a real token."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(
            config.encoder_vocab_size or config.vocab_size, config.embedding_size
        )
        widths = [config.embedding_size] + [config.annotation_size] * (config.encoder_layers - 1)
        self.forward_layers = nn.ModuleList(
            nn.GRU(width, config.hidden_size, batch_first=True) for width in widths
        )
        self.backward_layers = nn.ModuleList(
            nn.GRU(width, config.hidden_size, batch_first=True)
            for width in (widths if config.bidirectional_encoder else [])
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BahdanauEncoderOutput:
        """Annotate the source.

        Args:
            input_ids: `(B, S)`, below `encoder_vocab_size`.
            attention_mask: `(B, S)`, 1 on real tokens; padding may stand on either side.
            inputs_embeds: `(B, S, E)`, instead of `input_ids`.
            output_hidden_states: also return every layer's output.
            kwargs: ignored; the library passes arguments meant for other encoders.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds`, an id out of range, or
                a row without a real token.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            _check_ids(input_ids, self.embed_tokens.num_embeddings, "input_ids")
            inputs_embeds = self.embed_tokens(input_ids)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mask = _source_mask(attention_mask, inputs_embeds)
        if self.config.encoder_reads_padding:
            order = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
            lengths = torch.full_like(mask.sum(1), mask.shape[1])
        else:
            # Real tokens first, in their order; what follows them cannot reach them.
            order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
            lengths = mask.sum(1)
        orders = [order]
        if self.backward_layers:
            # The same, with each row's real tokens turned round.
            position = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
            last = lengths[:, None] - 1
            orders.append(order.gather(1, torch.where(position <= last, last - position, position)))
        returns = [torch.argsort(order, dim=1) for order in orders]

        hidden = F.dropout(inputs_embeds, self.config.embedding_dropout, self.training)
        all_hidden, final_states = [hidden], []
        for i, layers in enumerate(zip(self.forward_layers, *_if_any(self.backward_layers))):
            if i > 0:
                hidden = F.dropout(hidden, self.config.dropout, self.training)
            outputs, finals = [], []
            for layer, there, back in zip(layers, orders, returns, strict=True):
                output, _ = layer(_reorder(hidden, there))
                finals.append(_reorder(output, lengths[:, None] - 1).squeeze(1))
                outputs.append(_reorder(output, back))
            hidden = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
            if not self.config.encoder_reads_padding:
                hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
            all_hidden.append(hidden)
            final_states.append(torch.cat(finals, dim=-1))
        return BahdanauEncoderOutput(
            last_hidden_state=hidden,
            final_state=torch.stack(final_states, dim=1),
            hidden_states=tuple(all_hidden) if output_hidden_states else None,
        )


def _if_any(layers: nn.ModuleList) -> list[nn.ModuleList]:
    return [layers] if len(layers) else []


def _reorder(x: Tensor, positions: Tensor) -> Tensor:
    """Take the given positions of each row: `(B, S, D)` and `(B, P)` to `(B, P, D)`."""
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _source_mask(attention_mask: Tensor | None, like: Tensor) -> Tensor:
    """Return the mask as bool `(B, S)`, refusing rows without a real token."""
    if attention_mask is None:
        return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    if attention_mask.shape != like.shape[:2]:
        raise ValueError(
            f"attention_mask is {tuple(attention_mask.shape)}, the source {tuple(like.shape[:2])}"
        )
    mask = attention_mask.to(like.device).bool()
    if not torch.compiler.is_compiling() and not bool(mask.any(dim=1).all()):
        row = int(mask.any(dim=1).logical_not().nonzero()[0])
        raise ValueError(
            f"row {row} of attention_mask has no real token; leave empty sentences out, or give "
            "them their end token"
        )
    return mask


@dataclass
class BahdanauDecoderOutput(ModelOutput):
    """What the decoder makes of the words so far.

    Attributes:
        last_hidden_state: what the output layer reads, `(B, T, output_size)`.
        past_key_values: the cache, after these steps.
        hidden_states: embeddings `(B, T, E)`, every layer's states `(B, T, H)` and, with the deep
            readout, its output, so that the last is always `last_hidden_state`; if asked for.
        cross_attentions: one tensor `(B, 1, T, S)`, if asked for and the model attends.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: BahdanauCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class BahdanauAttention(nn.Module):
    """The parameters of additive attention; `recurrence_bahdanau` has its equations."""

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.attention_hidden_size or config.hidden_size
        self.query = nn.Linear(config.hidden_size, width, bias=False)  # W_a
        self.key = nn.Linear(config.annotation_size, width, bias=False)  # U_a
        self.score = nn.Linear(width, 1, bias=False)  # v_a


class BahdanauReadout(nn.Module):
    """The paper's maxout layer over state, context and previous word (appendix A.2.2).

    t = max over pairs of (U_o s_i + V_o E y_{i-1} + C_o c_i)
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.hidden_size + config.annotation_size + config.embedding_size
        self.projection = nn.Linear(width, 2 * config.output_size)

    def forward(self, state: Tensor, context: Tensor, embedding: Tensor) -> Tensor:
        """`(B, T, H)`, `(B, T, C)` and `(B, T, E)` to `(B, T, output_size)`."""
        pieces = self.projection(torch.cat([state, context, embedding], dim=-1))
        return pieces.unflatten(-1, (-1, 2)).amax(dim=-1)


class BahdanauDecoder(BahdanauPreTrainedModel):
    """GRU layers over the target, the first one fed by what the attention finds in the source."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        E, H, C = config.embedding_size, config.hidden_size, config.annotation_size
        self.embed_tokens = nn.Embedding(config.vocab_size, E)
        # A start state for each layer from both directions; one direction's states go in as they are.
        self.bridge = nn.ModuleList(
            nn.Linear(C, H) for _ in range(config.decoder_layers if config.bidirectional_encoder else 0)
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
            GRUWeights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
            for cell in self.layers
        )
        if self.attention is None:
            return DecoderWeights(layers, None, None)
        return DecoderWeights(layers, self.attention.query.weight, self.attention.score.weight[0])

    def read(self, annotations: Tensor, final_state: Tensor, mask: Tensor | None) -> Memory:
        """Project the source once, for all steps to come."""
        if self.attention is None:
            annotations = final_state[:, -1:]  # the plain seq2seq's one context
            mask, keys = None, None
        else:
            keys = self.attention.key(annotations)
        bias = torch.zeros(annotations.shape[:2], device=annotations.device)
        if mask is not None:
            bias = bias.masked_fill(~mask.bool(), torch.finfo(bias.dtype).min)
        gates = F.linear(annotations, self.layers[0].weight_ih[:, : annotations.shape[-1]])
        return Memory(annotations, bias, keys, gates)

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
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of decoder_input_ids and decoder_inputs_embeds")
        if inputs_embeds is None:
            _check_ids(input_ids, self.embed_tokens.num_embeddings, "decoder_input_ids")
            inputs_embeds = self.embed_tokens(input_ids)
        embeddings = F.dropout(inputs_embeds, config.embedding_dropout, self.training)
        if past_key_values is not None and not isinstance(past_key_values, BahdanauCache):
            raise ValueError(
                "past_key_values must be a BahdanauCache, as this model returns it, not "
                f"{type(past_key_values).__name__}"
            )
        if past_key_values is None and use_cache:
            past_key_values = BahdanauCache()
        if past_key_values is not None and past_key_values.state is not None:
            state, memory = past_key_values.state, past_key_values.memory
        else:
            memory = self.read(encoder_hidden_states, encoder_final_state, encoder_attention_mask)
            state = self.start_state(encoder_final_state)
        hold = None
        if attention_mask is not None:
            hold = (1 - attention_mask[:, -embeddings.shape[1] :].to(state.dtype)) * HOLD
        masks = self._dropout_masks(embeddings.shape[1], memory, state)
        if past_key_values is None:
            decoded = decode(embeddings, state, memory, self.weights(), masks, hold)
        else:
            if past_key_values.prepared is None or self.training:
                past_key_values.memory = memory
                past_key_values.prepared = prepare(self.weights(), config.annotation_size)
            prepared = past_key_values.prepared
            decoded = decode_hoisted(embeddings, state, memory, prepared, masks, hold)
            past_key_values.update_state(decoded.states[-1].transpose(0, 1), embeddings.shape[1])

        states = decoded.states.permute(1, 2, 0, 3)  # (L, B, T, H)
        weights = None if decoded.weights is None else decoded.weights.transpose(0, 1)  # (B, T, S)
        output = states[-1]
        if self.readout is not None:
            if weights is None:
                context = memory.annotations.expand(-1, output.shape[1], -1)
            else:
                used = weights if masks.attention is None else weights * masks.attention.transpose(0, 1)
                context = torch.bmm(used, memory.annotations)
            output = self.readout(output, context, embeddings)
        hidden_states = cross_attentions = None
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            hidden_states = (embeddings, *states.unbind(0))
            hidden_states = hidden_states if self.readout is None else (*hidden_states, output)
            output = hidden_states[-1]
        if config.output_attentions if output_attentions is None else output_attentions:
            cross_attentions = None if weights is None else (weights.unsqueeze(1),)
        return BahdanauDecoderOutput(
            last_hidden_state=output,
            past_key_values=past_key_values,
            hidden_states=hidden_states,
            cross_attentions=cross_attentions,
        )


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
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """Read the source, unless `encoder_outputs` holds it already, and take the target's steps.

        Arguments as in `BahdanauForConditionalGeneration.forward`.
        """
        if encoder_outputs is None:
            if input_ids is not None and attention_mask is None:
                self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        elif not isinstance(encoder_outputs, dict):
            hidden_states = encoder_outputs[2] if len(encoder_outputs) > 2 else None
            encoder_outputs = BahdanauEncoderOutput(*encoder_outputs[:2], hidden_states)
        annotations = encoder_outputs["last_hidden_state"]
        final_state = encoder_outputs.get("final_state")
        if final_state is None:
            raise ValueError(
                "encoder_outputs has no final_state, from which the decoder starts: pass what this "
                "model's encoder returns"
            )
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=annotations,
            encoder_final_state=final_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=annotations,
            encoder_hidden_states=encoder_outputs.get("hidden_states"),
        )


class BahdanauForConditionalGeneration(BahdanauPreTrainedModel, GenerationMixin):
    """The translation model: `BahdanauModel` and a softmax over the target vocabulary."""

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.weight": "model.decoder.embed_tokens.weight"
    }

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.model = BahdanauModel(config)
        self.lm_head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the library would build a cache of keys and values; ours is made in forward

    def get_encoder(self, modality: str | None = None) -> BahdanauEncoder:
        """Return the encoder."""
        return self.model.encoder

    def get_decoder(self) -> BahdanauDecoder:
        """Return the decoder."""
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the encoder's embedding."""
        return self.model.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's embedding."""
        self.model.encoder.embed_tokens = value

    def _resize_token_embeddings(
        self,
        new_num_tokens: int | None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Give both sides `new_num_tokens` rows: every token can then be read and emitted."""
        decoder = self.model.decoder
        old = decoder.embed_tokens
        decoder.embed_tokens = self._get_resized_embeddings(
            old, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        decoder.embed_tokens.requires_grad_(old.weight.requires_grad)
        embeddings = super()._resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.encoder_vocab_size = None
        return embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return the decoder's input for labels `(B, T)`; data collators call this."""
        config = self.config
        return shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)

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
        label_smoothing: float = 0.0,
        skip_logits: bool = False,
        **kwargs,
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
            label_smoothing: share of probability spread evenly over the vocabulary, in [0, 1).
            skip_logits: with labels: compute the loss on real tokens alone and return no logits.
            kwargs: ignored.

        Raises:
            ValueError: an id or a label out of range, a row without a real token, inputs missing or
                given twice, a foreign cache.
        """
        if labels is not None:
            use_cache = False
            _check_ids(labels.masked_fill(labels == IGNORED_LABEL, 0), self.vocab_size, "labels")
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        loss = logits = None
        if labels is not None and skip_logits:
            real = labels != IGNORED_LABEL
            scored, labels = self._logits(hidden[real]), labels[real]
        else:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = scored = self._logits(hidden[:, keep])
        if labels is not None:
            loss = F.cross_entropy(
                scored.flatten(0, -2).float(),
                labels.flatten(),
                ignore_index=IGNORED_LABEL,
                reduction="mean" if num_items_in_batch is None else "sum",
                label_smoothing=label_smoothing,
            )
            if num_items_in_batch is not None:
                loss = loss / num_items_in_batch
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(F.dropout(hidden, self.config.readout_dropout, self.training))

    @property
    def vocab_size(self) -> int:
        """Tokens the model can emit."""
        return self.lm_head.out_features

    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, **kwargs):
        """Prepare one step; a full prefix passed with its cache is cut to what is new."""
        cache = kwargs.get("past_key_values")
        if next_sequence_length is None and cache is not None:
            done = cache.get_seq_length()
            if 0 < done < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - done
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )


__all__ = ["BahdanauForConditionalGeneration", "BahdanauModel", "BahdanauPreTrainedModel"]
