"""The encoder, and what every model class here shares: initialisation and the library's switches.

Dimensions: B batch, S source, E embedding, H hidden, C annotation (H, or 2H with two directions).
"""

# No `from __future__ import annotations`: the library reads `config: BahdanauConfig` as a type.
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_bahdanau import BahdanauConfig
from .recurrence_bahdanau import choose, run_gru


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


def embed(layer: nn.Embedding, ids: Tensor | None, embeds: Tensor | None, side: str) -> Tensor:
    """Look the ids up, or take the embeddings that were passed instead; `(B, S, E)`.

    Args:
        layer: the table.
        ids: `(B, S)`, or `None`.
        embeds: `(B, S, E)`, or `None`.
        side: how the arguments' names begin, for the message: `""` or `"decoder_"`.
    """
    if ids is not None and embeds is None:
        check_ids(ids, layer.num_embeddings, f"{side}input_ids")
        return layer(ids)
    if embeds is not None and ids is None:
        return embeds
    raise ValueError(f"pass exactly one of {side}input_ids and {side}inputs_embeds")


def check_ids(ids: Tensor, size: int, what: str) -> None:
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
    int8 = False  # whether products of decoding and encoding are computed in 8 bits
    _is_stateful = True  # assisted decoding is refused: a recurrent state cannot be rolled back
    _no_split_modules = ["BahdanauEncoder", "BahdanauDecoder"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    implementation: str | None = None

    def set_implementation(self, implementation: str | None) -> None:
        """Choose how the recurrence is computed; only speed and rounding depend on it.

        Args:
            implementation: `"reference"`, `"fast"`, `"graph"`, `"triton"`, or `None` for the
                default; see `choose`. Not saved with the model.

        Raises:
            ValueError: there is none of that name.
        """
        choose(implementation)
        for module in self.modules():
            if isinstance(module, BahdanauPreTrainedModel):
                module.implementation = implementation

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set initial weights, as `config.initializer` says.

        | parameter          | "xavier"            | "tutorial"          | "orthogonal"            |
        | ------------------ | ------------------- | ------------------- | ----------------------- |
        | embeddings         | normal(0, 1)        | normal(0, 1)        | normal(0, 1)            |
        | linear matrices    | Xavier uniform      | uniform ±1/sqrt(n)  | Xavier uniform          |
        | input matrices     | Xavier uniform      | Xavier uniform      | Xavier uniform          |
        | recurrent matrices | Xavier, all gates   | Xavier, all gates   | orthogonal, each gate   |
        | biases             | uniform ±1/sqrt(n)  | uniform ±1/sqrt(n)  | 0                       |

        The tutorial means Xavier for all of them, but its linear layers are lazy: when it draws the
        values they are not there yet, and so they keep PyTorch's own.

        Embeddings are multiplied by `embedding_initializer_range`, everything else by
        `initializer_range`; n is the width of a layer's input (of the state, in a GRU).
        """
        gain = self.config.initializer_range
        orthogonal = self.config.initializer == "orthogonal"
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.embedding_initializer_range)
        elif isinstance(module, nn.Linear | nn.GRU | nn.GRUCell):
            fan = module.in_features if isinstance(module, nn.Linear) else module.hidden_size
            bound = 0.0 if orthogonal else gain / fan**0.5
            is_lazy = isinstance(module, nn.Linear) and self.config.initializer == "tutorial"
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name or is_lazy:
                    init.uniform_(parameter, -bound, bound)
                elif "weight_hh" in name and orthogonal:
                    if not getattr(parameter, "_is_hf_initialized", False):
                        for gate in parameter.chunk(3):
                            init.orthogonal_(gate, gain=gain)
                else:
                    init.xavier_uniform_(parameter, gain=gain)

    def _resize_token_embeddings(
        self,
        new_num_tokens: int | None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Give both sides `new_num_tokens` rows: every token can then be read and emitted."""
        if new_num_tokens is None:
            if pad_to_multiple_of is None:
                return self.get_input_embeddings()
            new_num_tokens = self.get_input_embeddings().num_embeddings
        decoder = self.get_decoder()
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


class BahdanauEncoder(BahdanauPreTrainedModel):
    """GRU layers over the source, in one direction or two; padding never reaches a real token."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(
            config.encoder_vocab_size or config.vocab_size, config.embedding_size
        )
        widths = [config.embedding_size] + [config.annotation_size] * (config.encoder_layers - 1)
        self.forward_layers = nn.ModuleList(nn.GRU(width, config.hidden_size) for width in widths)
        self.backward_layers = nn.ModuleList(
            nn.GRU(width, config.hidden_size)
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
        **kwargs: Any,
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
        inputs_embeds = embed(self.embed_tokens, input_ids, inputs_embeds, "")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mask = _source_mask(attention_mask, inputs_embeds)
        position = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        if self.config.encoder_reads_padding:
            order = position
            lengths = torch.full_like(mask.sum(1), mask.shape[1])
        else:
            # Real tokens first, in their order; what follows them cannot reach them. No two keys
            # are equal, so that any sort will do (ONNX has no stable one).
            order = torch.where(mask, position, position + mask.shape[1]).argsort(dim=1)
            lengths = mask.sum(1).clamp(min=1)  # a compiled model cannot refuse an empty row
        orders = [order]
        if self.backward_layers:
            # The same, with each row's real tokens turned round.
            last = lengths[:, None] - 1
            orders.append(order.gather(1, torch.where(position <= last, last - position, position)))
        # Rows of the flattened batch: there (steps first), back again, and each row's last step.
        B, S = mask.shape
        rows = torch.arange(B, device=mask.device)
        there = [(rows[:, None] * S + order).t().flatten() for order in orders]
        back = [(order.argsort(dim=1) * B + rows[:, None]).flatten() for order in orders]
        last_step = (lengths - 1) * B + rows

        directions = [layers for layers in (self.forward_layers, self.backward_layers) if layers]

        hidden = F.dropout(inputs_embeds, self.config.embedding_dropout, self.training)
        if not self.config.encoder_reads_padding:
            hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)  # whatever stands there, NaN too
        all_hidden, final_states = [hidden], []
        for i, layers in enumerate(zip(*directions, strict=True)):
            if i > 0:
                hidden = F.dropout(hidden, self.config.dropout, self.training)
            outputs, finals = [], []
            for layer, to_steps, to_rows in zip(layers, there, back, strict=True):
                steps = hidden.flatten(0, 1).index_select(0, to_steps).view(S, B, -1)
                output = run_gru(steps, layer, self.int8).flatten(0, 1)  # (S * B, H)
                finals.append(output.index_select(0, last_step))
                outputs.append(output.index_select(0, to_rows).view(B, S, -1))
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
