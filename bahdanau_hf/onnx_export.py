"""Writes a checkpoint for ONNX Runtime: two graphs, the tokenizer, and how to search.

Dimensions: B batch, S source, N rows of the search (sentences times beams), L decoder layers,
H hidden, A attention, C annotation, V target vocabulary. Ids are int64, all else is float32.

- `encoder_model.onnx` reads the source once: `input_ids` and `attention_mask`, `(B, S)`, to
  `state` `(B, L, H)`, where the decoder starts, `annotations` `(B, S, C)`, `keys` `(B, S, A)` and
  `bias` `(B, S)`, 0 on real tokens.
- `decoder_model.onnx` takes a step: `input_ids` `(N, 1)`, `state` `(N, L, H)` and the encoder's
  other outputs with N rows, to `logits` `(N, V)`, `next_state` and `attention` `(N, S)`.
- `translation.json` holds what the search needs to know, `tokenizer.json` the vocabulary.

A model without attention has no `keys`, `bias` and `attention`; its `annotations` are `(B, 1, C)`.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from .batch_bahdanau import max_source_length
from .cache_bahdanau import CACHE, BahdanauCache
from .errors import InputError
from .loading import check_tokenizer
from .modeling_bahdanau import BahdanauForConditionalGeneration
from .recurrence_bahdanau import Memory
from .search_request import make_request

ENCODER_FILE, DECODER_FILE = "encoder_model.onnx", "decoder_model.onnx"
SETTINGS_FILE, TOKENIZER_FILE = "translation.json", "tokenizer.json"
DTYPES = ("float32", "int8")
FORMAT = 1  # of the settings and of the graphs' inputs and outputs

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # 14 brought the GRU as it is used here
_TOLERANCE = 1e-4  # between the graphs' numbers and PyTorch's; of real models it is 1e-6
# What `translation.json` carries over from the generation configuration, or what says nothing about
# which words are chosen.
_KNOWN_SETTINGS = {
    *("num_beams", "max_length", "max_new_tokens", "length_penalty", "early_stopping"),
    *("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("use_cache", "num_return_sequences", "return_dict_in_generate", "output_attentions"),
    *("output_scores", "output_logits", "output_hidden_states", "transformers_version"),
}


def export_onnx(
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    output_dir: str | Path,
    dtype: str = "float32",
) -> float:
    """Write what a translator outside Python and PyTorch needs, and compare it with the model.

    Args:
        model: the model; it is left as it is.
        tokenizer: the one it was trained with.
        output_dir: where the files go; those of an earlier export are replaced.
        dtype: `"float32"`, or `"int8"`: matrices in 8 bits, a quarter of the size, and products
            of integers where ONNX Runtime has them.

    Returns:
        The largest difference between the graphs' logits, states and attention weights and
        PyTorch's, on one batch of random ids.

    Raises:
        InputError: the extra is missing, the generation configuration asks for what the search
            outside does not know, or the folder cannot be written.
    """
    check_installed()
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    check_tokenizer(model.config, tokenizer)
    settings = {**translation_settings(model, tokenizer), "dtype": dtype}
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for graph, name in zip(_graphs(model), (ENCODER_FILE, DECODER_FILE), strict=True):
            if dtype == "int8":
                graph = _quantized(graph)
            (folder / name).write_bytes(graph.SerializeToString())
        difference = _largest_difference(model, folder)
        if dtype == "float32" and not difference <= _TOLERANCE:
            raise RuntimeError(
                f"the exported graphs are not the model: they differ by {difference:.1e}"
            )
        (folder / TOKENIZER_FILE).write_text(_tokenizer_text(tokenizer), encoding="utf-8")
        text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from None
    return difference


def check_installed() -> None:
    """See that the extra `[onnx]` is there, and a PyTorch that can write single ONNX operators.

    Raises:
        InputError: one is missing.
    """
    if not hasattr(torch.onnx, "ops"):
        raise InputError(f"exporting needs PyTorch 2.8 or newer, not {torch.__version__}")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise InputError(
            f"exporting needs {' and '.join(missing)}: pip install 'bahdanau-hf[onnx]'"
        )


def translation_settings(
    model: BahdanauForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """What the search outside must know: the marks, the limits, the beams.

    Raises:
        InputError: the generation configuration asks for more than that.
    """
    config: GenerationConfig = model.generation_config
    unknown = sorted(set(config.to_diff_dict()) - _KNOWN_SETTINGS)
    if unknown := [name for name in unknown if not name.startswith("_")]:
        raise InputError(
            f"the search outside of Python does not know {', '.join(unknown)}: take it out of "
            "generation_config.json, or translate with bahdanau-hf translate"
        )
    request = make_request(model)
    eos = config.eos_token_id
    reads_padding = model.config.encoder_reads_padding
    return {
        "format": FORMAT,
        "source_lang": tokenizer.init_kwargs.get("source_lang"),
        "target_lang": tokenizer.init_kwargs.get("target_lang"),
        "num_beams": request.num_beams,
        "max_new_tokens": request.max_new_tokens,
        "length_penalty": 1.0 if config.length_penalty is None else float(config.length_penalty),
        "early_stopping": config.early_stopping or False,
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_ids": eos if isinstance(eos, list) else [eos],
        "pad_token_id": config.pad_token_id or 0,
        "max_source_length": max_source_length(tokenizer),
        "cut_keeps_end": bool(tokenizer.init_kwargs.get("cut_keeps_end", True)),
        # An encoder that reads padding must always find as much of it as in training.
        "pad_source_to": max_source_length(tokenizer) if reads_padding else None,
    }


def _tokenizer_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """`tokenizer.json` without what a call may have left in it."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str(pretty=True)


