"""Bahdanau's attention as a module."""

from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """e_j = v_a^T tanh(W_a s + U_a h_j),   alpha = softmax(e)."""

    def __init__(self, state_size: int, annotation_size: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(state_size, width, bias=False)  # W_a
        self.key = nn.Linear(annotation_size, width, bias=False)  # U_a
        self.score = nn.Linear(width, 1, bias=False)  # v_a

    def forward(self, state: Tensor, annotations: Tensor) -> Tensor:
        """Return the weights `(B, S)` for a state `(B, H)` and annotations `(B, S, C)`."""
        features = self.query(state).unsqueeze(1) + self.key(annotations)
        return self.score(features).squeeze(-1).softmax(dim=-1)
