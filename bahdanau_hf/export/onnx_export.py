"""Writes a checkpoint for ONNX Runtime: its graphs, the tokenizer, and how to search.

Dimensions: B batch, S source, T steps, N rows of the search (sentences times beams), L decoder
layers, H hidden, A attention, C annotation, V target vocabulary. Ids are int64, all else float32.

Two graphs serve every search:

- `encoder_model.onnx` reads the source once: `input_ids` and `attention_mask`, `(B, S)`, to
  `state` `(B, L, H)`, where the decoder starts, `annotations` `(B, S, C)`, `keys` `(B, S, A)` and
  `bias` `(B, S)`, 0 on real tokens.
- `decoder_model.onnx` takes a step: `input_ids` `(N, 1)`, `state` `(N, L, H)` and the encoder's
  other outputs with N rows, to `logits` `(N, V)`, `next_state` and `attention` `(N, S)`.

A model without attention has no `keys`, `bias` and `attention`; its `annotations` are `(B, 1, C)`.

Or one graph is the whole search, `search.onnx`, greedy or with the number of beams that it was made
for: `input_ids` and `attention_mask` to `output_ids` `(B, T)`; see `onnx_search`.

Beside them `translation.json` holds what the search needs to know, `tokenizer.json` the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ..errors import InputError
from ..files import write_json, writing
from ..inference.loading import check_tokenizer
from ..inference.search_options import make_request
from ..modeling.modeling_bahdanau import BahdanauCache, BahdanauForConditionalGeneration, Source
from ..modeling.pipeline_bahdanau import max_source_length
from .onnx_beams import BeamRules
from .onnx_comparison import (
    Agreement,
    TwoGraphs,
    compare_translations,
    largest_difference,
    random_batch,
)
from .onnx_int8 import quantize, without_notes
from .onnx_nodes import swap_gates
from .onnx_search import WholeSearch, add_search

ENCODER_FILE, DECODER_FILE = "encoder_model.onnx", "decoder_model.onnx"
SEARCH_FILE = "search.onnx"
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
) -> Agreement:
    """Write what a translator outside Python and PyTorch needs, and compare it with the model.

    Args:
        model: the model; it is left as it is.
        tokenizer: the one it was trained with.
        output_dir: where the files go; those of an earlier export are replaced.
        dtype: `"float32"`, or `"int8"`: matrices in 8 bits, a quarter of the size, and products
            of integers, whose sums are the same on every processor.

    Returns:
        How many held-out sentences greedy search translates as the model's own does in float32,
        and BLEU of both; see `compare_translations`.

    Raises:
        InputError: the extra is missing, the generation configuration asks for what the search
            outside does not know, or the folder cannot be written.
    """
    files = {ENCODER_FILE, DECODER_FILE}
    with _exporting(model, tokenizer, output_dir, dtype, files) as (folder, settings):
        for graph, name in zip(_graphs(model), (ENCODER_FILE, DECODER_FILE), strict=True):
            if dtype == "int8":
                graph = quantize(graph)
            (folder / name).write_bytes(graph.SerializeToString())
        graphs = TwoGraphs(folder / ENCODER_FILE, folder / DECODER_FILE, settings)
        difference = largest_difference(_plain(model), graphs)
        if dtype == "float32" and not difference <= _TOLERANCE:
            raise RuntimeError(
                f"the exported graphs are not the model: they differ by {difference:.1e}"
            )
    return compare_translations(_plain(model), tokenizer, graphs, settings)


def export_search(
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    output_dir: str | Path,
    dtype: str = "float32",
    num_beams: int | None = None,
) -> Agreement:
    """Write the whole search as one graph, and compare it with the model's.

    Arguments, result and errors are those of `export_onnx`, but for the search, which is the
    graph's: with `num_beams`, 1 for greedily, by default the checkpoint's.
    """
    files = {SEARCH_FILE}
    with _exporting(model, tokenizer, output_dir, dtype, files, num_beams) as (folder, settings):
        graph = search_graph(model, dtype, settings["num_beams"]).SerializeToString()
        (folder / SEARCH_FILE).write_bytes(graph)
        search = WholeSearch(graph)
        agreement = compare_translations(_plain(model), tokenizer, search, settings)
        # Two words may be equally likely, but seldom.
        if dtype == "float32" and agreement.same < 0.9 * agreement.total:
            raise RuntimeError(
                f"the exported graph is not the model: it agrees on {agreement.same} of "
                f"{agreement.total} {agreement.sources}"
            )
    return agreement


def search_graph(
    model: BahdanauForConditionalGeneration, dtype: str = "float32", num_beams: int = 1
) -> Any:
    """The whole search as `onnx.ModelProto`, by the generation configuration's marks and rules.

    The model is left as it is; `dtype` is one of `DTYPES`; one beam is greedy search.
    """
    config = model.generation_config
    beams = BeamRules(num_beams, *_length_rules(config)) if num_beams > 1 else None
    reading = _reading_graph(_plain(model), with_keys=False)
    if dtype == "int8":
        reading = quantize(reading, int8_gru=True)
    return add_search(reading, _plain(model), _end_token_ids(config), beams, dtype == "int8")


def _end_token_ids(config: GenerationConfig) -> list[int]:
    ends = config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _length_rules(config: GenerationConfig) -> tuple[float, bool | str]:
    """`length_penalty` and `early_stopping`."""
    penalty = 1.0 if config.length_penalty is None else float(config.length_penalty)
    return penalty, config.early_stopping or False


@contextmanager
def _exporting(
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    output_dir: str | Path,
    dtype: str,
    files: set[str],
    num_beams: int | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Check what is asked for and make the folder; at the end only these graphs stay in it."""
    check_installed()
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    check_tokenizer(model.config, tokenizer)
    settings = {**translation_settings(model, tokenizer, num_beams), "dtype": dtype}
    folder = Path(output_dir)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder, settings
        for name in {ENCODER_FILE, DECODER_FILE, SEARCH_FILE} - files:
            (folder / name).unlink(missing_ok=True)
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        backend.no_truncation()  # a call may have left both in it
        backend.no_padding()
        (folder / TOKENIZER_FILE).write_text(backend.to_str(pretty=True), encoding="utf-8")
        write_json(folder / SETTINGS_FILE, settings)


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
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    num_beams: int | None = None,
) -> dict[str, Any]:
    """What the search outside must know: the marks, the limits, the beams (default: the model's).

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
    request = make_request(model, num_beams)
    length_penalty, early_stopping = _length_rules(config)
    reads_padding = model.config.encoder_reads_padding
    return {
        "format": FORMAT,
        "source_lang": tokenizer.init_kwargs.get("source_lang"),
        "target_lang": tokenizer.init_kwargs.get("target_lang"),
        "num_beams": request.num_beams,
        "max_new_tokens": request.max_new_tokens,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_ids": _end_token_ids(config),
        "pad_token_id": config.pad_token_id or 0,
        "max_source_length": max_source_length(tokenizer),
        "cut_keeps_end": bool(tokenizer.init_kwargs.get("cut_keeps_end", True)),
        # An encoder that reads padding must always find as much of it as in training.
        "pad_source_to": max_source_length(tokenizer) if reads_padding else None,
    }


# --- the graphs ----------------------------------------------------------------------------------


class _OnnxGRU(nn.Module):
    """A GRU layer as one ONNX operator, where PyTorch would write a loop over the steps."""

    def __init__(self, layer: nn.GRU):
        super().__init__()
        weight_ih, weight_hh, bias_ih, bias_hh = map(swap_gates, layer.all_weights[0])
        self.hidden_size = layer.hidden_size
        self.W, self.R = nn.Parameter(weight_ih[None]), nn.Parameter(weight_hh[None])
        self.B = nn.Parameter(torch.cat([bias_ih, bias_hh])[None])

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
    """What is done once for each sentence; without the attention's keys if they are left out."""

    def __init__(self, model: BahdanauForConditionalGeneration, with_keys: bool = True):
        super().__init__()
        self.encoder, self.decoder = model.model.encoder, model.model.decoder
        self.with_keys = with_keys

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        read = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        no_keys = None if self.with_keys else (lambda annotations: None)
        memory = self.decoder.read(
            read.last_hidden_state, read.final_state, attention_mask, no_keys
        )
        state = self.decoder.start_state(read.final_state)
        if self.decoder.attention is None:
            return state, memory.annotations
        if memory.keys is None:
            return state, memory.annotations, memory.bias
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
        cache.source = Source(annotations, bias, keys, gates=None)
        cache.update_state(state, 1)
        step = self.decoder(input_ids=input_ids, past_key_values=cache, output_attentions=True)
        logits = self.lm_head(step.last_hidden_state[:, -1])
        assert cache.state is not None
        if keys is None:
            return logits, cache.state
        return logits, cache.state, step.cross_attentions[0][:, 0, -1]


