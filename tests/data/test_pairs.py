"""Guards of the bundled corpus. Each is a function of pairs that names what is wrong.

`test_guards_notice` shows every guard a small sample that it must complain about.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import pytest
import yaml

import bahdanau_hf
from bahdanau_hf.data.sources import bundled_pairs
from experiments.phrasebook import read_phrasebook

Pair = tuple[str, str]

FOLDER = Path(bahdanau_hf.__file__).parent / "pairs"
END_MARKS = {".": "。", "?": "？", "!": "！"}
TEST_SPLIT = "4f29f65bc3135adb560731475e8acf87d970da5b84c146213713b510aa323a40"
HAN = "\u4e00-\u9fff"


def words(english: str) -> list[str]:
    return re.findall(r"[a-z]+(?:['-][a-z]+)*|\d+", english.lower())


def han(chinese: str) -> list[str]:
    return re.findall(f"[{HAN}]", chinese)


def bare(sentence: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", sentence).casefold())


def used_in(pairs: list[Pair]) -> Counter[str]:
    """In how many pairs each English word form is used."""
    return Counter(word for english, _ in pairs for word in set(words(english)))


# --- guards: each gives the list of its complaints ------------------------------------------------


def format_problems(raw: bytes) -> list[str]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return [str(error)]
    problems = []
    if text != unicodedata.normalize("NFC", text):
        problems.append("not NFC")
    if "\r" in text or not text.endswith("\n") or text.endswith("\n\n"):
        problems.append("line ends")
    header, *lines = text.removesuffix("\n").split("\n")
    if header != "en\tzh":
        problems.append(f"header {header!r}")
    for line in lines:
        fields = line.split("\t")
        if len(fields) != 2 or any(not f or f != " ".join(f.split()) for f in fields):
            problems.append(line)
    return problems


def too_few(pairs: list[Pair]) -> list[str]:
    return [] if len(pairs) >= 10_000 else [f"{len(pairs)} pairs"]


def repeated(pairs: list[Pair]) -> list[str]:
    problems = []
    for side in zip(*pairs, strict=True):
        count = Counter(map(bare, side))
        problems += [sentence for sentence in side if count[bare(sentence)] > 1]
    return problems


def length_problems(pairs: list[Pair]) -> list[str]:
    """1 to 20 English words, 1 to 40 Chinese characters, neither side far longer."""
    problems = []
    for english, chinese in pairs:
        num_words, num_characters = len(english.split()), len(han(chinese))
        fits = 1 <= num_words <= 20 and 1 <= num_characters <= 40
        if not fits or not 0.4 * num_words <= num_characters <= 4 * num_words + 2:
            problems.append(f"{english} {chinese}")
    return problems


def length_spread_problems(pairs: list[Pair]) -> list[str]:
    """Short, middling and long sentences: no band is missing."""
    lengths = [len(english.split()) for english, _ in pairs]
    bands = {(1, 4): 0.05, (5, 9): 0.3, (10, 20): 0.2}
    shares = {band: mean(band[0] <= n <= band[1] for n in lengths) for band in bands}
    return [f"{band}: {shares[band]:.2f}" for band in bands if shares[band] < bands[band]]


def english_mark_problems(pairs: list[Pair]) -> list[str]:
    form = re.compile(r"[A-Z0-9\"](?:[A-Za-z0-9 ,'\"-]|[.?!](?= ))*[.?!]")
    return [e for e, _ in pairs if not form.fullmatch(e) or e.count('"') % 2]


def chinese_mark_problems(pairs: list[Pair]) -> list[str]:
    """Only Chinese characters and full-width marks, and 。？！ only where a sentence ends."""
    form = re.compile(f"(?:[{HAN}“](?:[{HAN}、“”]|，(?!，))*[。？！])+")
    problems = []
    for english, chinese in pairs:
        ends = len(re.findall("[。？！]", chinese))
        more_than_english = ends > len(re.findall("[.?!]", english))
        quotes = re.sub("[^“”]", "", chinese).replace("“”", "")
        if not form.fullmatch(chinese) or more_than_english or quotes:
            problems.append(chinese)
    return problems


def disagreeing_marks(pairs: list[Pair]) -> list[str]:
    """A question is a question on both sides, at the end and anywhere inside."""
    return [
        f"{english} {chinese}"
        for english, chinese in pairs
        if (english[-1] == "?") != (chinese[-1] == "？")
        or english.count("?") != chinese.count("？")
    ]


def not_simplified(pairs: list[Pair]) -> list[str]:
    """GB 2312 has the simplified characters in everyday use and not the traditional ones."""
    problems = []
    for _, chinese in pairs:
        try:
            chinese.encode("gb2312")
        except UnicodeEncodeError:
            problems.append(chinese)
    return problems


def changed_by_opencc(pairs: list[Pair]) -> list[str]:
    opencc = pytest.importorskip("opencc")
    convert = opencc.OpenCC("t2s").convert
    return [chinese for _, chinese in pairs if convert(chinese) != chinese]


def near_repetitions(pairs: list[Pair]) -> list[str]:
    """English sentences of two words or more that are one word away from another.

    One word is exchanged, added or left out. A sentence is known by what remains of it when one
    word is left out.
    """
    sentences = [tuple(words(english)) for english, _ in pairs]
    remains: defaultdict[tuple, set[int]] = defaultdict(set)
    for place, sentence in enumerate(sentences):
        remains[sentence].add(place)
        for gap in range(len(sentence)):
            rest = (sentence[:gap], sentence[gap + 1 :])
            remains[rest].add(place)  # the gap's place is known: an exchange
            remains[rest[0] + rest[1]].add(place)  # meets the shorter sentence itself: an addition
    near = set()
    for key, places in remains.items():
        exchange = len(key) == 2 and isinstance(key[0], tuple)
        whole = {place for place in places if sentences[place] == key}
        if len(places) > 1 and (exchange or whole):
            near |= places
    return [pairs[place][0] for place in sorted(near) if len(sentences[place]) > 1]


def too_many_near_repetitions(pairs: list[Pair]) -> list[str]:
    near = near_repetitions(pairs)
    return near if len(near) >= 0.01 * len(pairs) else []


def template_runs(pairs: list[Pair]) -> list[str]:
    """Openings of three words that more than one pair in two hundred begins with."""
    openings = Counter(tuple(words(english)[:3]) for english, _ in pairs)
    most = max(1, 0.005 * len(pairs))
    return [" ".join(opening) for opening, n in openings.items() if n > most]


def vocabulary_problems(pairs: list[Pair]) -> list[str]:
    count = used_in(pairs)
    often = sum(n >= 3 for n in count.values()) / len(count)
    problems = [] if 2500 <= len(count) <= 2900 else [f"{len(count)} different words"]
    return problems if often >= 0.97 else [*problems, f"used three times: {often:.1%}"]


def shared_sentences(splits: dict[str, list[Pair]]) -> list[str]:
    problems = []
    for side in (0, 1):
        homes = defaultdict(set)
        for name, pairs in splits.items():
            for pair in pairs:
                homes[bare(pair[side])].add(name)
        problems += [sentence for sentence, names in homes.items() if len(names) > 1]
    return problems


def unseen_in_training(splits: dict[str, list[Pair]]) -> list[str]:
    """Held-out splits of whose running words or characters more than 1 % are not in train."""
    problems = []
    for side, pieces in ((0, words), (1, han)):
        known = {piece for pair in splits["train"] for piece in pieces(pair[side])}
        for name in ("validation", "test"):
            running = [piece for pair in splits[name] for piece in pieces(pair[side])]
            unseen = [piece for piece in running if piece not in known]
            if len(unseen) > 0.01 * len(running):
                problems += [f"{name}: {piece}" for piece in unseen]
    return problems


def card_rows(splits: dict[str, list[Pair]]) -> list[str]:
    """The rows of numbers that the data set card must have."""
    pairs = [pair for split in splits.values() for pair in split]
    english_words = [word for english, _ in pairs for word in words(english)]
    characters = [char for _, chinese in pairs for char in han(chinese)]
    lengths = [len(words(english)) for english, _ in pairs]
    marks = [len(chinese) for _, chinese in pairs]
    sizes = " / ".join(f"{len(splits[name]):,}" for name in ("train", "validation", "test"))

    def of_lengths(numbers: list[int]) -> str:
        return f"{mean(numbers):.1f}, {median(numbers):.0f}, {max(numbers)}"

    return [
        f"| pairs | {len(pairs):,} |",
        f"| train / validation / test | {sizes} |",
        f"| different English words | {len(set(english_words)):,} |",
        f"| different Chinese characters | {len(set(characters)):,} |",
        f"| English words | {len(english_words):,} |",
        f"| Chinese characters | {len(characters):,} |",
        f"| words per sentence: mean, median, longest | {of_lengths(lengths)} |",
        "| characters per sentence with punctuation: mean, median, longest "
        f"| {of_lengths(marks)} |",
        f"| questions | {sum(english.endswith('?') for english, _ in pairs):,} |",
    ]


# --- the corpus ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> list[Pair]:
    lines = (FOLDER / "pairs.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(english, chinese) for english, chinese in (line.split("\t") for line in lines)]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Pair]]:
    return {
        name: [(row["en"], row["zh"]) for row in dataset["translation"]]
        for name, dataset in bundled_pairs().items()
    }


GUARDS: dict[Callable[[list[Pair]], list[str]], list[Pair]] = {
    too_few: [("Hello!", "你好！")],
    repeated: [("Come in.", "进来。"), ("Come here.", "进来！")],
    length_problems: [("Go " * 21 + "now.", "现在就去那里，别再等了，快点去吧，去吧。")],
    length_spread_problems: [("Call us.", "联系我们。")],
    english_mark_problems: [("Call us.Now", "联系我们。")],
    chinese_mark_problems: [("Call us, please.", "请联系我们.")],
    disagreeing_marks: [("Is he here?", "他在这里。")],
    not_simplified: [("This is a book.", "這是一本書。")],
    changed_by_opencc: [("This is a book.", "這是一本書。")],
    too_many_near_repetitions: [("I like tea.", "我喜欢茶。"), ("I like coffee.", "我喜欢咖啡。")],
    template_runs: [("I want to go.", "我想走。"), ("I want to eat fish.", "我想吃鱼。")],
    vocabulary_problems: [("Call us.", "联系我们。")],
}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_corpus_passes(guard: Callable[[list[Pair]], list[str]], corpus: list[Pair]) -> None:
    assert guard(corpus) == []


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_guards_notice(guard: Callable[[list[Pair]], list[str]]) -> None:
    assert guard(GUARDS[guard])


def test_format() -> None:
    assert format_problems((FOLDER / "pairs.tsv").read_bytes()) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"en\tzh\nHi.\t\xff\n",
        "zh\ten\nHi.\t嗨。\n".encode(),
        "en\tzh\r\nHi.\t嗨。\r\n".encode(),
        "en\tzh\nHi.\t嗨。".encode(),
        "en\tzh\nHi.\t嗨。\n\n".encode(),
        "en\tzh\nHi.\t嗨。\tTom\n".encode(),
        "en\tzh\nHi. \t嗨。\n".encode(),
        "en\tzh\nCafe\u0301.\t咖啡。\n".encode(),
    ],
    ids=["utf-8", "header", "carriage", "no end", "blank line", "third column", "space", "nfc"],
)
def test_format_guard_notices(raw: bytes) -> None:
    assert format_problems(raw)


@pytest.mark.parametrize(
    ("pairs", "complains"),
    [
        ([("It is late.", "晚了。"), ("Is it late?", "晚了吗？")], False),  # other order
        ([("It is late.", "晚了。"), ("It is very late.", "很晚了。")], True),  # added inside
        ([("Stay.", "留下。"), ("Stay here.", "留在这里。")], True),  # added at the end
        ([("Stop!", "停！"), ("Run!", "快跑！")], False),  # one word each
        ([("He has a cat.", "他有猫。"), ("He had a dog.", "他有过狗。")], False),  # two words
        ([("He has a cat.", "他有猫。"), ("She has a cat.", "她有猫。")], True),
        # Both lose one word and leave the same rest, but at different places: not one word apart.
        ([("Now he eats.", "他现在吃。"), ("He eats rice.", "他吃米饭。")], False),
    ],
)
def test_near_repetitions(pairs: list[Pair], complains: bool) -> None:
    assert bool(near_repetitions(pairs)) is complains


@pytest.mark.parametrize(
    "chinese",
    [
        "你好",
        "你好,汤姆。",
        "你好，，汤姆。",
        "他说“好。",
        "你好 汤姆。",
        "OK。",
        "好。好。",
        "。好。",
    ],
)
def test_chinese_marks_guard_notices(chinese: str) -> None:
    assert chinese_mark_problems([("Hello, Tom.", chinese)])


@pytest.mark.parametrize("english", ["hello.", "Hello", "Hello,Tom…", "He said, “Hi.”", 'A "cat.'])
def test_english_marks_guard_notices(english: str) -> None:
    assert english_mark_problems([(english, "你好。")])


# --- the splits and the card ---------------------------------------------------------------------


def test_splits_hold_the_corpus(corpus: list[Pair], splits: dict[str, list[Pair]]) -> None:
    assert sorted(pair for pairs in splits.values() for pair in pairs) == sorted(corpus)
    assert shared_sentences(splits) == []
    assert unseen_in_training(splits) == []
    shares = [len(splits[name]) / len(corpus) for name in ("train", "validation")]
    assert shares == pytest.approx([0.935, 0.05], abs=0.01)


def test_the_test_split_is_that_of_the_first_pairs(
    corpus: list[Pair], splits: dict[str, list[Pair]]
) -> None:
    """What was added later never joins it: scores stay comparable."""
    first = corpus[:3776]
    assert len(splits["test"]) == 181
    assert set(splits["test"]) <= set(first)
    text = "".join(f"{english}\t{chinese}\n" for english, chinese in splits["test"])
    assert hashlib.sha256(text.encode()).hexdigest() == TEST_SPLIT


def test_the_phrase_book_is_apart_from_the_pairs(
    corpus: list[Pair], splits: dict[str, list[Pair]]
) -> None:
    """Its sentences are new, and its words are known: what is tested is how they go together."""
    phrases = read_phrasebook()
    assert len(phrases) == 100
    pairs = [(english, chinese) for english, texts in phrases for chinese in texts]
    assert repeated([(english, texts[0]) for english, texts in phrases]) == []
    for guard in (english_mark_problems, chinese_mark_problems, disagreeing_marks, not_simplified):
        assert guard(pairs) == [], guard.__name__
    taken = {bare(text) for pair in corpus for text in pair}
    assert [text for pair in pairs for text in pair if bare(text) in taken] == []
    together = [*corpus, *((english, texts[0]) for english, texts in phrases)]
    assert near_repetitions(together) == []  # nor are there any in the corpus: its card says so
    count = Counter(word for english, _ in splits["train"] for word in words(english))
    assert [word for english, _ in phrases for word in words(english) if count[word] < 5] == []


def test_split_guards_notice() -> None:
    train = [("Come in.", "进来。")]
    assert shared_sentences({"train": train, "test": [("Come in!", "请进！")]})
    assert shared_sentences({"train": train, "test": [("Enter.", "进来！")]})
    splits = {"train": train, "validation": train, "test": [("Come in, Tom.", "进来，汤姆。")]}
    assert unseen_in_training(splits) == ["test: tom", "test: 汤", "test: 姆"]


def test_card_has_the_numbers(splits: dict[str, list[Pair]]) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in card_rows(splits) if row not in card] == []


def test_card_claims(corpus: list[Pair]) -> None:
    assert min(used_in(corpus).values()) >= 3
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\| ([A-Z].*[.?!]) \| (.*[。？！]) \|$", card, flags=re.MULTILINE)
    assert len(examples) == 4
    assert set(examples) <= set(corpus)


def test_card_header() -> None:
    header = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert header["language"] == ["en", "zh"]
    assert header["license"] == "cc0-1.0"
    assert header["task_categories"] == ["translation"]
    assert header["size_categories"] == ["10K<n<100K"]
    assert header["pretty_name"]
    assert "CC0" in (FOLDER / "LICENSE").read_text(encoding="utf-8")
