# %% [en]
# # 2. The mask experiment
#
# Sentences of a batch have different lengths; the shorter ones are filled up with `<pad>`. The mask
# says which places are real. Forgetting it is the most frequent mistake in attention code, because
# nothing fails: the loss still goes down. Here we leave it out, look where the attention goes, and put
# it in again.
# %% [zh]
# # 2. 掩码实验
#
# 同一批里的句子长短不一，短的用 `<pad>` 补齐。掩码说明哪些位置是真的词。忘记掩码是注意力代码里
# 最常见的错误，因为什么都不会报错，损失照样下降。这里我们先去掉掩码，看看注意力跑到哪里，再把它加回来。
# %% [en]
# ## Two models, one of them trained without the mask
#
# 200 short pairs, which a small model learns by heart within seconds. Whatever goes wrong with them
# later is the padding's doing.
# %% [zh]
# ## 两个模型，其中一个训练时没有掩码
#
# 取 200 个短句对，小模型几秒钟就能背下来。之后这些句子上出的错，就都是填充造成的。
# %%
import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, train_tokenizer
from bahdanau_hf.data import bundled_pairs

pairs = bundled_pairs()["train"]["translation"]
pairs = [(pair["en"], pair["zh"]) for pair in pairs if len(pair["en"].split()) <= 6][:200]
sources, targets = zip(*pairs, strict=True)
tokenizer = train_tokenizer(sources, targets, kind="word-char", min_frequency=1)


def make_batch(some_pairs, padding_to=None):
    some_sources, some_targets = (list(side) for side in zip(*some_pairs, strict=True))
    batch = tokenizer(some_sources, text_target=some_targets, padding=True, return_tensors="pt")
    batch["labels"] = batch["labels"].masked_fill(batch["labels"] == 0, -100)
    if padding_to is not None:  # pad is 0, in the mask as well
        more = padding_to - batch["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask"):
            batch[name] = torch.nn.functional.pad(batch[name], (0, more))
    return batch


def train_model(with_mask, steps=150):
    torch.manual_seed(0)
    model = BahdanauForConditionalGeneration(
        BahdanauConfig(
            vocab_size=len(tokenizer),
            embedding_size=64,
            hidden_size=96,
            dropout=0.0,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        rows = torch.randint(len(pairs), (48,)).tolist()
        batch = make_batch([pairs[row] for row in rows])
        if not with_mask:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        optimizer.zero_grad()
        loss = model(**batch, skip_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"{'with' if with_mask else 'without'} the mask: training loss {loss.item():.2f}")
    return model.eval()


models = {"with": train_model(True), "without": train_model(False)}


# %% [en]
# Both losses are alike: they do not tell which model has the mistake.
# %% [zh]
# 两个损失差不多：从损失看不出哪个模型有错。
# %% [en]
# ## How much attention lies on the padding?
#
# The same sentences, with more and more padding behind them. Loss is the mean over real
# target tokens; padding should change nothing.
# %% [zh]
# ## 有多少注意力落在填充上？
#
# 同样的句子，后面补上越来越多的填充。损失是对真实目标词元取平均，填充本来不应该改变任何结果。
# %%
@torch.no_grad()
def measure(model, use_mask, padding_to):
    batch = make_batch(pairs, padding_to)
    is_padding = batch["attention_mask"] == 0
    if not use_mask:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    out = model(**batch, output_attentions=True)
    weights = out.cross_attentions[0][:, 0]  # (sentences, target, source)
    on_padding = (weights * is_padding[:, None, :]).sum(dim=-1)[batch["labels"] != -100]
    return out.loss.item(), on_padding.mean().item()


print("trained   used      source length   loss   attention on padding")
for trained, used in (("with", "with"), ("with", "without"), ("without", "without")):
    for length in (12, 24, 48):
        loss, share = measure(models[trained], used == "with", length)
        print(f"{trained:9} {used:9} {length:13} {loss:6.2f} {share:22.0%}")
assert measure(models["with"], True, 48)[1] == 0
# %% [en]
# ## Look at one sentence
#
# Rows are the words of the translation, columns those of the source. Without the mask the attention
# piles up at the end.
# %% [zh]
# ## 看一个句子
#
# 每行是译文的一个词元，每列是原文的一个词元。没有掩码，注意力就堆在句末的填充上。
# %%
from IPython.display import SVG, display

from bahdanau_hf import Alignment
from bahdanau_hf.reporting.attention_plot import alignment_svg


@torch.no_grad()
def show(model, use_mask, pair, title):
    batch = make_batch([pair], padding_to=14)
    if not use_mask:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    weights = model(**batch, output_attentions=True).cross_attentions[0][0, 0]
    rows = tokenizer.convert_ids_to_tokens(batch["labels"][0].tolist())
    columns = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    display(SVG(alignment_svg(Alignment(columns, rows, weights), title=title)))


show(models["with"], False, pairs[7], "without the mask")
show(models["with"], True, pairs[7], "with the mask")


# %% [en]
# ## What the reader sees
#
# A sentence must not be translated differently because a long one happens to be in its batch. Without
# the mask it is.
# %% [zh]
# ## 使用者看到的结果
#
# 一个句子的译文，不应该因为同一批里恰好有个长句就改变。没有掩码，它就会变。
# %%
def translate(model, use_mask, padding_to):
    batch = make_batch(pairs, padding_to)
    mask = batch["attention_mask"] if use_mask else torch.ones_like(batch["attention_mask"])
    ids = model.generate(batch["input_ids"], attention_mask=mask, max_new_tokens=20, num_beams=1)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


for name, model in models.items():
    use_mask = name == "with"
    short, long = translate(model, use_mask, 12), translate(model, use_mask, 48)
    changed = [i for i in range(len(short)) if short[i] != long[i]]
    print(f"{name} the mask: more padding changes {len(changed)} of {len(short)} translations")
    for i in changed[:3]:
        print(f"  {sources[i]}\n    {short[i]}\n    {long[i]}")
assert translate(models["with"], True, 12) == translate(models["with"], True, 48)
# %% [en]
# ## Why it happens
#
# The softmax gives every place a share. A `<pad>` that was never masked has a state like any other,
# and thirty of them together outweigh five words. The mask adds a hugely negative number to their
# scores *before* the softmax, so that their weights are exactly 0 and the rest still sums to 1. To set
# weights to 0 *after* the softmax is not the same: the rest then sums to less.
#
# In this package the mask comes with the tokenizer (`attention_mask`), and the encoder does not read
# padding either.
# %% [zh]
# ## 为什么会这样
#
# softmax 给每个位置都分一份。没有被遮住的 `<pad>` 和别的词一样有自己的状态，三十个加起来就超过了五个词。
# 掩码在 softmax *之前*给它们的得分加上一个极大的负数，于是它们的权重正好是 0，其余的和仍然是 1。
# 在 softmax *之后*把权重置零不是一回事：那样其余的和就小于 1 了。
#
# 在本包里，掩码由分词器给出（`attention_mask`），编码器也不会去读填充。
