"""A checkpoint that has learnt sixteen sentences by heart, for tests of what uses a checkpoint."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.data.tokenization import target_vocab_size
from bahdanau_hf.data.vocabulary import train_tokenizer

PAIRS = [
    ("Call us.", "联系我们。"),
    ("Call me tonight.", "今晚给我打电话。"),
    ("I love you.", "我爱你。"),
    ("He runs.", "他跑。"),
    ("Does she run fast?", "她跑得快吗？"),
    ("I know.", "我知道。"),
    ("We know him.", "我们认识他。"),
    ("The tea is hot.", "茶很热。"),
    ("The water isn't hot.", "水不热。"),
    ("Where is the station?", "车站在哪里？"),
    ("It will snow tomorrow.", "明天会下雪。"),
    ("How much is this book?", "这本书多少钱？"),
    ("My mother is a doctor, and my father is a teacher.", "我妈妈是医生，我爸爸是老师。"),
    ("I was ill yesterday, so I stayed at home.", "我昨天病了，所以待在家里。"),
    ("If it rains tomorrow, we will stay at home.", "如果明天下雨，我们就待在家里。"),
    ("Two cups of tea, please.", "请来两杯茶。"),
]
MAX_SOURCE_LENGTH = 24

LONG = "I was ill yesterday, so I stayed at home. " * 9
SPELT = ["He 饕餮 😀", "Zyzzyva!"]  # in bytes, at least in part
# Of all lengths, known and unknown, in no order.
SENTENCES = [
    "Call us.",
    LONG,
    "",
    "Where is my mother?",
    *SPELT,
    " \t ",
    "If it rains, I know him and he knows that the tea is hot.",
    "he",
    *(source for source, _ in PAIRS[5:]),
]


def make_checkpoint(
    folder: Path, *, num_steps: int = 120, kind: str = "bpe", **config: object
) -> Path:
    """Train on `PAIRS` for a second, once for all that ask the same, and save it in `folder`."""
    model, tokenizer = _train(num_steps, kind, frozenset(config.items()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _train(
    num_steps: int, kind: str, config: frozenset[tuple[str, object]]
) -> tuple[BahdanauForConditionalGeneration, PreTrainedTokenizerFast]:
    sources, targets = zip(*PAIRS, strict=True)
    tokenizer = train_tokenizer(
        sources,
        targets,
        kind=kind,
        vocab_size=480,
        min_frequency=1,
        model_max_length=MAX_SOURCE_LENGTH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"embedding_size": 24, "hidden_size": 40, "attention_hidden_size": 28}
        model = BahdanauForConditionalGeneration(
            BahdanauConfig(
                vocab_size=target_vocab_size(tokenizer),
                encoder_vocab_size=len(tokenizer),
                **{**sizes, **dict(config)},
            )
        )
        batch = tokenizer(
            list(sources), text_target=list(targets), padding=True, return_tensors="pt"
        )
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == 0, -100)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(num_steps):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.generation_config.max_length = 30
    return model, tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids as the model reads them: cut, but never without the end."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    return ids if len(ids) <= MAX_SOURCE_LENGTH else [*ids[: MAX_SOURCE_LENGTH - 1], 2]
