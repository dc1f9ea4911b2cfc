"""Several runs translate together: each word's probability is the mean of theirs.

    python -m benchmarks.ensemble RUN RUN ... --test_file test.tsv --num_beams 5

The runs must share a tokenizer, as runs on the same pairs with different seeds do. Prints JSON, as
`bahdanau-hf score` does. Every step reads the whole prefix again with all models but the first:
plain, and fast enough for a test split.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence

import datasets
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from bahdanau_hf.arguments import DataArguments
from bahdanau_hf.batch_bahdanau import find_translations
from bahdanau_hf.data import clean_pairs, pair_texts, read_pairs
from bahdanau_hf.loading import load_model
from bahdanau_hf.metrics import score_translations
from bahdanau_hf.tokenization import EOS_ID, load_tokenizer

BATCH_SIZE = 64


class MeanOfModels(LogitsProcessor):
    """Mixes the probabilities of further models into those of the one that searches.

    Args:
        others: in evaluation mode, with the same vocabulary.
        input_ids: the batch, `(B, S)`; every row is `num_beams` rows of the search.
        attention_mask: `(B, S)`.
        num_beams: of the search.
    """

    def __init__(
        self,
        others: Sequence[PreTrainedModel],
        input_ids: Tensor,
        attention_mask: Tensor,
        num_beams: int,
    ) -> None:
        self.others = others
        self.mask = attention_mask.repeat_interleave(num_beams, dim=0)
        self.sources = [
            {
                name: value.repeat_interleave(num_beams, dim=0)
                for name, value in other.get_encoder()(
                    input_ids=input_ids, attention_mask=attention_mask
                ).items()
                if torch.is_tensor(value)
            }
            for other in others
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log of the mean probability, from logits or log-probabilities `(rows, V)`."""
        found = [scores.log_softmax(dim=-1)]
        for other, source in zip(self.others, self.sources, strict=True):
            logits = other(
                encoder_outputs=source,
                attention_mask=self.mask,
                decoder_input_ids=input_ids,
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            found.append(logits.float().log_softmax(dim=-1))
        return torch.stack(found).logsumexp(dim=0) - math.log(len(found))


@torch.inference_mode()
def translate_together(
    models: Sequence[PreTrainedModel], tokenizer: Tokenizer, texts: Sequence[str], num_beams: int
) -> list[str]:
    """Translate sentences with all models, in the order of the texts."""
    first, *others = [model.eval() for model in models]
    longest = tokenizer.model_max_length
    ids = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    rows = [row if len(row) <= longest else [*row[: longest - 1], EOS_ID] for row in ids]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = [""] * len(rows)
    for start in range(0, len(order), BATCH_SIZE):
        places = order[start : start + BATCH_SIZE]
        batch = [rows[i] for i in places]
        padded = tokenizer.pad({"input_ids": batch}, return_tensors="pt")
        mixer = MeanOfModels(others, padded["input_ids"], padded["attention_mask"], num_beams)
        hypotheses = find_translations(
            first,
            tokenizer,
            batch,
            num_beams=num_beams,
            logits_processor=LogitsProcessorList([mixer]),
        )
        for i, alternatives in zip(places, hypotheses, strict=True):
            found[i] = alternatives[0].text
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Score an ensemble."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--test_file", required=True, help="file of pairs")
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--chinese_script", default="keep")
    args = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(args.runs[0])
    for run in args.runs[1:]:
        if load_tokenizer(run).get_vocab() != tokenizer.get_vocab():
            raise SystemExit(f"error: {run} and {args.runs[0]} have different tokenizers")
    langs = [tokenizer.init_kwargs[side] for side in ("source_lang", "target_lang")]
    data = DataArguments(
        train_file=args.test_file,
        source_lang=langs[0],
        target_lang=langs[1],
        chinese_script=args.chinese_script,
    )
    pairs, _ = clean_pairs(read_pairs(data)["train"], data, training=False)
    sources, references = pair_texts(pairs, *langs)
    models = [load_model(run) for run in args.runs]
    hypotheses = translate_together(models, tokenizer, sources, args.num_beams)
    scores = score_translations(hypotheses, references, target_lang=langs[1])
    print(json.dumps(scores.as_dict() | {"num_beams": args.num_beams}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
