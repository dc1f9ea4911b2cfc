# %% [en]
# # 5. From the tutorial's program to a Hub repository
#
# You have followed *Dive into Deep Learning* or a tutorial with its code, and have a `model_h.pt` of your
# own. Here such a model becomes a repository that anybody can load: convert, train on, push.
# %% [zh]
# # 5. 从教程里的程序到 Hub 上的仓库
#
# 你跟着《动手学深度学习》或者用它代码的博客，训练出了自己的 `model_h.pt`。这里把这样的模型变成谁都能加载的仓库：
# 转换、继续训练、上传。
# %% [en]
# ## The tutorial's model
#
# The same layers under the same names, in few lines, trained for some seconds. If you have your own
# `model_h.pt` and vocabularies, upload them and go on with *Convert*.
# %% [zh]
# ## 教程里的模型
#
# 层和名字都一样，只是写得短，训练几秒钟。如果你有自己的 `model_h.pt` 和两个词表，请上传，直接从“转换”开始。
# %%
import torch
from torch import nn

from bahdanau_hf.data import bundled_pairs

NUM_STEPS, SPECIAL = 10, ["<unk>", "<pad>", "<bos>", "<eos>"]


def source_words(text):
    for mark in ",.!?":
        text = text.replace(mark, f" {mark}")
    return text.lower().split()


def short_pairs(split):
    rows = bundled_pairs()[split]["translation"]
    cut = ((source_words(row["en"]), list(row["zh"])) for row in rows)
    return [(s, t) for s, t in cut if len(s) <= 6 and len(t) <= 8]


pairs = short_pairs("train")[:300]
sources, targets = zip(*pairs, strict=True)
vocabularies = [
    [*SPECIAL, *sorted({token for tokens in side for token in tokens})]
    for side in (sources, targets)
]
source_ids, target_ids = ({token: i for i, token in enumerate(side)} for side in vocabularies)


class Encoder(nn.Module):
    def __init__(self, size, width, layers):
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        self.rnn = nn.GRU(width, width, layers)

    def forward(self, x):
        return self.rnn(self.embedding(x.T))


class AdditiveAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.W_k, self.W_q = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.w_v = nn.Linear(width, 1, bias=False)

    def forward(self, query, keys, lengths):
        scores = self.w_v(torch.tanh(self.W_q(query)[:, None] + self.W_k(keys))).squeeze(-1)
        beyond = torch.arange(keys.shape[1]) >= lengths[:, None]
        weights = scores.masked_fill(beyond, -1e6).softmax(dim=-1)
        return (weights[:, None] @ keys).squeeze(1)


class Decoder(nn.Module):
    def __init__(self, size, width, layers):
        super().__init__()
        self.attention = AdditiveAttention(width)
        self.embedding = nn.Embedding(size, width)
        self.rnn = nn.GRU(2 * width, width, layers)
        self.dense = nn.Linear(width, size)

    def forward(self, word, state, annotations, lengths):
        context = self.attention(state[-1], annotations, lengths)
        x = torch.cat([context, self.embedding(word)], dim=-1)
        out, state = self.rnn(x[None], state)
        return self.dense(out[0]), state


class EncoderDecoder(nn.Module):
    def __init__(self, width=48, layers=2):
        super().__init__()
        self.encoder = Encoder(len(source_ids), width, layers)
        self.decoder = Decoder(len(target_ids), width, layers)


# %%
def encode(tokens, ids):
    known = [ids.get(token, ids["<unk>"]) for token in tokens[: NUM_STEPS - 1]]
    known.append(ids["<eos>"])
    return known + [ids["<pad>"]] * (NUM_STEPS - len(known)), len(known)


