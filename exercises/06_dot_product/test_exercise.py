import torch

B, T, S = 2, 4, 5


def numbers(model):
    """A state of every step, `(B, T, H)`, and annotations, `(B, S, C)`."""
    states = torch.randn(B, T, model.config.hidden_size).double()
    return states, torch.randn(B, S, model.config.annotation_size).double()


def test_no_score_exceeds_what_v_allows(exercise, model):
    attention = model.model.decoder.attention
    states, h = numbers(model)
    v = attention.score.weight[0]
    scores = exercise.attention_scores(100 * attention.query(states), attention.key(h), v)
    largest, limit = float(scores.abs().max()), float(v.abs().sum())
    assert largest <= limit + 1e-9, (
        f"a score is {largest:.1f}, though tanh is at most 1 and |v| sums to {limit:.1f}"
    )


def test_the_weights_are_the_models(exercise, model):
    attention = model.model.decoder.attention
    states, h = numbers(model)
    keys, v = attention.key(h), attention.score.weight[0]
    weights = exercise.attention_scores(attention.query(states), keys, v).softmax(dim=-1)
    no_mask = torch.zeros(B, S).double()
    for t in range(T):
        _, expected = attention(states[:, t], keys, h, no_mask)
        torch.testing.assert_close(weights[:, t], expected)
