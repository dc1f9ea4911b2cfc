"""An encoder that was written for LSTM layers and now has GRU layers."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Two GRU layers over the source."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.rnn = nn.GRU(embedding_size, hidden_size, num_layers=2, batch_first=True)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return annotations `(B, S, H)`, and the last state of the top layer, `(B, H)`."""
        annotations, (state, _) = self.rnn(self.embedding(input_ids))
        return annotations, state
