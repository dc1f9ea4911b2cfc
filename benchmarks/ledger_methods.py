"""Ideas of the ledger that no flag of scripts/train.py asks for, as changes of a training.

They are here to be measured; what does not pay does not enter the package.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from datasets import concatenate_datasets
from tokenizers import Tokenizer, decoders, models, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bahdanau_hf.alignment.guided_loss import add_best_sources, guided_attention_loss
from bahdanau_hf.data import tokenization
from bahdanau_hf.data.batching import IGNORED_LABEL
from bahdanau_hf.data.preprocessing import encode_pairs, load_pairs, pair_texts
from bahdanau_hf.data.tokenization import EOS_ID, SPECIAL_TOKENS, UNK_ID
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.modeling.modeling_bahdanau import BahdanauGRUCell

from .study_systems import Batch, batch_loss

if TYPE_CHECKING:
    from .study_training import Study

Files = Mapping[str, Path]


class Method:
    """What a training does besides its flags; as it stands, nothing.

    One instance serves an idea: `study` comes first and once, `build` begins each training.

    Attributes:
        file: name of the file of pairs that it needs, if any.
    """

    file: str | None = None

    def patched(self) -> AbstractContextManager[Any]:
        """What has to be replaced in the package meanwhile."""
        return nullcontext()

    def study(self, study: Study, files: Files) -> Study:
        """Change the pairs or their tokens."""
        return study

    def build(self, model: PreTrainedModel) -> None:
        """Change a fresh model."""

    def batch(self, batch: Batch, share: float) -> Batch:
        """Change a batch, when `share` of the steps in [0, 1) is done."""
        return batch

    def batches_a_step(self, share: float) -> int:
        """How many batches make a step of the optimizer."""
        return 1

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
        """Mean loss of a target token."""
        return batch_loss(model, batch, label_smoothing)

    def after_step(self, model: PreTrainedModel, share: float) -> None:
        """Look at the weights after a step."""

    def finish(self, model: PreTrainedModel) -> None:
        """Change the weights at the end."""


# --- regularisation ------------------------------------------------------------------------------


@dataclasses.dataclass
class WordDropout(Method):
    """Some words become `<unk>`, on both sides (Gal and Ghahramani 2016, as inputs go)."""

    p: float

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
        """As without, of another batch."""
        started = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        words = {"input_ids": batch["input_ids"], "decoder_input_ids": started}
        drop = {name: self._drop(ids) for name, ids in words.items()}
        return batch_loss(model, {**batch, **drop}, label_smoothing)

    def _drop(self, ids: Tensor) -> Tensor:
        is_dropped = (torch.rand(ids.shape) < self.p) & (ids > EOS_ID)
        return ids.masked_fill(is_dropped, UNK_ID)


@dataclasses.dataclass
class VariationalDropout(Method):
    """One mask for all steps of a sentence (Gal and Ghahramani 2016); the plain dropout is off."""

    p: float

    def build(self, model: PreTrainedModel) -> None:
        """Put the masks behind embeddings and before the output layer."""
        model.config.embedding_dropout = model.config.readout_dropout = 0.0
        for side in (model.model.encoder, model.model.decoder):
            side.embed_tokens.register_forward_hook(self._on_embeddings)
        model.model.register_forward_hook(self._on_output)

    def _mask(self, like: Tensor) -> Tensor:
        return F.dropout(like.new_ones(like.shape[0], 1, like.shape[2]), self.p)

    def _on_embeddings(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self._mask(output) if module.training else output

    def _on_output(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if module.training:
            output.last_hidden_state = output.last_hidden_state * self._mask(
                output.last_hidden_state
            )
        return output


# --- weights and steps ---------------------------------------------------------------------------


class _Shadow(Method):
    """Weights beside the model's, which take their place at the end."""

    def build(self, model: PreTrainedModel) -> None:
        """Begin with the first weights."""
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.steps = 0

    @torch.no_grad()
    def move(self, model: PreTrainedModel, part: float) -> None:
        """Move a part of the way to the model's weights."""
        torch._foreach_lerp_(self.weights, list(model.parameters()), part)

    @torch.no_grad()
    def finish(self, model: PreTrainedModel) -> None:
        """Take them."""
        for parameter, weight in zip(model.parameters(), self.weights, strict=True):
            parameter.copy_(weight)


@dataclasses.dataclass
class MovingAverage(_Shadow):
    """An exponential moving average of the weights (Polyak and Juditsky 1992)."""

    decay: float

    def after_step(self, model: PreTrainedModel, share: float) -> None:
        """Take the step in, by more in the beginning, when there is little to remember."""
        self.steps += 1
        self.move(model, 1 - min(self.decay, self.steps / (self.steps + 10)))


