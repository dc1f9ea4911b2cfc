import torch

SOURCE = torch.tensor([[5, 9, 6, 7, 3]])
WORDS = torch.tensor([[2, 8, 4, 10]])


def test_the_top_layers_state_asks(exercise, model):
    encoded, decoder = model.model.encoder(SOURCE), model.model.decoder
    source = decoder.read(encoded.last_hidden_state, encoded.final_state, None)
    states = list(decoder.start_state(encoded.final_state).unbind(1))
    _, weights = exercise.step(decoder, decoder.embed_tokens(WORDS[:, 0]), states, source)
    _, of_bottom = decoder.attention(states[0], source.keys, source.annotations, source.bias)
    assert not torch.allclose(weights, of_bottom), "the bottom layer's state asks the attention"


def test_states_and_weights_are_the_models(exercise, model):
    encoded, decoder = model.model.encoder(SOURCE), model.model.decoder
    source = decoder.read(encoded.last_hidden_state, encoded.final_state, None)
    states = list(decoder.start_state(encoded.final_state).unbind(1))
    expected = model(
        input_ids=SOURCE,
        decoder_input_ids=WORDS,
        output_attentions=True,
        output_hidden_states=True,
    )
    for t in range(WORDS.shape[1]):
        word = decoder.embed_tokens(WORDS[:, t])
        states, weights = exercise.step(decoder, word, states, source)
        torch.testing.assert_close(weights, expected.cross_attentions[0][:, 0, t])
        torch.testing.assert_close(states[-1], expected.decoder_hidden_states[-1][:, t])