def _graphs(model: BahdanauForConditionalGeneration) -> Iterator[Any]:
    """The two graphs, as `onnx.ModelProto`."""
    model = _plain(model)
    ids, mask = random_batch(model)
    memory = _ReadSource(model)(ids, mask)
    yield _reading_graph(model)
    names = ["annotations", "keys", "bias"][: len(memory) - 1]
    rows, length = (torch.export.Dim(name) for name in ("rows", "length"))
    attends = model.config.use_attention
    per_row = {0: rows, 1: length} if attends else {0: rows}
    yield _traced(
        _TakeStep(model),
        {"input_ids": ids[:, :1], **dict(zip(["state", *names], memory, strict=True))},
        ["logits", "next_state", *(["attention"] if attends else [])],
        {"input_ids": {0: rows}, "state": {0: rows}, **dict.fromkeys(names, per_row)},
    )


def _plain(model: BahdanauForConditionalGeneration) -> BahdanauForConditionalGeneration:
    """A copy to trace."""
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    model.model.decoder.implementation = None  # what a caller has chosen is for running here
    return model


def _reading_graph(model: BahdanauForConditionalGeneration, with_keys: bool = True) -> Any:
    """The graph that reads the source, as `onnx.ModelProto`; the model's encoder is changed."""
    for layers in (model.model.encoder.forward_layers, model.model.encoder.backward_layers):
        for i, layer in enumerate(layers):
            assert isinstance(layer, nn.GRU)
            layers[i] = _OnnxGRU(layer)
    ids, mask = random_batch(model)
    names = ["state", "annotations"]
    if model.config.use_attention:
        names += ["keys", "bias"] if with_keys else ["bias"]
    batch, length = (torch.export.Dim(name) for name in ("batch", "length"))
    return _traced(
        _ReadSource(model, with_keys),
        {"input_ids": ids, "attention_mask": mask},
        names,
        {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
    )


def _traced(
    module: nn.Module,
    inputs: dict[str, Tensor],
    output_names: list[str],
    dynamic_shapes: dict[str, Any],
) -> Any:
    with without_notes(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            dynamo=True,
            input_names=list(inputs),
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    # The exporter notes where in whose files a node comes from.
    for part in (graph, graph.graph, *graph.graph.node):
        del part.metadata_props[:]
    return graph