@dataclasses.dataclass
class LastAverage(_Shadow):
    """The mean of the weights after each of the last steps."""

    share: float

    def after_step(self, model: PreTrainedModel, share: float) -> None:
        """Take the step in, if it is one of the last."""
        if share >= 1 - self.share:
            self.steps += 1
            self.move(model, 1 / self.steps)


@dataclasses.dataclass
class LateLargeBatches(Method):
    """Two batches a step, from a share of the training on."""

    since: float

    def batches_a_step(self, share: float) -> int:
        """One, then two."""
        return 2 if share >= self.since else 1


# --- the cells -----------------------------------------------------------------------------------


class ResidualEncoder(Method):
    """Adds to the upper encoder layers' states what they read; for `--encoder_layers` above 1."""

    def __init__(self) -> None:
        self.parts: dict[int, slice] = {}  # by layer, the half of the input that is its direction's

    def patched(self) -> AbstractContextManager[Any]:
        """The run of a layer adds its input."""
        run = modeling_bahdanau.run_gru

        def run_and_add(x: Tensor, layer: nn.GRU, int8: bool = False) -> Tensor:
            states = run(x, layer, int8)
            part = self.parts.get(id(layer))
            return states if part is None else states + x[..., part]

        return patch.object(modeling_bahdanau, "run_gru", run_and_add)

    def build(self, model: PreTrainedModel) -> None:
        """Find the upper layers."""
        encoder, width = model.model.encoder, model.config.hidden_size
        self.parts = {id(layer): slice(0, width) for layer in encoder.forward_layers[1:]}
        self.parts |= {id(layer): slice(width, None) for layer in encoder.backward_layers[1:]}


class NormalisedCells(Method):
    """Layer normalisation of both products in every cell, gate by gate (Ba et al. 2016).

    The cells are modules of another type, so they are computed by these, step by step.
    """

    def build(self, model: PreTrainedModel) -> None:
        """Put cells that have gains and biases of their own in the place of all others."""
        for parent in [*model.modules()]:
            for name, cell in parent.named_children():
                if isinstance(cell, nn.GRU | nn.GRUCell):
                    kind = NormalisedGRU if isinstance(cell, nn.GRU) else NormalisedCell
                    new = kind(cell.input_size, cell.hidden_size).to(next(cell.parameters()))
                    new.load_state_dict(cell.state_dict(), strict=False)
                    setattr(parent, name, new)


class NormalisedCell(BahdanauGRUCell):
    """The decoder's; the biases of the products are not used."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.norms = _gains_and_biases(hidden_size)

    def forward(self, input: Tensor, hx: Tensor, hold: Tensor | None = None) -> Tensor:
        """Update the state, `(B, H)`."""
        gates = _normalise(F.linear(input, self.weight_ih), self.norms[:3])
        return _update(gates, hx, self.weight_hh, self.norms[3:], 0.0 if hold is None else hold)


class NormalisedGRU(nn.GRU):
    """The encoder's; the biases of the products are not used."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.norms = _gains_and_biases(hidden_size)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`(S, B, input)` to the states after each step, `(S, B, H)`, and the last one."""
        state = input.new_zeros(input.shape[1], self.hidden_size) if hx is None else hx
        states = []
        for gates in _normalise(F.linear(input, self.weight_ih_l0), self.norms[:3]):
            state = _update(gates, state, self.weight_hh_l0, self.norms[3:])
            states.append(state)
        return torch.stack(states), state


def _gains_and_biases(width: int) -> nn.ModuleList:
    """Of the gates from the input and from the state, three each."""
    return nn.ModuleList(nn.LayerNorm(width) for _ in range(6))


def _normalise(products: Tensor, norms: nn.ModuleList) -> Tensor:
    gates = products.float().unflatten(-1, (3, -1)).unbind(-2)
    return torch.stack([norm(g) for norm, g in zip(norms, gates, strict=True)], dim=-2)


def _update(
    gates: Tensor, s: Tensor, weight: Tensor, norms: nn.ModuleList, hold: Tensor | float = 0.0
) -> Tensor:
    x_r, x_z, x_n = gates.unbind(-2)
    s_r, s_z, s_n = _normalise(F.linear(s, weight), norms).unbind(-2)
    update = torch.sigmoid(x_z + s_z + hold)
    new = torch.tanh(x_n + torch.sigmoid(x_r + s_r) * s_n)
    return (1 - update) * new + update * s


# --- the attention -------------------------------------------------------------------------------


@dataclasses.dataclass
class Coverage(Method):
    """Looking twice at a place costs (See et al. 2017, eq. 12), so that nothing is said twice."""

    weight: float

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
        """Cross-entropy, and the overlap of each step's attention with the sum of those before."""
        outputs = model(
            **batch, skip_logits=True, label_smoothing=label_smoothing, output_attentions=True
        )
        alpha = outputs.cross_attentions[0][:, 0].float()  # (B, T, S)
        overlap = torch.minimum(alpha, alpha.cumsum(dim=1) - alpha).sum(dim=-1)
        is_real = batch["labels"] != IGNORED_LABEL
        return outputs.loss + self.weight * overlap[is_real].mean()


