# %% [en]
# # 3. Train, read the curves, look at what fails
#
# A short training on 3,400 of the pairs that come with the package: one minute on a laptop's two cores.
# They have a small vocabulary that is used again and again. The model will be half-baked on purpose, since mistakes say more than successes.
# %% [zh]
# # 3. 训练，看曲线，看错在哪里
#
# 取包里自带句对中的 3,400 个做一次短训练：笔记本电脑两个核，一分钟。它们的词汇不多，反复出现。模型故意只练到半熟，因为错误比成功更能说明问题。
# %% [en]
# ## Train
#
# `tiny` is a recipe, a file of settings; each flag behind it overrides one of them: here for a
# short run of a smaller model with large steps and little dropout. While it trains,
# `runs/mine/report.html` is kept up to date: open it from the file browser, reload it now and then.
# Nothing else is needed, no server.
# %% [zh]
# ## 训练
#
# `tiny` 是一个配方，也就是一份设置；后面的每个参数覆盖其中一项：这里是小一些的模型、大一些的步长、少一些 dropout，为的是跑得短。训练过程中 `runs/mine/report.html`
# 会不断更新：在文件列表里打开它，过一会儿刷新一下即可，不需要任何服务器（不用 visdom）。
# %%
# !bahdanau-hf train tiny --output_dir runs/mine --max_train_steps 600 --eval_steps 100 \
#   --max_train_samples 3400 --max_eval_samples 200 --max_eval_translations 100 \
#   --hidden_size 128 --embedding_dropout 0.1 --readout_dropout 0.1 --learning_rate 0.006
# %% [en]
# ## Read the curves
#
# `metrics.jsonl` has what the report draws.
# %% [zh]
# ## 看曲线
#
# 报告里画的数据都在 `metrics.jsonl` 里。
# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt

lines = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
steps = [line for line in lines if "loss" in line]
validations = [line for line in lines if "eval_loss" in line]
figure, (losses, bleu) = plt.subplots(1, 2, figsize=(9, 3))
losses.plot([x["step"] for x in steps], [x["loss"] for x in steps], label="training")
losses.plot(
    [x["step"] for x in validations],
    [x["eval_loss"] for x in validations],
    "o-",
    label="validation",
)
losses.set(xlabel="step", ylabel="loss", ylim=(0, None))
losses.legend()
bleu.plot([x["step"] for x in validations], [x["eval_bleu"] for x in validations], "o-")
bleu.set(xlabel="step", ylabel="BLEU (validation)", ylim=(0, None))
figure.tight_layout()
plt.show()
# %% [en]
# - Most of the time the training loss lies *above* the validation loss. That is no mistake: it is measured
#   with dropout and label smoothing, the other without. Compare each with itself.
# - In the end both are flat because the learning rate has gone to 0, not because there is nothing left to
#   learn: a longer run goes lower. When the validation loss rises while the training loss falls, the model
#   learns sentences by heart.
# - BLEU begins near 0 and stays there while the loss falls fast: first the model learns which characters
#   are frequent, and only then which belong to the source. A BLEU near 0 in the beginning needs patience;
#   at the end it means a mistake, most often in how the scores are computed.
# %% [zh]
# - 大部分时间里，训练损失比验证损失*高*，这不是错误：训练损失带着 dropout 和标签平滑，验证损失没有。各自与自己比较。
# - 最后两条曲线变平，是因为学习率降到了 0，不是因为没有可学的了：训练得长一些，损失还会更低。
#   如果训练损失下降而验证损失上升，说明模型在背句子。
# - 一开始损失下降很快，BLEU 却停在 0 附近：模型先学会哪些字常见，然后才学会哪些字与原文有关。
#   开头 BLEU 接近 0 要有耐心；训练完还接近 0，就是哪里错了，多半是算分的方法不对。
# %% [en]
# ## Scores
#
# The test sentences were never trained on. BLEU comes with its signature, which says how it was computed:
# Chinese is cut into characters (`tok:zh`). Another cut gives another number.
# %% [zh]
# ## 得分
#
# 测试句从未参加训练。BLEU 后面的签名说明它是怎么算的：中文按字切开（`tok:zh`）。切法不同，分数就不同。
# %%
test = json.loads(Path("runs/mine/eval_results.json").read_text())["test"]
print(f"BLEU {test['bleu']:.1f}  {test['bleu_signature']}")
print(f"chrF {test['chrf']:.1f}")
# %% [en]
# ## The worst translations, and why
#
# A program can sort the failures roughly: does the source have a word that training hardly ever showed?
# Does the output repeat itself? Is it too short?
# %% [zh]
# ## 最差的译文，以及原因
#
# 程序可以把失败大致分类：原文里有没有训练时几乎没见过的词？译文有没有重复？是不是太短？
# %%
import re
from collections import Counter

