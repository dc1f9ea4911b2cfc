import torch

B, S = 2, 5
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def attend(exercise, model):
    """The exercise's answer, and the package's, for the same numbers."""
    attention, config = model.model.decoder.attention, model.config
    s = torch.randn(B, config.hidden_size).double()
    h = torch.randn(B, S, config.annotation_size).double()
    keys, bias = attention.key(h), torch.zeros(B, S).double().masked_fill(~MASK, -1e30)
    own = exercise.attend(attention.query(s), keys, h, MASK, attention.score.weight[0])
    return own, attention(s, keys, h, bias)


def test_nothing_goes_to_padding(exercise, model):
    (_, weights), _ = attend(exercise, model)
    lost = float(weights[1, 3:].sum())
    assert lost == 0, f"{lost:.0%} of the attention of a short sentence goes to its padding"


def test_context_and_weights_are_the_models(exercise, model):
    (context, weights), (right_context, right_weights) = attend(exercise, model)
    torch.testing.assert_close(weights, right_weights)
    torch.testing.assert_close(context, right_context)
