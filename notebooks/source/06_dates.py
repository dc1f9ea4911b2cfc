# %% [en]
# # 6. Not only sentences
#
# A sequence need not be a sentence. Here the model reads a date letter by letter, "3 March 2021", and
# writes it digit by digit, "2021-03-03". It learns this in half a minute, without any rule, and the
# attention map shows how: inside a number it walks straight on, between the parts it jumps.
# %% [zh]
# # 6. 不只是句子
#
# 序列不一定是句子。这里模型逐个字母地读日期 “3 March 2021”，逐个数字地写出 “2021-03-03”。
# 不用任何规则，半分钟就能学会。注意力图会告诉我们它怎么做：在一个数的内部一步一步往前走，在各部分之间跳转。
# %% [en]
# ## The pairs
#
# A short program writes them: a source, a tab, a target.
# %% [zh]
# ## 句对
#
# 用一个小程序写出来：原文、制表符、译文。
# %% examples/dates.py
# %%
# !python dates.py
from pathlib import Path

print(*Path("dates.tsv").read_text(encoding="utf-8").splitlines()[:4], sep="\n")
# %% [en]
# ## Train
#
# The recipe `pronunciation` is for characters on the source side; `--target_kind char` makes it write
# characters too.
# %% [zh]
# ## 训练
#
# 配方 `pronunciation` 的原文按字符读；`--target_kind char` 让译文也按字符写。
# %%
# !bahdanau-hf train pronunciation --target_kind char --target_lang iso --train_file dates.tsv \
#   --source_column 1 --target_column 2 --hidden_size 96 --embedding_size 48 \
#   --max_train_steps 300 --eval_steps 150 --output_dir runs/dates
# %% [en]
# The score is over characters, and validation dates never occur in training.
# %% [zh]
# 得分按字符计算；验证用的日期在训练里从未出现。
# %%
from IPython.display import SVG, display

from bahdanau_hf import Translator
from bahdanau_hf.reporting.attention_plot import alignment_svg

translator = Translator.from_pretrained("runs/dates")
for result in translator.translate(["3 March 2021", "2021 March 3", "July 14, 1989", "9 Nov 1989"]):
    print(result.source, "→", result.text)
# %% [en]
# ## Maps
#
# With the year in front the map is monotone: nearly a diagonal. With the day in front the model has
# to begin at the end.
# %% [zh]
# ## 注意力图
#
# 年份在前时，图是单调的，几乎是一条对角线。日期在前时，模型得从末尾开始写。
# %%
for source in ("2021 March 3", "3 March 2021"):
    display(SVG(alignment_svg(translator.align(source))))
# %% [en]
# For the month it looks at the letters that tell it from the others. For the `0` of the day it looks at
# the space before the `3`, where a second digit would stand.
#
# ## Where it ends
#
# It knows the forms it has seen and nothing about dates.
# %% [zh]
# 写月份时，模型看的是能把它和别的月份区分开的那几个字母。写日的 `0` 时，它看着 `3` 前面的空格：
# 如果还有一位数字，就应该在那里。
#
# ## 它的边界
#
# 它只认识见过的写法，对日期本身一无所知。
# %%
for result in translator.translate(["31 February 2021", "the third of March 2021", "12 March"]):
    print(result.source, "→", result.text)
# %% [en]
# ## To try
#
# - Add a form to `dates.py`, such as "3rd of March, 2021".
# - Take a list of words with their pronunciation, and the recipe `pronunciation` as it is.
# - Turn the columns round (`--source_column 2 --target_column 1`): which of the forms does it write?
# %% [zh]
# ## 试一试
#
# - 在 `dates.py` 里加一种写法，比如 “3rd of March, 2021”。
# - 换成单词和它们的读音，直接用配方 `pronunciation`。
# - 把两列对调（`--source_column 2 --target_column 1`）：它会写出哪种写法？