@dataclasses.dataclass
class GuidedAttention(Method):
    """The attention learns a statistical aligner's links, as `--guided_attention_weight` does."""

    weight: float

    def study(self, study: Study, files: Files) -> Study:
        """Add the links."""
        return dataclasses.replace(study, encoded=add_best_sources(study.encoded))

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
        """Cross-entropy of the words, and of the links."""
        words = {name: tensor for name, tensor in batch.items() if name != "best_sources"}
        outputs = model(
            **words, skip_logits=True, label_smoothing=label_smoothing, output_attentions=True
        )
        guided = guided_attention_loss(outputs.cross_attentions[0][:, 0], batch["best_sources"])
        return outputs.loss + self.weight * guided / (batch["labels"] != IGNORED_LABEL).sum()


# --- tokens --------------------------------------------------------------------------------------


class ChineseWords(Method):
    """BPE may join Chinese characters, which otherwise stand alone."""

    def patched(self) -> AbstractContextManager[Any]:
        """Another pattern of pieces."""
        one = f"|[{tokenization.CJK_SCRIPTS}]|"
        pieces = tokenization._BPE_PIECE.replace(one, f"|[{tokenization.CJK_SCRIPTS}]+|")
        return patch.object(tokenization, "_BPE_PIECE", pieces)


class Unigram(Method):
    """A unigram model of subwords (Kudo 2018) instead of BPE, over the same pieces of text."""

    def study(self, study: Study, files: Files) -> Study:
        """Train it and encode the pairs anew."""
        data = study.data_args
        texts = pair_texts(study.texts["train"], data.source_lang, data.target_lang)
        tokenizer = _train_unigram(study.tokenizer, *texts)
        encoded, _ = encode_pairs(study.texts["train"], tokenizer, data)
        return dataclasses.replace(study, tokenizer=tokenizer, encoded=encoded)


def _train_unigram(
    like: PreTrainedTokenizerFast, sources: list[str], targets: list[str]
) -> PreTrainedTokenizerFast:
    """As many tokens as the tokenizer has, the target's with the low ids."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = like.backend_tokenizer.normalizer
    backend.pre_tokenizer = like.backend_tokenizer.pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=len(like),
        special_tokens=list(SPECIAL_TOKENS),
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(sources + targets, trainer)
    scores = dict(json.loads(backend.to_str())["model"]["vocab"])
    used = {token for encoding in backend.encode_batch(targets) for token in encoding.tokens}
    order = [*SPECIAL_TOKENS]
    for is_used in (True, False):
        order += [t for t in scores if (t in used) == is_used and t not in SPECIAL_TOKENS]
    target_size = len(SPECIAL_TOKENS) + len((used & set(scores)) - set(SPECIAL_TOKENS))
    backend.model = models.Unigram([(t, scores[t]) for t in order], unk_id=UNK_ID)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.post_processor = like.backend_tokenizer.post_processor
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{**like.init_kwargs, "target_vocab_size": target_size, "tokenizer_kind": "unigram"},
    )


# --- other pairs ---------------------------------------------------------------------------------


def _encoded_file(study: Study, path: Path) -> Any:
    """Another file's pairs by the study's tokens."""
    data = dataclasses.replace(study.data_args, train_file=str(path))
    return encode_pairs(load_pairs(data)[0]["train"], study.tokenizer, data)[0]


@dataclasses.dataclass(kw_only=True)
class OtherPairs(Method):
    """Learn a file's pairs, instead of the study's or besides them."""

    file: str
    besides: bool

    def study(self, study: Study, files: Files) -> Study:
        """Take the file's pairs."""
        encoded = _encoded_file(study, files[self.file])
        if self.besides:
            encoded = concatenate_datasets([study.encoded, encoded])
        return dataclasses.replace(study, encoded=encoded)


@dataclasses.dataclass(kw_only=True)
class Pretraining(Method):
    """Learn a file's pairs first, those that are no longer than nearly all of the study's."""

    file: str
    until: float
    longest: int

    def study(self, study: Study, files: Files) -> Study:
        """Keep the file's pairs for `batch`; the study's stay what they are."""
        encoded = _encoded_file(study, files[self.file])
        lengths = zip(encoded["input_ids"], encoded["labels"], strict=True)
        kept = [i for i, pair in enumerate(lengths) if max(map(len, pair)) <= self.longest]
        self.first = dataclasses.replace(study, encoded=encoded.select(kept))
        return study

    def build(self, model: PreTrainedModel) -> None:
        """Begin with the file's first batch."""
        self.batches: Iterator[Batch] = self.first.batches(seed=0)

    def batch(self, batch: Batch, share: float) -> Batch:
        """The file's batch, then the study's."""
        return next(self.batches) if share < self.until else batch