# --- the graphs ----------------------------------------------------------------------------------


class _OnnxGRU(nn.Module):
    """A GRU layer as one ONNX operator, where PyTorch would write a loop over the steps."""

    def __init__(self, layer: nn.GRU):
        super().__init__()
        weight_ih, weight_hh, bias_ih, bias_hh = (x.detach() for x in layer.all_weights[0])
        self.hidden_size = layer.hidden_size

        def reorder(x: Tensor) -> Tensor:
            reset, update, new = x.chunk(3)
            return torch.cat([update, reset, new])

        self.W, self.R = (nn.Parameter(reorder(x)[None]) for x in (weight_ih, weight_hh))
        self.B = nn.Parameter(torch.cat([reorder(bias_ih), reorder(bias_hh)])[None])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """`(S, B, input)` to `(S, B, H)`, as the first of two results."""
        output = torch.onnx.ops.symbolic(
            "GRU",
            (x, self.W, self.R, self.B),
            # PyTorch's reset gate acts on the product with the state.
            {"hidden_size": self.hidden_size, "linear_before_reset": 1},
            dtype=x.dtype,
            shape=(x.shape[0], 1, x.shape[1], self.hidden_size),
            version=_OPSET,
        )
        return output.squeeze(1), None


class _ReadSource(nn.Module):
    """What is done once for each sentence."""

    def __init__(self, model: BahdanauForConditionalGeneration):
        super().__init__()
        self.encoder, self.decoder = model.model.encoder, model.model.decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        read = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        memory = self.decoder.read(read.last_hidden_state, read.final_state, attention_mask)
        state = self.decoder.start_state(read.final_state)
        if memory.keys is None:
            return state, memory.annotations
        return state, memory.annotations, memory.keys, memory.bias


