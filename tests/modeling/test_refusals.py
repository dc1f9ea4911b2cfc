"""What the model refuses, and whether the message says what to do."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from tests.helpers.batches import batch


def test_ids_out_of_range_are_named(tiny_model) -> None:
    model = tiny_model()
    good = torch.tensor([[5, 2]])
    with pytest.raises(ValueError, match=r"^input_ids has the id 17, but ids go from 0 to 16"):
        model(torch.tensor([[17, 2]]), decoder_input_ids=good)
    with pytest.raises(ValueError, match=r"^input_ids has the id -1"):
        model(torch.tensor([[-1, 2]]), decoder_input_ids=good)
    with pytest.raises(ValueError, match=r"decoder_input_ids has the id 13, but ids go from 0"):
        model(good, decoder_input_ids=torch.tensor([[13]]))
    with pytest.raises(ValueError, match="labels has the id 17, but ids go from 0 to 16"):
        model(good, labels=torch.tensor([[5, 17, -100]]))
    with pytest.raises(ValueError, match="labels has the id -99"):
        model(good, labels=torch.tensor([[5, -99]]))
    model(torch.tensor([[16, 2]]), labels=torch.tensor([[12, -100]]))  # the largest allowed


def test_a_row_without_a_real_token_is_named(tiny_model) -> None:
    mask = torch.tensor([[1, 1], [0, 0], [1, 0]])
    with pytest.raises(ValueError, match="row 1 of attention_mask has no real token"):
        tiny_model()(torch.ones(3, 2).long(), attention_mask=mask, labels=torch.ones(3, 1).long())


def test_inputs_missing_or_twice(tiny_model) -> None:
    model, ids, embeds = tiny_model(), torch.ones(1, 2).long(), torch.ones(1, 2, 5).double()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(decoder_input_ids=ids)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(ids, inputs_embeds=embeds, decoder_input_ids=ids)
    with pytest.raises(ValueError, match="exactly one of decoder_input_ids and decoder_inputs"):
        model(ids)
    with pytest.raises(ValueError, match="exactly one of decoder_input_ids and decoder_inputs"):
        model(ids, decoder_input_ids=ids, decoder_inputs_embeds=embeds)


def test_shapes_that_do_not_fit(tiny_model) -> None:
    model, ids = tiny_model(), torch.ones(2, 3).long()
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 4\), the source \(2, 3\)"):
        model(ids, attention_mask=torch.ones(2, 4), decoder_input_ids=ids)
    with pytest.raises(ValueError, match="decoder_attention_mask covers 2 steps, but there are 3"):
        model(ids, decoder_input_ids=ids, decoder_attention_mask=torch.ones(2, 2))


@pytest.mark.parametrize("changes", [{}, {"conditional_gru": True}], ids=str)
def test_rows_without_a_token_are_refused(tiny_model, changes) -> None:
    model, ids, none = tiny_model(**changes), torch.ones(2, 3).long(), torch.ones(2, 0).long()
    with pytest.raises(ValueError, match=r"^input of shape \(2, 0\): rows need at least one token"):
        model(none, decoder_input_ids=ids)
    for given in ({"decoder_input_ids": none}, {"labels": none}):
        with pytest.raises(ValueError, match=r"decoder_input of shape \(2, 0\): rows need at"):
            model(ids, **given)
    with pytest.raises(ValueError, match=r"^input of shape \(2, 0, 5\): rows need at least one"):
        model(inputs_embeds=torch.ones(2, 0, 5), decoder_input_ids=ids)
    assert model(ids[:, :1], labels=ids[:, :1]).logits.shape == (2, 1, 13)


def test_foreign_encoder_outputs(tiny_model) -> None:
    annotations = torch.zeros(1, 2, 14).double()
    for foreign in (BaseModelOutput(last_hidden_state=annotations), (annotations,)):
        with pytest.raises(ValueError, match="encoder_outputs has no final_state"):
            tiny_model()(encoder_outputs=foreign, decoder_input_ids=torch.ones(1, 1).long())


def test_labels_need_their_special_tokens(tiny_model) -> None:
    model = tiny_model(pad_token_id=None)
    with pytest.raises(ValueError, match=r"config\.pad_token_id"):
        model(**batch())


def test_padding_without_a_mask_is_announced(tiny_model, caplog, monkeypatch) -> None:
    logger = logging.get_logger("transformers.modeling_utils")
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    caplog.set_level("WARNING", logger="transformers")  # whatever an earlier test has left
    logging.warning_once.cache_clear()
    tiny_model()(batch()["input_ids"], decoder_input_ids=torch.ones(4, 1).long())
    assert "passing in an `attention_mask`" in caplog.text
    assert logger.name in {record.name for record in caplog.records}
