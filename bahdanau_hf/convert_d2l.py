"""Turns a model that the tutorial's program has trained into a checkpoint of ours.

The tutorial saves the state dictionary of a GRU encoder-decoder, two vocabularies apart from it,
each a list of tokens whose place is their id. Ours has one joint vocabulary: `SPECIAL_TOKENS`, the
target's tokens, the source's own. So the rows of embeddings and output layer change places; all
other weights are taken as they are.

What the tutorial does before its model reads a sentence is done by the checkpoint's tokenizer:
lower case, `,.!?` split from the word before them (only if the source vocabulary was made so; else
words are what stands between spaces), `<eos>` behind, and what is longer than `num_steps` tokens
cut off, the `<eos>` with it. Its encoder reads every sentence padded to `num_steps`: `Translator`
pads so; whoever calls the model alone passes `padding="max_length"` to the tokenizer.

A given target (`text_target=`) is cut into characters where it is Chinese. Latin words in it are
the source's words, where the tutorial has letters: such labels become `<unk>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from .data.tokenization import SPECIAL_TOKENS, wrap_tokenizer
from .errors import InputError
from .files import text_lines, writing
from .languages import CJK_MARKS, CJK_SCRIPTS
from .modeling.configuration_bahdanau import BahdanauConfig
from .modeling.modeling_bahdanau import BahdanauForConditionalGeneration

NUM_STEPS = 10
DROPOUT = 0.1  # the tutorial's; weights do not tell, and it only matters if training goes on

_SPLIT_MARKS = ",.!?"
_GRU_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def convert_tutorial(
    state_dict: str | Path,
    source_vocab: str | Path,
    target_vocab: str | Path,
    output_dir: str | Path,
    *,
    num_steps: int = NUM_STEPS,
    source_lang: str = "en",
    target_lang: str = "zh",
) -> BahdanauForConditionalGeneration:
    """Write a checkpoint that translates as the tutorial's model does.

    `state_dict` is the file that `torch.save(net.state_dict(), ...)` wrote; vocabularies have a
    token a line, in the order of the ids. `output_dir` must be empty or not exist yet. `num_steps`
    are the tokens to which the tutorial pads and cuts sentences. Returned is the model.

    Raises:
        InputError: a file that cannot be read or is not what it should be, vocabularies that do
            not belong to the weights, or a folder that is not empty.
    """
    if num_steps < 1:
        raise InputError(f"--num_steps must be at least 1, not {num_steps}")
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output_dir {folder} is not an empty folder: name another")
    weights = read_state_dict(state_dict)
    source_tokens = read_tokens(source_vocab)
    target_tokens = read_tokens(target_vocab)
    _check_shapes(weights, (source_vocab, len(source_tokens)), (target_vocab, len(target_tokens)))
    languages = {"source_lang": source_lang, "target_lang": target_lang}
    tokenizer = make_tokenizer(source_tokens, target_tokens, num_steps=num_steps, **languages)
    model = make_model(weights, source_tokens, target_tokens, num_steps=num_steps)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


# --- reading -------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dictionary, as float32 tensors on the CPU; nothing that the file holds is run.

    Raises:
        InputError: no such file, a pickled object, or no dictionary of finite tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # whatever a foreign or damaged file makes the reader stumble over
        pickled = re.search(r"GLOBAL (\S+)", str(error))
        if pickled:
            raise InputError(*_refusal(Path(path), pickled[1])) from None
        raise InputError(
            f"{path} is not a file of torch.save, or it is damaged: give the state dictionary, "
            "such as model_h.pt"
        ) from None
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dictionary but {type(content).__name__}")
    weights = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{path} holds no state dictionary: {name!r:.60} is {type(tensor).__name__}, not a "
                "tensor"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: {name} is not made of finite numbers")
        weights[name] = tensor.detach().to(torch.float32)
    return weights


def _refusal(path: Path, what: str) -> tuple[str, ...]:
    """Why the file is not read, and the lines that save what is."""
    right = path.with_name("model_h.pt" if path.name != "model_h.pt" else "state_dict.pt").name
    return (
        f"{path} holds a pickled Python object ({what}), not a state dictionary; unpickling it "
        "could run any code, so it is not read. If you trust the file, save its weights where the "
        "tutorial's classes are defined:",
        f'    net = torch.load("{path.name}", weights_only=False)',
        f'    torch.save(net.state_dict(), "{right}")',
    )


def read_tokens(path: str | Path) -> list[str]:
    """Read a vocabulary: one token a line, its id the number of the line, from 0.

    A token may be a space, and one of them empty, as the tutorial's splitting makes it.

    Raises:
        InputError: unreadable, not UTF-8, a token twice, or a special token missing.
    """
    tokens = [*text_lines(path)]
    places: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token in places:
            raise InputError(f"{path}:{number}: the token {token!r} stands in line {places[token]}")
        places[token] = number
    if missing := [token for token in SPECIAL_TOKENS if token not in places]:
        raise InputError(
            f"{path} lacks {' '.join(missing)}: give every token of the vocabulary, one a line, in "
            "the order of the ids"
        )
    return tokens


def _check_shapes(
    weights: Mapping[str, Tensor], source: tuple[str | Path, int], target: tuple[str | Path, int]
) -> None:
    """See that the weights are the tutorial's and as many as the vocabularies say."""
    layers = sum(name.startswith("encoder.rnn.weight_ih_l") for name in weights) or 1
    names = expected_shapes(1, 1, 1, 1, 1, layers)
    missing = [name for name in names if name not in weights]
    unknown = [name for name in weights if name not in names]
    for complaint, found in (("lacks", missing), ("has besides", unknown)):
        if found:
            raise InputError(
                "these are not the weights of the tutorial's attention model: the state dictionary "
                f"{complaint} {found[0]}" + (f" and {len(found) - 1} more" if found[1:] else "")
            )
    for name in names:
        if weights[name].dim() != (1 if "bias" in name else 2):
            raise InputError(f"{name} must not have the shape {tuple(weights[name].shape)}")
    tables = (("encoder.embedding.weight", *source), ("decoder.embedding.weight", *target))
    for name, file, size in tables:
        if len(weights[name]) != size:
            raise InputError(f"{file} has {size} tokens, but {name} has {len(weights[name])} rows")
    E = weights["encoder.embedding.weight"].shape[1]
    H = weights["encoder.rnn.weight_hh_l0"].shape[1]
    A = weights["decoder.attention.W_k.weight"].shape[0]
    for name, shape in expected_shapes(source[1], target[1], E, H, A, layers).items():
        if weights[name].shape != shape:
            raise InputError(
                f"{name} must be {shape}, not {tuple(weights[name].shape)}: only GRUs of one "
                "direction, as wide and as many on both sides, can be converted"
            )


