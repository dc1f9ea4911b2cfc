"""What is asked of the search: the checkpoint's defaults filled in, mistakes in one line."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from bahdanau_hf.errors import InputError
from bahdanau_hf.inference.search_options import SearchRequest, make_request


def request(
    defaults: dict[str, Any] | None = None, use_attention: bool = True, **options: Any
) -> SearchRequest:
    model = SimpleNamespace(
        generation_config=GenerationConfig(**(defaults or {})),
        config=SimpleNamespace(use_attention=use_attention),
    )
    return make_request(model, **options)  # type: ignore[arg-type]


NOTHING = SearchRequest(
    num_beams=1,
    num_return_sequences=1,
    return_alignments=False,
    return_scores=False,
    return_confidence=False,
    max_new_tokens=128,
    length_penalty=0.0,
    glossary=None,
    replacements=None,
    generate_kwargs={"max_length": 129},
)


def test_nothing_asked() -> None:
    found = request()
    assert found.glossary.terms == {}  # which copies addresses
    assert found._replace(glossary=None) == NOTHING


def test_everything_asked() -> None:
    found = request(
        num_beams=3,
        num_return_sequences=2,
        return_alignments=True,
        max_new_tokens=9,
        length_penalty=2,
        return_scores=True,
        replace_unknown={"Ann": "安"},
        no_repeat_ngram_size=3,
    )
    generate = {"no_repeat_ngram_size": 3, "length_penalty": 2.0, "max_length": 10}
    assert found._replace(glossary=None) == NOTHING._replace(
        num_beams=3,
        num_return_sequences=2,
        return_alignments=True,
        return_scores=True,
        max_new_tokens=9,
        length_penalty=2.0,
        replacements={"Ann": "安"},
        generate_kwargs=generate,
    )
    assert isinstance(found.generate_kwargs["length_penalty"], float)


def test_the_checkpoints_defaults_count() -> None:
    defaults = {"num_beams": 4, "max_new_tokens": 7}
    assert request(defaults)._replace(glossary=None) == NOTHING._replace(
        num_beams=4,
        max_new_tokens=7,
        length_penalty=1.0,
        generate_kwargs={"max_new_tokens": 7},
    )
    assert request({"max_length": 6}, max_length=4).generate_kwargs == {"max_length": 4}
    assert request({"do_sample": True}, num_return_sequences=3).num_beams == 1


def test_several_translations_bring_beams_and_scores() -> None:
    found = request(num_return_sequences=3)
    assert (found.num_beams, found.return_scores) == (3, True)
    assert request(num_return_sequences=2).return_scores
    assert request(num_return_sequences=3, do_sample=True).num_beams == 1
    assert request(num_return_sequences=2, num_beams=2).num_beams == 2
    sampled = request(num_return_sequences=3, num_beams=1, do_sample=True)
    assert (sampled.num_beams, sampled.generate_kwargs["do_sample"]) == (1, True)


def test_a_length_penalty_is_for_beams() -> None:
    assert "length_penalty" not in request(length_penalty=2.0).generate_kwargs
    assert request(length_penalty=0.0, num_beams=2).generate_kwargs["length_penalty"] == 0.0
    assert "length_penalty" not in request(num_beams=2).generate_kwargs


@pytest.mark.parametrize(
    ("given", "expected"), [(True, {}), (False, None), ({"a": "b"}, {"a": "b"})]
)
def test_words_for_the_unknown(given: Any, expected: dict[str, str] | None) -> None:
    assert request(replace_unknown=given).replacements == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, not 0"),
        ({"num_beams": True}, "num_beams must be a whole number of at least 1, not True"),
        ({"num_beams": 1.0}, "num_beams must be a whole number of at least 1, not 1.0"),
        (
            {"num_return_sequences": 0},
            "num_return_sequences must be a whole number of at least 1, not 0",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, not 0"),
        (
            {"num_return_sequences": 3, "num_beams": 2},
            "3 translations of a sentence need at least as many beams, not 2",
        ),
        (
            {"replace_unknown": "x" * 70},
            f"replace_unknown must be True, False or a dictionary, not '{'x' * 59}",
        ),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        request(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("options", [{"return_alignments": True}, {"replace_unknown": True}])
def test_attention_is_asked_of_a_model_that_has_it(options: dict[str, Any]) -> None:
    message = r"^this model has no attention \(use_attention is false\)$"
    with pytest.raises(InputError, match=message):
        request(use_attention=False, **options)
    assert request(use_attention=False, return_scores=True).return_scores