torch.manual_seed(0)
net = EncoderDecoder()
x, x_lengths = map(torch.tensor, zip(*(encode(s, source_ids) for s in sources), strict=True))
y, y_lengths = map(torch.tensor, zip(*(encode(t, target_ids) for t in targets), strict=True))
optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
for _ in range(400):
    rows = torch.randint(len(x), (64,))
    output, state = net.encoder(x[rows])
    annotations = output.transpose(0, 1)
    word, loss = torch.full((64,), target_ids["<bos>"]), 0.0
    for t in range(NUM_STEPS):
        logits, state = net.decoder(word, state, annotations, x_lengths[rows])
        word = y[rows, t]  # teacher forcing
        loss = loss + nn.functional.cross_entropy(
            logits, word, ignore_index=target_ids["<pad>"], reduction="sum"
        )
    optimizer.zero_grad()
    (loss / y_lengths[rows].sum()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
print(f"{len(pairs)} pairs, loss {loss.item() / y_lengths[rows].sum():.2f}")
# %% [en]
# Save what the tutorial saves, and beside it both vocabularies: a token a line, in the order of their ids.
# %% [zh]
# 保存教程里保存的文件，再加上两个词表：每行一个词元，按编号的顺序。
# %%
from pathlib import Path

torch.save(net.state_dict(), "model_h.pt")
for name, tokens in zip(("source.txt", "target.txt"), vocabularies, strict=True):
    Path(name).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
# %% [en]
# ## Convert
# %% [zh]
# ## 转换
# %%
# !bahdanau-hf convert model_h.pt --source_vocab source.txt --target_vocab target.txt \
#   --output_dir runs/converted
# %% [en]
# It translates exactly as the program does:
# %% [zh]
# 它的译文与原来的程序完全一样：
# %%
from bahdanau_hf import Translator


@torch.no_grad()
def predict(text):
    ids, length = encode(source_words(text), source_ids)
    output, state = net.encoder(torch.tensor([ids]))
    word, tokens = torch.tensor([target_ids["<bos>"]]), []
    for _ in range(NUM_STEPS):
        logits, state = net.decoder(word, state, output.transpose(0, 1), torch.tensor([length]))
        word = logits.argmax(dim=-1)
        if word.item() == target_ids["<eos>"]:
            break
        tokens.append(vocabularies[1][word.item()])
    return "".join(tokens)


net.eval()
converted = Translator.from_pretrained("runs/converted")
sentences = [" ".join(tokens) for tokens in sources[:200]]
translations = [result.text for result in converted.translate(sentences)]
assert translations == [predict(sentence) for sentence in sentences]
for sentence, translation in zip(sentences[:4], translations, strict=False):
    print(sentence, "→", translation)
# %% [en]
# ## Train it on
#
# Shape and vocabulary stay as they are. The recipe `tutorial` has the tutorial's settings. Here the model
# goes on with the pairs that it knows; give your own instead. Validation pairs are new to it, and most of
# their words unknown: with 300 pairs BLEU stays near 0.
# %% [zh]
# ## 继续训练
#
# 结构和词表保持不变，配方 `tutorial` 就是教程的设置。这里仍用它见过的句对，请换成你自己的。
# 验证用的句对是新的，其中的词它大多不认识：只有 300 个句对，BLEU 就停在 0 附近。
# %%
for name, some in (("pairs.tsv", pairs), ("validation.tsv", short_pairs("validation")[:40])):
    rows = (f"{' '.join(source)}\t{''.join(target)}\n" for source, target in some)
    Path(name).write_text("".join(rows), encoding="utf-8")
# !bahdanau-hf train tutorial --model_name_or_path runs/converted --train_file pairs.tsv \
#   --validation_file validation.tsv --output_dir runs/finetuned --max_train_steps 200 --eval_steps 100
# %% [en]
# ## Push
#
# `--dry_run` checks everything and sends nothing. For the real push take your own name, after `hf auth
# login`. The Python files travel along, so that the model also loads without this package; `README.md` is
# the model card, `notebook.ipynb` is what the Hub's Colab and Kaggle buttons open.
# %% [zh]
# ## 上传
#
# `--dry_run` 做全部检查，但什么都不发送。真正上传时换成你自己的名字，先运行 `hf auth login`。
# 那些 Python 文件一起上传，所以不装本包也能加载；`README.md` 是模型卡片，`notebook.ipynb` 供 Hub 上的
# Colab 和 Kaggle 按钮打开。在国内可以用镜像：启动 Python 之前设置环境变量 `HF_ENDPOINT`，导入之后再设置就没有用了。
# %%
# !bahdanau-hf push runs/finetuned OWNER/NAME --dry_run
# %% [en]
# ## Load it, with and without the package
#
# With the package no code from the repository is run. From the Hub the name is `OWNER/NAME`; here the
# folder stands for it.
# %% [zh]
# ## 加载：装了本包和没装本包
#
# 装了本包，就不会运行仓库里的任何代码。从 Hub 加载时写 `OWNER/NAME`，这里用文件夹代替。
# %%
finetuned = Translator.from_pretrained("runs/finetuned")
print(finetuned.translate(sentences[0])[0].text)
# %% [en]
# Without it, transformers runs the repository's files: read them first, and pin the commit that you have
# read (`revision="COMMIT"`).
# %% [zh]
# 没有本包时，transformers 会运行仓库里的文件：请先读一遍，再用 `revision="COMMIT"` 固定你读过的那个提交。
# %%
import subprocess
import sys

PROGRAM = f"""
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("runs/finetuned", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("runs/finetuned", trust_remote_code=True)
inputs = tokenizer({sentences[0]!r}, padding="max_length", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
assert "bahdanau_hf" not in sys.modules
"""
done = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, encoding="utf-8", check=True
)
print(done.stdout)
# %% [en]
# ## What the tutorial does otherwise
#
# The converted model keeps the tutorial's habits: its encoder reads the padding, words it has not seen are
# `<unk>`, sentences are cut after ten tokens. `bahdanau-hf train tiny` has none of these limits; the page
# *From Dive into Deep Learning* lists all differences.
# %% [zh]
# ## 教程的做法有哪些不同
#
# 转换得到的模型保留了教程的习惯：编码器会读填充，没见过的词是 `<unk>`，句子在十个词元后截断。
# `bahdanau-hf train tiny` 没有这些限制；文档 *From Dive into Deep Learning* 列出了全部差别。
