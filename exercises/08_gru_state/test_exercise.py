import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration

SOURCE = torch.tensor([[5, 9, 6, 7, 3], [8, 4, 11, 2, 3]])


def encode(exercise, config):
    """Annotations and state of the exercise's encoder, and of the package's, with its weights."""
    one_way = BahdanauConfig(**{**config.to_diff_dict(), "bidirectional_encoder": False})
    right = BahdanauForConditionalGeneration(one_way).eval().model.encoder
    encoder = exercise.Encoder(config.vocab_size, config.embedding_size, config.hidden_size)
    weights = {"embedding.weight": right.embed_tokens.weight}
    for i, layer in enumerate(right.forward_layers):
        for name, x in layer.named_parameters():
            weights[f"rnn.{name.removesuffix('0')}{i}"] = x
    encoder.load_state_dict(weights)
    return encoder(SOURCE), right(SOURCE)


def test_the_state_is_the_top_layers(exercise, config):
    (_, state), expected = encode(exercise, config)
    assert not torch.allclose(state, expected.final_state[:, 0]), (
        "this is the last state of the bottom layer"
    )
    torch.testing.assert_close(state, expected.final_state[:, -1])


def test_the_annotations_are_the_models(exercise, config):
    (annotations, _), expected = encode(exercise, config)
    torch.testing.assert_close(annotations, expected.last_hidden_state)