class _TakeStep(nn.Module):
    """What is done for each token."""

    def __init__(self, model: BahdanauForConditionalGeneration):
        super().__init__()
        self.decoder, self.lm_head = model.model.decoder, model.lm_head

    def forward(
        self,
        input_ids: Tensor,
        state: Tensor,
        annotations: Tensor,
        keys: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        cache = BahdanauCache()
        if bias is None:
            bias = annotations.new_zeros(annotations.shape[:2])
        # Only the fast way looks at the gates.
        cache.memory = Memory(annotations, bias, keys, gates=annotations)
        cache.update_state(state, 1)
        step = self.decoder(input_ids=input_ids, past_key_values=cache, output_attentions=True)
        logits = self.lm_head(step.last_hidden_state[:, -1])
        assert cache.state is not None
        if keys is None:
            return logits, cache.state
        return logits, cache.state, step.cross_attentions[0][:, 0, -1]


def _graphs(model: BahdanauForConditionalGeneration) -> Iterator[Any]:
    """The two graphs, as `onnx.ModelProto`."""
    model = copy.deepcopy(model).float().cpu().eval()
    model.model.decoder.implementation = None  # what a caller has chosen is for running here
    attends = model.config.use_attention
    ids, mask = _random_batch(model)
    with torch.no_grad():
        memory = _ReadSource(model)(ids, mask)
    encoder = model.model.encoder
    for layers in (encoder.forward_layers, encoder.backward_layers):
        for i, layer in enumerate(layers):
            assert isinstance(layer, nn.GRU)
            layers[i] = _OnnxGRU(layer)
    memory_names = ["annotations", "keys", "bias"][: len(memory) - 1]
    batch, length, rows = (torch.export.Dim(name) for name in ("batch", "length", "rows"))
    yield _traced(
        _ReadSource(model),
        {"input_ids": ids, "attention_mask": mask},
        ["state", *memory_names],
        {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
    )
    per_row = {0: rows, 1: length} if attends else {0: rows}
    yield _traced(
        _TakeStep(model),
        {"input_ids": ids[:, :1], **dict(zip(["state", *memory_names], memory, strict=True))},
        ["logits", "next_state", *(["attention"] if attends else [])],
        {"input_ids": {0: rows}, "state": {0: rows}, **dict.fromkeys(memory_names, per_row)},
    )


def _traced(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output_names: list[str],
    dynamic_shapes: Mapping[str, Any],
) -> Any:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs=dict(inputs),
            dynamo=True,
            input_names=list(inputs),
            output_names=output_names,
            dynamic_shapes=dict(dynamic_shapes),
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes on how they work from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _random_batch(model: BahdanauForConditionalGeneration) -> tuple[Tensor, Tensor]:
    """Ids the decoder knows too, and a mask with padding behind and in front; `(3, 7)`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, :2] = 0
    return ids, mask


# --- eight bits ----------------------------------------------------------------------------------


def _quantized(graph: Any) -> Any:
    """The graph with its matrices in 8 bits, by ONNX Runtime's dynamic quantisation."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The attention's score is a vector, for which there is no product of integers.
    vectors = {x.name for x in graph.graph.initializer if len(x.dims) == 1}
    excluded = [n.name for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] in vectors]
    _store_gru_in_eight_bits(graph)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "quantized.onnx")
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
        )
        return onnx.load(path)


def _store_gru_in_eight_bits(graph: Any) -> None:
    """Keep a GRU's matrices in 8 bits, row by row; there is no GRU that computes in them."""
    import onnx
    from onnx import numpy_helper

    matrices = {x.name: x for x in graph.graph.initializer}
    layers = [node for node in graph.graph.node if node.op_type == "GRU"]
    for layer in layers:
        for name in layer.input[1:3]:
            values = numpy_helper.to_array(matrices[name])  # (1, 3H, input)
            scale = np.maximum(np.abs(values).max(axis=(0, 2)), 1e-12) / np.float32(127)
            integers = np.round(values / scale[:, None]).astype(np.int8)
            graph.graph.initializer.remove(matrices[name])
            for suffix, x in (("integers", integers), ("scale", scale)):
                graph.graph.initializer.append(numpy_helper.from_array(x, f"{name}_{suffix}"))
            inputs = [f"{name}_integers", f"{name}_scale"]
            node_name = f"{name}_dequantized"
            dequantize = onnx.helper.make_node(
                "DequantizeLinear", inputs, [name], node_name, axis=1
            )
            graph.graph.node.insert(0, dequantize)


# --- comparing -----------------------------------------------------------------------------------


def _largest_difference(model: BahdanauForConditionalGeneration, folder: Path) -> float:
    """Run both graphs on one batch, and the model itself."""
    import onnxruntime

    encoder, decoder = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in (ENCODER_FILE, DECODER_FILE)
    )
    ids, mask = _random_batch(model)
    given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    names = [output.name for output in encoder.get_outputs()]
    memory = dict(zip(names, encoder.run(None, given), strict=True))
    found = decoder.run(None, {"input_ids": given["input_ids"][:, :1], **memory})
    reference = copy.deepcopy(model).float().cpu().eval()
    with torch.no_grad():
        outputs = reference(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=ids[:, :1],
            use_cache=True,
            output_attentions=True,
        )
    expected = [outputs.logits[:, 0], outputs[CACHE].state]
    if outputs.cross_attentions is not None:
        expected.append(outputs.cross_attentions[0][:, 0, 0])
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(x - y.numpy()).max()) for x, y in pairs)
