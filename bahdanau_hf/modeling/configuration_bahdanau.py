"""The configuration: every number that fixes the shape of a Bahdanau translation model."""

# No `from __future__ import annotations` here: `@strict` reads the annotations as types.
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

if TYPE_CHECKING:
    # The library knows remote code by a digest of its configuration's file and of what that file
    # names: all files that travel, so that two versions of the code are two classes in one process.
    from .modeling_bahdanau import BahdanauForConditionalGeneration  # noqa: F401

INITIALIZERS = ("xavier", "tutorial", "orthogonal")


@strict
class BahdanauConfig(PreTrainedConfig):
    """Shape of a GRU encoder-decoder with additive attention (Bahdanau et al. 2015).

    One joint vocabulary serves both sides; its ids are ordered so that all tokens of the target
    side stand first. The encoder knows all of them, decoder and output layer the first part.

    Args:
        vocab_size: tokens of the target side, what `generate` emits. At least 1.
        encoder_vocab_size: tokens of the whole vocabulary, at least `vocab_size`; `None`: the same.
        embedding_size: width of the word embeddings of both sides.
        hidden_size: width of a GRU layer (of each direction in the encoder).
        attention_hidden_size: width of the attention's hidden layer; `None`: `hidden_size`.
        encoder_layers: GRU layers of the encoder.
        decoder_layers: GRU layers of the decoder; as many if a one-directional encoder starts it.
        bidirectional_encoder: read the source in both directions.
        dropout: on the output of every GRU layer but the last, in [0, 1).
        embedding_dropout: on the embeddings of both sides, in [0, 1).
        readout_dropout: on what the output layer reads, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
        use_attention: `False`: plain seq2seq, whose context is always the encoder's final state.
        conditional_gru: two transitions a step: the first reads the previous word, the attention
            uses the state after it, the second reads the context (Sennrich et al. 2017, "Nematus").
            Needs attention and one decoder layer. `False`: the paper's decoder, with one.
        readout: `"linear"`: the output layer reads the decoder's state; `"deep"`: it reads the
            paper's maxout layer over state, context and previous word (appendix A.2.2).
        readout_size: width of the maxout layer (`l` in the paper); `None`: `embedding_size`.
        tie_word_embeddings: share the decoder's embedding with an output layer that is as wide.
        encoder_reads_padding: take the encoder's final state behind the padding, as checkpoints
            need that were trained so; results then depend on how a batch is padded.
        initializer: `"xavier"` for all matrices, `"tutorial"` for those of the GRUs alone, or
            `"orthogonal"` for the recurrent ones.
        initializer_range: factor on the initial values of matrices and biases.
        embedding_initializer_range: standard deviation of the initial embeddings.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a value of the wrong type, out of range, or at
            odds with another; its `__cause__` is a `TypeError` or `ValueError` of one line.
    """

    model_type = "bahdanau"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 (as the library has it)
    attribute_map = {"num_hidden_layers": "decoder_layers"}  # noqa: RUF012
    num_attention_heads = 1  # not a field: additive attention has one head, and the library asks

    vocab_size: int = 8000
    encoder_vocab_size: int | None = None
    embedding_size: int = 256
    hidden_size: int = 256
    attention_hidden_size: int | None = None
    encoder_layers: int = 1
    decoder_layers: int = 1
    bidirectional_encoder: bool = True
    dropout: float | int = 0.1
    embedding_dropout: float | int = 0.0
    readout_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    use_attention: bool = True
    conditional_gru: bool = False
    readout: str = "linear"
    readout_size: int | None = None
    tie_word_embeddings: bool = False
    encoder_reads_padding: bool = False
    initializer: str = "xavier"
    initializer_range: float | int = 1.0
    embedding_initializer_range: float | int = 1.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    unk_token_id: int | None = 3
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # The code that travels with a checkpoint, whatever its file says.
        self.auto_map = {"AutoConfig": "configuration_bahdanau.BahdanauConfig"}
        for name in ("AutoModel", "AutoModelForSeq2SeqLM"):  # both are the class that generates
            self.auto_map[name] = "modeling_bahdanau.BahdanauForConditionalGeneration"
        impl = "pipeline_bahdanau.BahdanauTranslationPipeline"
        translation = {"impl": impl, "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
        self.custom_pipelines = {"translation": translation}

    def validate_architecture(self) -> None:
        """Check ranges and the fields against each other; called by `@strict`."""
        for name in BahdanauConfig.__annotations__:
            value = getattr(self, name)
            if value is None:
                continue
            if name.endswith(("_size", "_layers")) and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
            if name.endswith("dropout") and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), not {value}")
            if name.endswith("initializer_range") and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")
            if name.endswith("token_id") and name != "eos_token_id" and value < 0:
                raise ValueError(f"{name} must not be negative, but is {value}")
        for name, allowed in (("readout", ("linear", "deep")), ("initializer", INITIALIZERS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        if self.encoder_vocab_size is not None and self.encoder_vocab_size < self.vocab_size:
            raise ValueError(
                f"encoder_vocab_size ({self.encoder_vocab_size}) must be at least vocab_size "
                f"({self.vocab_size}): the target's tokens are the first part of the vocabulary"
            )
        if not self.bidirectional_encoder and self.encoder_layers != self.decoder_layers:
            raise ValueError(
                f"a one-directional encoder of {self.encoder_layers} layers cannot start a decoder "
                f"of {self.decoder_layers}: use as many, or bidirectional_encoder=True"
            )
        if self.conditional_gru and not (self.use_attention and self.decoder_layers == 1):
            raise ValueError(
                "conditional_gru needs use_attention true and decoder_layers 1, not "
                f"{self.use_attention} and {self.decoder_layers}: set conditional_gru to false"
            )
        if self.readout == "linear" and self.readout_size is not None:
            raise ValueError('readout_size belongs to readout="deep"; leave it None')
        if self.tie_word_embeddings and self.output_size != self.embedding_size:
            raise ValueError(
                f"tie_word_embeddings needs an output layer that reads embedding_size "
                f"({self.embedding_size}) values, but it reads {self.output_size}"
            )

    @property
    def output_size(self) -> int:
        """Width of what the output layer reads."""
        maxout = self.readout_size or self.embedding_size
        return maxout if self.readout == "deep" else self.hidden_size

    @property
    def annotation_size(self) -> int:
        """Width of an annotation: both directions side by side, if there are two."""
        return self.hidden_size * (2 if self.bidirectional_encoder else 1)
