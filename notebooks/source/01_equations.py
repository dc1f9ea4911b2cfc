# %% [en]
# # 1. The equations
#
# The whole model of [Bahdanau et al. 2015](https://arxiv.org/abs/1409.0473) fits into some forty lines
# of plain PyTorch: a GRU, additive attention, beam search. Here they are, one sentence and one step at a
# time, and at the end they give the package's numbers.
# %% [zh]
# # 1. 公式
#
# [Bahdanau 等人 2015 年的模型](https://arxiv.org/abs/1409.0473)用四十来行普通的 PyTorch 就写得下：GRU、
# 加性注意力、束搜索。下面一次只算一个句子、一个时间步，最后与本包算出的数逐一比较。
# %% [en]
# ## A model to compare with
#
# Short pairs from the package, a small model, a few seconds of training. Double precision keeps
# rounding out of the comparison.
# %% [zh]
# ## 先有一个可比较的模型
#
# 取包里自带的短句对，用一个小模型训练几秒钟。用双精度，比较时就不受舍入误差影响。
# %%
import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, train_tokenizer
from bahdanau_hf.data import bundled_pairs

torch.manual_seed(0)
pairs = bundled_pairs()["train"]["translation"]
pairs = [(pair["en"], pair["zh"]) for pair in pairs if len(pair["en"].split()) <= 4][:200]
sources, targets = zip(*pairs, strict=True)
tokenizer = train_tokenizer(sources, targets, kind="word-char", min_frequency=1)
model = BahdanauForConditionalGeneration(
    BahdanauConfig(vocab_size=len(tokenizer), embedding_size=48, hidden_size=64, dropout=0.0)
)
batch = tokenizer(list(sources), text_target=list(targets), padding=True, return_tensors="pt")
batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
model = model.double().eval()
print(f"{len(pairs)} pairs, {model.num_parameters():,} parameters, loss {loss.item():.2f}")
# %% [en]
# ## GRU
#
# $r = \sigma(W_r x + U_r s)$, $z = \sigma(W_z x + U_z s)$, $n = \tanh(W x + r \circ (U s))$,
# $s' = (1 - z) \circ n + z \circ s$
#
# The gate $r$ says how much of the old state the proposal $n$ may use, $z$ how much of it stays.
# (PyTorch's $z$ is one minus the paper's, and each matrix has a bias.)
# %% [zh]
# ## GRU
#
# $r = \sigma(W_r x + U_r s)$，$z = \sigma(W_z x + U_z s)$，$n = \tanh(W x + r \circ (U s))$，
# $s' = (1 - z) \circ n + z \circ s$
#
# 重置门 $r$ 决定候选状态 $n$ 能用多少旧状态，更新门 $z$ 决定旧状态保留多少。
# （PyTorch 的 $z$ 等于 1 减去论文的 $z$；每个矩阵还带一个偏置。）
# %%
weights = model.state_dict()
GRU = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def gru(x, s, module, end=""):
    W, U, b, c = (weights[f"model.{module}.{name}{end}"] for name in GRU)
    x_r, x_z, x_n = (W @ x + b).chunk(3)
    s_r, s_z, s_n = (U @ s + c).chunk(3)
    r, z = torch.sigmoid(x_r + s_r), torch.sigmoid(x_z + s_z)
    n = torch.tanh(x_n + r * s_n)
    return (1 - z) * n + z * s


# %% [en]
# ## Encoder
#
# One GRU reads the sentence forwards, one backwards. The annotation $h_j$ of word $j$ is both states
# side by side. The decoder starts from both final states: $s_0 = \tanh(W_s [\overrightarrow{h}_S;
# \overleftarrow{h}_1])$.
# %% [zh]
# ## 编码器
#
# 一个 GRU 从前往后读，一个从后往前读。第 $j$ 个词的注释 $h_j$ 是两个状态拼在一起。
# 解码器从两个最终状态出发：$s_0 = \tanh(W_s [\overrightarrow{h}_S; \overleftarrow{h}_1])$。
# %%
def encode(ids):
    words = weights["model.encoder.embed_tokens.weight"][ids]
    read = []
    for name, order in (("forward", words), ("backward", words.flip(0))):
        states = [torch.zeros(64, dtype=torch.float64)]
        for x in order:
            states.append(gru(x, states[-1], f"encoder.{name}_layers.0", "_l0"))
        read.append(torch.stack(states[1:]))
    h = torch.cat([read[0], read[1].flip(0)], dim=1)
    W, b = (weights[f"model.decoder.bridge.0.{name}"] for name in ("weight", "bias"))
    return h, torch.tanh(W @ torch.cat([read[0][-1], read[1][-1]]) + b)


