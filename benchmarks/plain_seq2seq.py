"""The plain loop everything is measured against: PyTorch modules, one decoder step at a time.

The same operations, in the same order, as the attention tutorials have them: `nn.GRU` called once a
step, keys projected anew at every step, the vocabulary layer over all padded positions, a loss that
is masked afterwards, and greedy translation of one sentence after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainSeq2Seq(nn.Module):
    """A unidirectional GRU encoder-decoder with additive attention.

    Args:
        source_size: source vocabulary.
        target_size: target vocabulary.
        embedding_size: width of the embeddings.
        hidden_size: width of the GRU layers and of the attention.
        num_layers: GRU layers on each side.
        dropout: between layers and on attention weights.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, embedding_size)
        self.encoder = nn.GRU(embedding_size, hidden_size, num_layers, dropout=dropout)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)
        self.attention_dropout = nn.Dropout(dropout)
        self.target_embedding = nn.Embedding(target_size, embedding_size)
        self.decoder = nn.GRU(
            embedding_size + hidden_size, hidden_size, num_layers, dropout=dropout
        )
        self.output = nn.Linear(hidden_size, target_size)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, S)` ids to annotations `(B, S, H)` and state `(layers, B, H)`, padding included."""
        outputs, state = self.encoder(self.source_embedding(source).transpose(0, 1))
        return outputs.transpose(0, 1), state

    def decode(
        self, target: Tensor, annotations: Tensor, state: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the steps of `(B, T)` ids; logits `(B, T, V)` and the state after them."""
        mask = torch.arange(annotations.shape[1]) < lengths[:, None]
        outputs = []
        for x in self.target_embedding(target).transpose(0, 1):
            query = self.query(state[-1].unsqueeze(1)).unsqueeze(2)
            features = torch.tanh(query + self.key(annotations).unsqueeze(1))
            scores = self.score(features).squeeze(-1).masked_fill(~mask.unsqueeze(1), -1e6)
            alpha = self.attention_dropout(scores.softmax(dim=-1))
            context = torch.bmm(alpha, annotations)
            step = torch.cat([context, x.unsqueeze(1)], dim=-1).transpose(0, 1)
            output, state = self.decoder(step, state)
            outputs.append(output)
        return self.output(torch.cat(outputs)).transpose(0, 1), state

    def loss(self, source: Tensor, source_lengths: Tensor, labels: Tensor, start: int) -> Tensor:
        """Cross-entropy of padded labels `(B, T)` (-100 on padding), summed over real tokens."""
        begin = torch.full((labels.shape[0], 1), start)
        inputs = torch.cat([begin, labels[:, :-1].clamp(min=0)], dim=1)
        logits, _ = self.decode(inputs, *self.encode(source), source_lengths)
        losses = F.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
        return (losses * (labels != -100)).sum()

    @torch.no_grad()
    def translate(self, source: list[int], start: int, end: int, max_steps: int) -> list[int]:
        """Greedy translation of one sentence."""
        lengths = torch.tensor([len(source)])
        annotations, state = self.encode(torch.tensor([source]))
        word, words = torch.tensor([[start]]), []
        for _ in range(max_steps):
            logits, state = self.decode(word, annotations, state, lengths)
            word = logits.argmax(dim=2)
            if word.item() == end:
                break
            words.append(int(word.item()))
        return words