def expected_shapes(
    source_size: int, target_size: int, E: int, H: int, A: int, num_layers: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tutorial's weights: E embedding, H hidden, A attention."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (source_size, E)}
    for side, first in (("encoder", E), ("decoder", E + H)):
        for i in range(num_layers):
            width = first if i == 0 else H
            sizes: tuple[tuple[int, ...], ...] = ((3 * H, width), (3 * H, H), (3 * H,), (3 * H,))
            for name, size in zip(_GRU_NAMES, sizes, strict=True):
                shapes[f"{side}.rnn.{name}_l{i}"] = size
    return {
        **shapes,
        "decoder.attention.W_k.weight": (A, H),
        "decoder.attention.W_q.weight": (A, H),
        "decoder.attention.w_v.weight": (1, A),
        "decoder.embedding.weight": (target_size, E),
        "decoder.dense.weight": (target_size, H),
        "decoder.dense.bias": (target_size,),
    }


# --- making --------------------------------------------------------------------------------------


def joint_tokens(source_tokens: Sequence[str], target_tokens: Sequence[str]) -> list[str]:
    """Our vocabulary: special tokens, the target's, the source's own, each in its file's order."""
    return list(dict.fromkeys([*SPECIAL_TOKENS, *target_tokens, *source_tokens]))


def make_tokenizer(
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    *,
    num_steps: int = NUM_STEPS,
    source_lang: str = "en",
    target_lang: str = "zh",
) -> PreTrainedTokenizerFast:
    """Make a tokenizer that cuts a source sentence as the tutorial's program does.

    If a word of the source ends in one of `,.!?`, or has one inside, sentences were split at spaces
    alone, and so they are here. If the target's tokens are single characters, decoding puts nothing
    between them; else spaces. Languages are kept with the tokenizer, `num_steps` as its
    `model_max_length`.
    """
    tokens = joint_tokens(source_tokens, target_tokens)
    words = [token for token in source_tokens if token not in SPECIAL_TOKENS]
    splits_marks = not any(mark in word[1:] for word in words for mark in _SPLIT_MARKS)
    marks = _SPLIT_MARKS if splits_marks else ""
    ids = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    spaces = [normalizers.Replace(space, " ") for space in ("\u202f", "\xa0")]
    backend.normalizer = normalizers.Sequence([*spaces, normalizers.Lowercase()])
    # A mark begins a token unless it follows a space, where it does so anyway.
    cjk = CJK_SCRIPTS + CJK_MARKS
    pieces = rf"[{cjk}]|[^ {cjk}][^ {marks}{cjk}]*"
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "removed", invert=True)
    characters = all(len(token) <= 1 for token in target_tokens if token not in SPECIAL_TOKENS)
    with_spaces = decoders.WordPiece(prefix="##", cleanup=False)
    backend.decoder = decoders.Fuse() if characters else with_spaces
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return wrap_tokenizer(
        backend,
        model_max_length=num_steps,
        target_vocab_size=len(target_tokens),
        tokenizer_kind="tutorial",
        cut_keeps_end=False,
        source_lang=source_lang,
        target_lang=target_lang,
    )


