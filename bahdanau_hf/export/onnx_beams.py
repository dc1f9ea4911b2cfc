"""Beam search as nodes of an ONNX graph, by the rules of transformers' beam search.

The number of beams and the rules are the graph's own. A hypothesis is known by its place alone:
every step writes down which candidates it went on with or ended, each as one number that says the
beam it came from and the word. The best hypothesis is read off them backwards at the end.

Dimensions: B batch, K beams, M candidates, T steps, V target vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .onnx_decoder import Decoder
from .onnx_nodes import Nodes

NEVER = -1.0e9  # the score of what must not be chosen


class BeamRules(NamedTuple):
    """What `generate` calls by the same names."""

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False  # or True or "never"


def add_beams(
    decoder: Decoder,
    search: Nodes,
    rows: str,
    start: str,
    fill_token_id: int,
    end_token_ids: list[int],
    rules: BeamRules,
) -> str:
    """Keep the K best beginnings of each sentence.

    A hypothesis scores its summed log-probability over its length to the power `length_penalty`. A
    sentence is done once no running beam can pass the worst of its K ended hypotheses (by the bound
    that `early_stopping` chooses); nothing can change it from then on.

    In `search`, the graph around the loop, `rows` names B, `(1,)`, `start` the token that every
    output starts with, and what is returned the output, `(B, T)`. Behind the end stands the
    `fill_token_id`.
    """
    K, V = rules.num_beams, decoder.vocab_size
    never, one = search.constant(NEVER), search.constant(1)
    # What a summed log-probability is divided by, after each step.
    after = search.op("Add", "max_new_tokens", one)
    lengths = search.op("Cast", search.op("Range", one, after, one), to=11)  # double
    penalty = search.constant(rules.length_penalty, np.float64)
    divisors = search.op("Cast", search.op("Pow", lengths, penalty), to=1)
    last_step = search.op("Sub", "max_new_tokens", one)

    def fill(values: str, width: int) -> str:
        return search.op("Expand", values, search.op("Concat", rows, [width], axis=0))

    # The beams of a sentence begin alike: all but the first are held back for one step.
    first_scores = search.constant([[0.0] + [NEVER] * (K - 1)])
    carried = [search.op("Gather", x, [0] * K, axis=1) for x in decoder.begin(search)]
    first = [
        *(decoder.look_up(search, fill(start, K)), fill(first_scores, K), fill(never, K)),
        *(fill(search.constant(True), 1), *carried),
    ]

    step = search.inside("step")
    x, scores, ended, wanted, *carried = step.given(len(first))
    logits, carried = decoder.step(step, x, carried)
    log_probs = step.op("LogSoftmax", logits, axis=-1)
    total = step.op("Add", log_probs, step.op("Unsqueeze", scores, [2]))
    total = step.op("Reshape", total, [0, K * V])
    M = min(max(2, 1 + len(end_token_ids)) * K, K * V)
    candidates, index = step.largest(total, M)  # (B, M)
    ends = step.op("Equal", "iteration", last_step)
    if end_token_ids:
        by_token = step.is_one_of(step.op("Mod", index, V), end_token_ids)
        ends = step.op("Or", by_token, ends)

    # Those of the K best that end.
    divisor = step.op("Gather", divisors, "iteration")
    counts = step.op("And", ends, wanted)
    normalised = step.op("Where", counts, step.op("Div", candidates, divisor), never)
    ending = step.columns(normalised, 0, K)
    ended, _ = step.largest(step.op("Concat", ended, ending, axis=1), K)

    # The best that go on; there are K, since no more than one in each beam can end by a token.
    scores, choice = step.largest(step.op("Where", ends, never, candidates), K)
    going_on = step.op("GatherElements", index, choice, axis=1)
    at, word = step.op("Unsqueeze", step.op("Div", going_on, V), [2]), step.op("Mod", going_on, V)
    carried = [step.op("GatherND", part, at, batch_dims=1) for part in carried]

    # Can the best running beam still pass the worst ended hypothesis?
    worst = step.columns(ended, K - 1, K)
    if rules.early_stopping is True:
        bound = search.constant(NEVER / 2)  # all K have ended
    else:
        if rules.early_stopping == "never" and rules.length_penalty > 0:
            divisor = search.op("Gather", divisors, last_step)
        bound = step.op("Div", step.columns(scores, 0, 1), divisor)
    wanted = step.op("And", wanted, step.op("Less", worst, bound))
    results = [decoder.look_up(step, word), scores, ended, wanted, *carried]
    ending, going_on, index = search.loop(
        step, "max_new_tokens", step.any(wanted), first, results, [ending, going_on, index]
    )
    return _read_back(search, V, K, ending, going_on, index, fill_token_id)


def _read_back(
    search: Nodes, V: int, K: int, ending: str, going_on: str, index: str, fill_token_id: int
) -> str:
    """The best hypothesis of each sentence from what the steps have written down.

    That is `ending`, scores of the first K candidates where they end, `(T, B, K)`; `going_on`, the
    candidates that the beams went on with, `(T, B, K)`; and `index`, all candidates, `(T, B, M)`.
    """
    scores = search.op("Transpose", ending, perm=[1, 0, 2])
    best = search.op("ArgMax", search.op("Reshape", scores, [0, -1]), axis=1)  # (B, 1)
    last = search.op("Div", best, K)  # the step that it ended in
    place = search.op("Add", search.op("Mod", best, K), K)  # among both, there
    both = search.op("Concat", going_on, index, axis=2)

    count = search.op("Squeeze", search.op("Shape", ending, start=0, end=1))
    steps = search.op("Range", 0, count, 1)
    back = search.inside("back")
    place_now, step_now, both_now = back.given(3)
    found = back.op("GatherElements", both_now, place_now, axis=1)
    is_behind = back.op("Greater", step_now, last)
    origin = back.op("Where", is_behind, place_now, back.op("Div", found, V))
    token = back.op("Where", is_behind, fill_token_id, back.op("Mod", found, V))
    (tokens,) = search.scan(back, [place], [steps, both], [origin], [token], backwards=True)
    longest = search.op("Add", search.op("ReduceMax", last, keepdims=0), [1])
    return search.columns(search.rows_of_ids(tokens), 0, longest)