# %% [en]
# ## Additive attention
#
# $e_j = v_a^\top \tanh(W_a s_{i-1} + U_a h_j)$, $\alpha = \mathrm{softmax}(e)$,
# $c_i = \sum_j \alpha_j h_j$
#
# The *previous* state asks, before the word is chosen. Without the $\tanh$ it would be another
# attention: then the state's part is the same for all $j$ and the softmax removes it.
# %% [zh]
# ## 加性注意力
#
# $e_j = v_a^\top \tanh(W_a s_{i-1} + U_a h_j)$，$\alpha = \mathrm{softmax}(e)$，
# $c_i = \sum_j \alpha_j h_j$
#
# 提问的是*上一步*的状态，这时下一个词还没有选出来。漏掉 $\tanh$ 就不是这种注意力了：
# 状态那一项对所有 $j$ 都一样，经过 softmax 就抵消了。
# %%
ATTENTION = ("query", "key", "score")


def attention(s, h):
    W_a, U_a, v_a = (weights[f"model.decoder.attention.{name}.weight"] for name in ATTENTION)
    e = torch.tanh(W_a @ s + h @ U_a.T) @ v_a[0]
    alpha = e.softmax(dim=0)
    return alpha @ h, alpha


def step(word, s, h):
    c, alpha = attention(s, h)
    x = torch.cat([c, weights["model.decoder.embed_tokens.weight"][word]])
    s = gru(x, s, "decoder.layers.0")
    return s, weights["lm_head.weight"] @ s + weights["lm_head.bias"], alpha


# %% [en]
# ## Beam search
#
# Keep the best few beginnings. A finished one is compared by the mean log-probability of its words;
# the sum would prefer short translations.
# %% [zh]
# ## 束搜索
#
# 始终保留最好的几个开头。译完的句子按每个词的平均对数概率来比较；如果用总和，就会偏爱短译文。
# %%
def beam_search(h, s, beams=4, longest=12, bos=1, eos=2):
    running, finished = [(0.0, [bos], s)], []
    for _ in range(longest):
        ahead = []
        for total, words, state in running:
            new, logits, _ = step(words[-1], state, h)
            best = logits.log_softmax(dim=0).topk(2 * beams)
            for score, word in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                ahead.append((total + score, [*words, word], new))
        ahead = sorted(ahead, key=lambda item: -item[0])[: 2 * beams]
        ended = [item for item in ahead[:beams] if item[1][-1] == eos]
        finished += [(total / (len(words) - 1), words) for total, words, _ in ended]
        running = [item for item in ahead if item[1][-1] != eos][:beams]
    finished += [(total / (len(words) - 1), words) for total, words, _ in running]
    return max(finished)


# %% [en]
# ## The same numbers
#
# First logits and attention weights, with the words of the translation given; then beam search, where
# even the scores agree. The last two sentences are new to the model: it reads them wrongly, and both
# programs make the same mistakes.
# %% [zh]
# ## 同样的数
#
# 先给定译文，比较 logits 和注意力权重；再比较束搜索，连得分都一样。最后两句模型从没见过，译得不对，
# 但两个程序错得一模一样。
# %%
sentence, translation = pairs[7]
inputs = tokenizer(sentence, text_target=translation, return_tensors="pt")
with torch.no_grad():
    expected = model(**inputs, output_attentions=True)
    h, s = encode(inputs["input_ids"][0])
    logits, alphas = [], []
    for word in [1, *inputs["labels"][0, :-1].tolist()]:
        s, scores, alpha = step(word, s, h)
        logits.append(scores)
        alphas.append(alpha)
far = (torch.stack(logits) - expected.logits[0]).abs().max().item()
far_attention = (torch.stack(alphas) - expected.cross_attentions[0][0, 0]).abs().max().item()
assert max(far, far_attention) < 1e-6
print("logits and attention weights differ by less than 1e-6")
# %%
search = {"num_beams": 4, "max_new_tokens": 12, "early_stopping": "never"}
for sentence in [sources[7], "We are late.", "Who is he?"]:
    inputs = tokenizer(sentence, return_tensors="pt")
    theirs = model.generate(**inputs, **search, output_scores=True, return_dict_in_generate=True)
    with torch.no_grad():
        score, words = beam_search(*encode(inputs["input_ids"][0]))
    assert words == theirs.sequences[0].tolist()
    assert abs(score - theirs.sequences_scores[0].item()) < 1e-6
    print(f"{sentence} → {tokenizer.decode(words, skip_special_tokens=True)}  ({score:.3f})")
# %% [en]
# ## To try
#
# - Let the *new* state ask in `step`, as some courses do. How far are the logits then?
# - Leave out the `tanh`. Print `alpha` for two different states.
# - Compare by `total` instead of the mean. Which sentences get shorter?
# %% [zh]
# ## 试一试
#
# - 像有些教程那样，在 `step` 里改用*新*状态来提问。logits 相差多少？
# - 去掉 `tanh`，用两个不同的状态各打印一次 `alpha`。
# - 不用平均值，改用 `total` 来比较。哪些句子的译文变短了？
