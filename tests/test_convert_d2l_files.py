"""Converting the tutorial's files: which are refused and why, and the command."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bahdanau_hf.cli import main
from bahdanau_hf.convert_d2l import convert_tutorial, read_state_dict, read_tokens
from bahdanau_hf.data.tokenization import clean_text
from bahdanau_hf.errors import InputError
from tests.helpers.tutorial_oracle import (
    SOURCE_TOKENS,
    TARGET_TOKENS,
    TutorialOracle,
    random_weights,
    sensible_weights,
    split_words,
    write_files,
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return sensible_weights()


class Net(nn.Module):
    """Modules under the tutorial's names, enough to have its state dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embedding = nn.Embedding(len(SOURCE_TOKENS), 6)
        self.encoder.rnn = nn.GRU(6, 7, 2)
        self.decoder.attention = nn.Module()
        self.decoder.attention.W_k = nn.Linear(7, 7, bias=False)
        self.decoder.attention.W_q = nn.Linear(7, 7, bias=False)
        self.decoder.attention.w_v = nn.Linear(7, 1, bias=False)
        self.decoder.embedding = nn.Embedding(len(TARGET_TOKENS), 6)
        self.decoder.rnn = nn.GRU(13, 7, 2)
        self.decoder.dense = nn.Linear(7, len(TARGET_TOKENS))


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.write_text, (Path("sprung"), "")


def test_a_pickled_module_is_refused_and_the_advice_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, torch.Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net()
    net.load_state_dict(weights)
    files = write_files(tmp_path, weights)
    files["state_dict"].unlink()
    torch.save(net, "model.pt")
    with pytest.raises(InputError, match="pickled Python object") as caught:
        convert_tutorial("model.pt", files["source_vocab"], files["target_vocab"], "out")
    first, *code = str(caught.value).split("\n")
    assert "Net" in first
    assert "any code" in first
    assert len(code) == 2
    exec("\n".join(line.strip() for line in code), {"torch": torch})
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["model.pt", "model_h.pt"]
    saved = read_state_dict("model_h.pt")
    # Never is it the advice to write over what was given.
    Path("model.pt").rename("model_h.pt")
    with pytest.raises(InputError, match=r'state_dict\(\), "state_dict.pt"\)'):
        read_state_dict("model_h.pt")
    assert all(torch.equal(saved[name], weights[name]) for name in weights)
    assert not (tmp_path / "out").exists()


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder.embedding.weight": Trap()}, "trap.pt")
    with pytest.raises(InputError, match="pickled Python object"):
        read_state_dict("trap.pt")
    assert not Path("sprung").exists()
    torch.load("trap.pt", weights_only=False)
    assert Path("sprung").exists(), "the trap must work"


def without(weights: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name not in names}


