"""`python -m experiments.glossary MODEL TEST_FILE`: what a glossary keeps, and what it costs.

Of a file of English-Chinese pairs it takes those with one of the nouns below in the source and the
noun's translation in the reference: there, the glossary is right. It prints how many of the
translations are kept, and BLEU, of free search and of search with the glossary, greedy and with
beams.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bahdanau_hf import Glossary, Translator
from bahdanau_hf.data.preprocessing import clean_pairs
from bahdanau_hf.data.sources import file_pairs, pair_texts
from bahdanau_hf.metrics.analysis import compare_systems
from bahdanau_hf.metrics.translation import score_translations

_PAIRS = """
    airport=机场 answer=答案 apple=苹果 baby=婴儿 bank=银行 bed=床 bicycle=自行车 bird=鸟 book=书
    box=盒子 bread=面包 bridge=桥 brother=哥哥 bus=公共汽车 car=车 cat=猫 chair=椅子 coffee=咖啡
    computer=电脑 dictionary=字典 doctor=医生 dog=狗 dollars=美元 door=门 dream=梦 fire=火 fish=鱼
    flowers=花 garden=花园 girl=女孩 hospital=医院 hotel=酒店 house=房子 key=钥匙 knife=刀
    lake=湖 lawyer=律师 letter=信 library=图书馆 meeting=会议 milk=牛奶 moon=月亮 mountain=山
    movie=电影 newspaper=报纸 piano=钢琴 picture=照片 plane=飞机 police=警察 problem=问题
    question=问题 restaurant=餐厅 river=河 secret=秘密 shoes=鞋 sister=妹妹 snow=雪 station=车站
    table=桌子 teacher=老师 tennis=网球 ticket=票 train=火车 umbrella=雨伞 wife=妻子 window=窗户
"""
NOUNS = dict(pair.split("=") for pair in _PAIRS.split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="experiments.glossary", description=__doc__)
    parser.add_argument("model", help="folder of a trained checkpoint, English to Chinese")
    parser.add_argument("test_file", type=Path, help="pairs, as `bahdanau-hf score` reads them")
    parser.add_argument("--chinese_script", default="keep", choices=["keep", "simplified"])
    parser.add_argument("--num_beams", type=int, nargs="+", default=[1, 5], metavar="N")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = file_pairs(str(args.test_file), "en", "zh")
    pairs, _ = clean_pairs(pairs, chinese_script=args.chinese_script, training=False)
    glossary = Glossary(NOUNS)
    known = [
        (source, target)
        for source, target in zip(*pair_texts(pairs, "en", "zh"), strict=True)
        if (terms := glossary.find(source)) and all(term.target in target for term in terms)
    ]
    sources, references = [s for s, _ in known], [[t] for _, t in known]
    targets = [[term.target for term in glossary.find(source)] for source in sources]
    print(f"{len(sources)} sentences, {sum(map(len, targets))} terms, {len(NOUNS)} nouns")
    print("| beams | glossary | kept | BLEU | sentences/CPU s |")
    print("| ---: | --- | ---: | ---: | ---: |")
    translator = Translator.from_pretrained(args.model, device="cpu")
    translator.translate(sources[:64])  # lays the weights out
    for beams in args.num_beams:
        systems = []
        for given in (None, glossary):
            start = time.process_time()
            found = translator.translate(sources, num_beams=beams, glossary=given)
            rate = len(sources) / (time.process_time() - start)
            texts = [translation.text for translation in found]
            kept = [t in text for text, some in zip(texts, targets, strict=True) for t in some]
            score = score_translations(texts, references, target_lang="zh")
            name = "no" if given is None else "yes"
            share = sum(kept) / len(kept)
            print(f"| {beams} | {name} | {share:.1%} | {score.bleu:.2f} | {rate:.0f} |", flush=True)
            systems.append(texts)
        compared = compare_systems(systems[1], systems[0], references, target_lang="zh")
        print(f"  BLEU with {beams} beams: {compared['bleu'].as_dict()}")
    print(score.bleu_signature)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