def make_model(
    weights: Mapping[str, Tensor],
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    *,
    num_steps: int = NUM_STEPS,
) -> BahdanauForConditionalGeneration:
    """Make our model of the tutorial's weights, with the ids of `joint_tokens`.

    What only the target has, the encoder reads as the source's `<unk>`.
    """
    tokens = joint_tokens(source_tokens, target_tokens)
    source_ids = {token: i for i, token in enumerate(source_tokens)}
    target_ids = {token: i for i, token in enumerate(target_tokens)}
    source_rows = [source_ids.get(token, source_ids["<unk>"]) for token in tokens]
    target_rows = [target_ids[token] for token in tokens[: len(target_tokens)]]
    layers = sum(name.startswith("encoder.rnn.weight_ih_l") for name in weights)
    model = BahdanauForConditionalGeneration(
        BahdanauConfig(
            vocab_size=len(target_tokens),
            encoder_vocab_size=len(tokens),
            embedding_size=weights["encoder.embedding.weight"].shape[1],
            hidden_size=weights["encoder.rnn.weight_hh_l0"].shape[1],
            attention_hidden_size=weights["decoder.attention.W_k.weight"].shape[0],
            encoder_layers=layers,
            decoder_layers=layers,
            bidirectional_encoder=False,
            encoder_reads_padding=True,
            dropout=DROPOUT,
            attention_dropout=DROPOUT,
        )
    )
    state = {
        "model.encoder.embed_tokens.weight": weights["encoder.embedding.weight"][source_rows],
        "model.decoder.embed_tokens.weight": weights["decoder.embedding.weight"][target_rows],
        "model.decoder.attention.key.weight": weights["decoder.attention.W_k.weight"],
        "model.decoder.attention.query.weight": weights["decoder.attention.W_q.weight"],
        "model.decoder.attention.score.weight": weights["decoder.attention.w_v.weight"],
        "lm_head.weight": weights["decoder.dense.weight"][target_rows],
        "lm_head.bias": weights["decoder.dense.bias"][target_rows],
    }
    for i in range(layers):
        for name in _GRU_NAMES:
            encoder = f"model.encoder.forward_layers.{i}.{name}_l0"
            state[encoder] = weights[f"encoder.rnn.{name}_l{i}"]
            state[f"model.decoder.layers.{i}.{name}"] = weights[f"decoder.rnn.{name}_l{i}"]
    model.load_state_dict(state)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    ids: dict[str, Any] = {name: getattr(model.config, name) for name in names}
    model.generation_config = GenerationConfig(max_new_tokens=num_steps, num_beams=1, **ids)
    return model.eval()