def test_wrong_weights(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    W_k = "decoder.attention.W_k.weight"
    nan = weights[W_k].clone()
    nan[1, 2] = float("nan")
    cases: list[tuple[object, str]] = [
        (without(weights, W_k), rf"lacks {re.escape(W_k)}$"),
        ({**weights, "decoder.bridge.bias": torch.zeros(3)}, "has besides decoder.bridge.bias"),
        ({**weights, "encoder.rnn.weight_ih_l2": torch.zeros(3, 3)}, "lacks .* and 6 more"),
        ({**weights, "decoder.rnn.bias_ih_l1": torch.zeros(4)}, r"\(21,\), not \(4,\)"),
        ({**weights, "decoder.attention.w_v.weight": torch.zeros(7)}, "shape"),
        ({**weights, "encoder.rnn.weight_hh_l0": torch.zeros(28, 7)}, r"\(21, 7\), not \(28, 7\)"),
        ({**weights, W_k: nan}, "not made of finite numbers"),
        ({**weights, W_k: torch.zeros(7, 7).long()}, "not made of finite numbers"),
        ({"model": weights}, "'model' is dict, not a tensor"),
        ({**weights, 3: torch.zeros(1)}, "3 is Tensor"),
        (torch.zeros(3), "holds no state dictionary but Tensor"),
        ({}, "holds no state dictionary"),
        (random_weights(source_size=20), "source.txt has 19 tokens, but .* has 20 rows"),
        (random_weights(target_size=9), "target.txt has 21 tokens, but .* has 9 rows"),
    ]
    for content, message in cases:
        files = write_files(tmp_path, content)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message) as caught:
            convert_tutorial(**files, output_dir=tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_half_precision_is_widened(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "half.pt")
    saved = read_state_dict(tmp_path / "half.pt")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_wrong_files(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    files = write_files(tmp_path, weights)
    (tmp_path / "text").write_text("model")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(files["state_dict"].read_bytes()[:900])
    for name, message in (
        ("none", "cannot read .*none: No such file"),
        ("", "cannot read"),
        ("text", "not a file of torch.save"),
        ("empty", "not a file of torch.save"),
        ("cut", "not a file of torch.save"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    specials = "<unk>\n<pad>\n<bos>\n<eos>\n"
    for content, message in (
        (b"", "lacks <pad> <bos> <eos> <unk>"),
        (b"<unk>\n<pad>\n<eos>\na\n", "lacks <bos>:"),
        (f"{specials}a\nb\na\n".encode(), r":7: the token 'a' stands in line 5"),
        (f"{specials}\n\n".encode(), r":6: the token '' stands in line 5"),
        (specials.encode() + b"caf\xe9\n", ":5: not UTF-8"),
    ):
        path = tmp_path / "tokens"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_tokens(path)
    with pytest.raises(InputError, match="cannot read"):
        read_tokens(tmp_path / "none")
    with pytest.raises(InputError, match="num_steps must be"):
        convert_tutorial(**files, output_dir=tmp_path / "out", num_steps=0)
    for name in (".", "text"):
        with pytest.raises(InputError, match="not an empty folder"):
            convert_tutorial(**files, output_dir=tmp_path / name)
    with pytest.raises(InputError, match="cannot write /dev/null/out: Not a directory"):
        convert_tutorial(**files, output_dir="/dev/null/out")


def test_token_lists_are_read_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens = ["<unk>", "<pad>", "<bos>", "<eos>", " ", "", "\u3000", "a\x85b", "\u2028", "x "]
    for end, bom in (("\n", ""), ("\r\n", ""), ("\n", "\ufeff")):
        text = bom + "".join(f"{token}{end}" for token in tokens)
        path.write_bytes(text.encode())
        assert read_tokens(path) == tokens
    path.write_bytes("\n".join(tokens).encode())
    assert read_tokens(path) == tokens


# --- the command ---------------------------------------------------------------------------------


def test_the_command(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {name: str(path) for name, path in write_files(tmp_path, weights).items()}
    flags = ["--source_vocab", files["source_vocab"], "--target_vocab", files["target_vocab"]]
    folder = str(tmp_path / "runs" / "out")
    command = ["convert-tutorial", files["state_dict"], *flags, "--output_dir", folder]
    assert main(command) == 0
    out, err = capsysbinary.readouterr()
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    only_target = len({*TARGET_TOKENS} - {*SOURCE_TOKENS})
    assert out == b""
    assert err.decode() == f"wrote {folder}: {num_parameters + 6 * only_target:,} parameters\n"

    lines = "call us .\nGo!\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["translate", "--model", folder, "--device", "cpu"]) == 0
    oracle = TutorialOracle(weights)
    greedy = [oracle.greedy(split_words(line)) for line in lines.splitlines()]
    expected = "".join(f"{clean_text(''.join(found.tokens))}\n" for found in greedy)
    assert capsysbinary.readouterr().out.decode() == expected

    assert main(command) == 2, "the folder holds a checkpoint now"
    assert b"not an empty folder: name another\n" in capsysbinary.readouterr().err
    torch.save(Net(), tmp_path / "model.pt")
    assert main(["convert-tutorial", str(tmp_path / "model.pt"), *flags, "--output_dir", "x"]) == 2
    reason, *code = capsysbinary.readouterr().err.decode().splitlines()
    assert reason.startswith("bahdanau-hf: error: ")
    assert [line.split("(")[0] for line in code] == ["    net = torch.load", "    torch.save"]
    assert not Path("x").exists()
