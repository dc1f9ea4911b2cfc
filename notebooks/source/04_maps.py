# %% [en]
# # 4. Read an attention map
#
# Before each word of the translation the model spreads its attention over the words of the source. A map
# shows it: rows are words of the translation, columns words of the source, darker means more. Here we read
# three things from maps, and measure how far to trust them.
# %% [zh]
# # 4. 读懂注意力图
#
# 每写一个词之前，模型都把注意力分配给原文的各个词。注意力图把它画出来：每行是译文的一个词，每列是原文的一个词，
# 颜色越深，注意力越多。这里我们从图里读出三件事，再量一量它有多可信。
# %% [en]
# ## Two models
#
# They differ in one setting. `--guided_attention_weight` adds a second loss: the attention shall also agree
# with the word links of a statistical aligner (IBM Model 2), which takes a second to compute from the pairs
# alone. Everything else makes the runs short.
# %% [zh]
# ## 两个模型
#
# 它们只差一个设置。`--guided_attention_weight` 加上第二个损失：让注意力同时符合统计对齐器（IBM 模型 2）
# 找到的词对应。对齐器只用这些句对，一秒钟就能算出来。
# 其余参数只是让训练短一些。
# %%
# !bahdanau-hf train tiny --output_dir runs/guided --guided_attention_weight 1 --skip_test \
#   --max_train_steps 600 --eval_steps 600 --max_train_samples 3400 --max_eval_samples 60 \
#   --hidden_size 128 --embedding_dropout 0.1 --readout_dropout 0.1 --learning_rate 0.006
# !bahdanau-hf train tiny --output_dir runs/free --guided_attention_weight 0 --skip_test \
#   --max_train_steps 600 --eval_steps 600 --max_train_samples 3400 --max_eval_samples 60 \
#   --hidden_size 128 --embedding_dropout 0.1 --readout_dropout 0.1 --learning_rate 0.006
# %%
from IPython.display import SVG, display

from bahdanau_hf import Translator
from bahdanau_hf.reporting.attention_plot import alignment_svg

translators = {name: Translator.from_pretrained(f"runs/{name}") for name in ("guided", "free")}


def show(name, source, target):
    """Hand the translation to the model, so that the map does not depend on what it would write."""
    alignment = translators[name].align(source, target).by_words()
    display(SVG(alignment_svg(alignment, title=name)))


# %% [en]
# ## Word order
#
# Chinese says where before what: 在花园里 comes before 玩. The dark cells leave the diagonal and come back.
# %% [zh]
# ## 语序
#
# 中文先说在哪里，再说做什么：“在花园里” 在 “玩” 前面。深色的格子离开对角线，又走回来。
# %%
CHILDREN = ("The children are playing in the garden.", "孩子们在花园里玩。")
show("guided", *CHILDREN)
# %% [en]
# ## One to many
#
# One English word may be several characters, side by side (`tomorrow` 明天) or not: `call` is 给 … 打电话.
# Here the time, too, has moved before the verb.
# %% [zh]
# ## 一对多
#
# 一个英文词可能对应几个字，有的连在一起（`tomorrow`，明天），有的分开：`call` 是“给……打电话”。
# 这里的时间也移到了动词前面。
# %%
show("guided", "I will call you tomorrow morning.", "我明天早上给你打电话。")
# %% [en]
# ## The same pair without guidance
#
# The attention also serves to translate, but it need not say which word translates which: the annotation of
# a word knows its neighbours too, and the model looks before it has chosen the word. Often the map is
# blurred, or shifted by one place.
# %% [zh]
# ## 同一个句对，没有引导
#
# 这种注意力同样为翻译服务，但不一定说明哪个词译成哪个词：一个词的注释里也有它的邻居，而且模型是在选词之前看的。
# 所以图常常模糊，或者错开一格。
# %%
show("free", *CHILDREN)
# %% [en]
# ## Measured: alignment error rate
#
# 150 pairs of the bundled test split were linked by hand. *Sure* links must be found, *possible* ones may
# be. This is what a hand-made alignment looks like, sure links dark, possible ones light; each row is
# divided by its sum.
# %% [zh]
# ## 量一量：对齐错误率
#
# 自带测试集里有 150 个句对做了人工对齐。*确定*的对应必须找到，*可能*的可以找到。下面是一个人工对齐的样子：
# 确定的深，可能的浅；每行除以它的和。
# %%
import numpy as np

from bahdanau_hf import Alignment
from bahdanau_hf.alignment.gold import bundled_alignments


def links_as_map(reference):
    weights = np.zeros((len(reference.target_words), len(reference.source_words) + 1))
    for i, j in reference.possible:
        weights[j, i] = 1.0 if (i, j) in reference.sure else 0.3
    weights[weights.sum(axis=1) == 0, -1] = 1.0
    columns = [*(word.text for word in reference.source_words), "(none)"]
    rows = [word.text for word in reference.target_words]
    return Alignment(columns, rows, weights / weights.sum(axis=1, keepdims=True))


reference = bundled_alignments()[0]
display(SVG(alignment_svg(links_as_map(reference), title="by hand")))
show("guided", reference.source, reference.target)
# %% [en]
# The error rate (AER) compares all 150: 0 is perfect. The diagonal knows no words at all, so whatever is
# not better than it has found nothing.
# %% [zh]
# 错误率（AER）比较全部 150 对，0 为完全正确。对角线（diagonal）一个词都不认识：不比它好，就等于什么也没找到。
# %%
from bahdanau_hf.inference.alignment_error import alignment_quality

rates = {name: alignment_quality(translator) for name, translator in translators.items()}
print(f"drawn at random {rates['free']['uniform_error_rate']:6.1%}")
print(f"diagonal        {rates['free']['diagonal_error_rate']:6.1%}")
for name, rate in rates.items():
    print(f"{name:15} {rate['error_rate']:6.1%}")
# %% [en]
# ## What a map does not say
#
# It says where the model looked, not why it wrote a word: the decoder's own state speaks too. For word
# alignment guidance helps; for an explanation no map is enough.
#
# `bahdanau-hf align --model runs/guided "Call us." --output map.svg` draws a map without a notebook.
# %% [zh]
# ## 图没有说什么
#
# 它说明模型看了哪里，没有说明为什么写这个词：解码器自己的状态也在起作用。要做词对齐，引导有用；
# 要解释模型的决定，任何图都不够。
#
# 不用笔记本也能画图：`bahdanau-hf align --model runs/guided "Call us." --output map.svg`。
