import torch

B, S = 2, 5


def make(exercise, model):
    """The exercise's attention with the weights of the package's, which comes second."""
    config, right = model.config, model.model.decoder.attention
    sizes = config.hidden_size, config.annotation_size, config.attention_hidden_size
    attention = exercise.AdditiveAttention(*sizes).double()
    attention.load_state_dict(right.state_dict())
    return attention, right


def test_another_state_looks_elsewhere(exercise, model):
    attention, _ = make(exercise, model)
    h = torch.randn(B, S, model.config.annotation_size).double()
    states = 3 * torch.randn(2, B, model.config.hidden_size).double()
    one, other = (attention(state, h) for state in states)
    assert not torch.allclose(one, other), (
        "every state gets the same weights: the query cancels out in the softmax"
    )


def test_the_weights_are_the_models(exercise, model):
    attention, right = make(exercise, model)
    s = torch.randn(B, model.config.hidden_size).double()
    h = torch.randn(B, S, model.config.annotation_size).double()
    _, weights = right(s, right.key(h), h, torch.zeros(B, S).double())
    torch.testing.assert_close(attention(s, h), weights)