from bahdanau_hf.data import bundled_pairs


def words_of(text):
    return re.findall(r"[a-z'-]+", text.lower())


trained_on = bundled_pairs()["train"]["translation"][:3400]
seen = Counter(word for pair in trained_on for word in words_of(pair["en"]))


def reasons(source, reference, hypothesis):
    rare = [word for word in words_of(source) if seen[word] < 8]
    if rare:
        yield "rare words", ", ".join(f"{word} ({seen[word]})" for word in rare)
    chunks = Counter(hypothesis[i : i + 2] for i in range(len(hypothesis) - 1))
    again = [chunk for chunk, n in chunks.items() if n > 1 and reference.count(chunk) < n]
    if again:
        yield "repeats", " ".join(again)
    if len(hypothesis) < 0.7 * len(reference):
        yield "too short", f"{len(hypothesis)} characters for {len(reference)}"


_, *table = Path("runs/mine/test_predictions.tsv").read_text(encoding="utf-8").splitlines()
rows = [line.split("\t")[:4] for line in table]
rows = sorted((float(score), *texts) for *texts, score in rows)
for _, source, reference, hypothesis in rows[:8]:
    print(f"{source}\n  {hypothesis}\n  {reference}")
    for name, detail in reasons(source, reference, hypothesis):
        print(f"  {name}: {detail}")
# %%
halves = {"worse half": rows[: len(rows) // 2], "better half": rows[len(rows) // 2 :]}
for name, half in halves.items():
    found = Counter(kind for _, *texts in half for kind, _ in reasons(*texts))
    shares = ", ".join(f"{kind} {found[kind] / len(half):.0%}" for kind in sorted(found))
    length = sum(len(words_of(source)) for _, source, *_ in half) / len(half)
    print(f"{name}: {length:.1f} words a sentence; {shares}")
# %% [en]
# Rare words tell the halves apart; repeats do not, in a model this young. What to do about each:
#
# - **Rare words.** A word needs about ten examples or more. Add pairs that have it; more steps alone do not
#   help.
# - **Repeats.** The decoder loses track of what it has said. More training is the cure; beam search helps
#   a little.
# - **Too short.** With many beams short outputs win: `--length_penalty` above 1.
# - **Fluent but wrong**, with none of these: a verb or a number exchanged for a more frequent one. The
#   decoder is a language model too, and trusts itself when the source is unclear.
# %% [zh]
# 最能把两半区分开的是罕见词；重复则不能，这个模型还太嫩。各自的办法：
#
# - **罕见词（rare words）。** 一个词要有十个左右的例句才学得会。加入含有它的句对；只加步数没有用。
# - **重复（repeats）。** 解码器忘了自己说过什么。根治要靠更多训练，束搜索也有一点帮助。
# - **太短（too short）。** 束多的时候短译文容易胜出：把 `--length_penalty` 设得大于 1。
# - **通顺但不对**，又不属于以上各种：动词或数字被换成了更常见的。解码器本身也是语言模型，看不清原文时就相信自己。
# %% [en]
# ## Ask it yourself
# %% [zh]
# ## 自己问问它
# %%
from bahdanau_hf import Translator

translator = Translator.from_pretrained("runs/mine")
for result in translator.translate(["Where is the station?", "I like tea.", "Quantum flux!"]):
    print(result.source, "→", result.text)
# %% [en]
# `bahdanau-hf train tiny --output_dir runs/full` trains to the end on all pairs, in some minutes.
# %% [zh]
# `bahdanau-hf train tiny --output_dir runs/full` 用全部句对一直训练到底，需要几分钟。
