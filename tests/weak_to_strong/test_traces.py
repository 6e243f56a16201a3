"""Which chains are learnt from: exact partitions of hand-written ones, every hygiene rule, and what a file of chains may be."""

import asyncio
import random
from pathlib import Path

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Completion, Example
from exchange.settings import SettingError
from student_clients.errors import StudentServerError
from weak_to_strong.traces import (
    HygieneConfig,
    Trace,
    check_usable,
    chosen,
    clean,
    first_and_last_differ,
    graded,
    loops,
    of_variant,
    read_traces,
    save_traces,
    write_traces,
)

FILE = Path("traces.jsonl")
LOOP = "so we add two and then " * 8
HAND = [
    # (text, finish_reason, what becomes of it)
    ("3 + 4 = 7\n\\boxed{7}", "stop", "positive"),
    ("It is \\boxed{7.0}", "stop", "positive"),
    ("The answer is 7.", "stop", "positive"),
    ("3 + 4 = 8\n#### 8", "stop", "negative"),
    ("I do not know.", "stop", "negative"),  # no box, no number: a wrong chain
    ("\\boxed{8} no, wait, \\boxed{7}", "stop", "positive"),  # the last one counts, flagged
    ("3 + 4 = 7, so \\boxed{7", "length", "truncated"),
    (LOOP + "\\boxed{7}", "stop", "loop"),
    ("3 + 4 = 7 所以答案是 \\boxed{7}", "stop", "foreign"),
    ("see https://example.org \\boxed{7}", "stop", "foreign"),
    ("   ", "stop", "empty"),
    (None, None, "failed"),
]


def example(i, **more):
    return Example(id=str(i), task="gsm8k", split="train", query="What is 3 + 4?", gold="7", **more)


def marked():
    traces = [Trace(example_id=str(i), completion=text, finish_reason=reason) for i, (text, reason, _) in enumerate(HAND)]
    return asyncio.run(graded(traces, [example(i) for i in range(len(HAND))]))


QUERIES = {str(i): "What is 3 + 4?" for i in range(len(HAND))}


def test_twelve_hand_written_chains_fall_where_they_belong():
    kept, dropped = clean(marked(), QUERIES, HygieneConfig())
    found = {trace.example_id for trace in kept}
    for variant in ("positive", "negative"):
        assert [t.example_id for t in of_variant(kept, variant)] == [str(i) for i, row in enumerate(HAND) if row[2] == variant]
    assert found == {str(i) for i, row in enumerate(HAND) if row[2] in ("positive", "negative")}
    assert of_variant(kept, "all") == kept
    assert dropped == {
        "failed": 1, "empty": 1, "truncated": 1, "loop": 1, "foreign": 2, "unanswered": 0, "unjudged": 0, "duplicate": 0
    }  # fmt: skip
    assert [t.example_id for t in kept if t.first_and_last_differ] == ["5"]


def test_chains_without_answer_can_be_dropped_instead():
    kept, dropped = clean(marked(), QUERIES, HygieneConfig(drop_unanswered=True))
    assert dropped["unanswered"] == 1 and "4" not in {trace.example_id for trace in kept}


def test_equal_chains_of_a_question_count_once():
    twice = [Trace(example_id="0", sample_index=k, completion=text, is_correct=True) for k, text in enumerate(("a  b", "a b", "c"))]
    kept, dropped = clean(twice, QUERIES, HygieneConfig())
    assert [trace.sample_index for trace in kept] == [0, 2] and dropped["duplicate"] == 1


def test_a_script_that_the_question_uses_is_at_home():
    trace = Trace(example_id="0", completion="три и четыре: 7", is_correct=True)
    assert clean([trace], {"0": "Сколько будет 3 + 4?"}, HygieneConfig())[1]["foreign"] == 0
    assert clean([trace], QUERIES, HygieneConfig())[1]["foreign"] == 1
    assert clean([trace], QUERIES, HygieneConfig(foreign=False))[1]["foreign"] == 0


def test_loops_are_repeated_phrases_and_not_similar_steps():
    assert loops("so we add two and then " * 8)
    assert loops("ha " * 20) and not loops("ha " * 10)
    assert not loops("\n".join(f"{k} + 1 = {k + 1}" for k in range(40)))
    assert not loops("3 + 4 = 7\n7 + 7 = 14\n14 + 14 = 28\n#### 28")


def test_first_and_last_answer():
    assert not first_and_last_differ("\\boxed{7} and again \\boxed{7}")
    assert not first_and_last_differ("so 7\n#### 7")
    assert first_and_last_differ("#### 7\n\nQuestion: next one\n#### 12")


def test_matched_size_takes_as_many_as_the_smallest_variant_has():
    traces = [Trace(example_id=str(i), completion=f"t{i}", is_correct=i < 7) for i in range(10)]
    for variant in ("all", "positive", "negative"):
        taken, sizes = chosen(traces, variant, match_size=True, keep=None, rng=random.Random(0))
        assert sizes == {"all": 10, "positive": 7, "negative": 3} and len(taken) == 3
        assert set(taken) <= set(of_variant(traces, variant))
    assert len(chosen(traces, "all", match_size=False, keep=None, rng=random.Random(0))[0]) == 10


def test_keep_is_a_limit_a_question():
    traces = [Trace(example_id=str(i % 2), sample_index=i, completion=f"t{i}", is_correct=i % 3 > 0) for i in range(12)]
    taken, sizes = chosen(traces, "positive", match_size=False, keep=2, rng=random.Random(0))
    assert sizes == {"all": 4, "positive": 4, "negative": 4}
    assert [trace.example_id for trace in taken].count("0") == 2 and all(trace.is_correct for trace in taken)


class Weak:
    name = "weak"

    async def complete(self, messages, params, *, n=1, sample_index=0):
        if "boom" in messages[-1].content:
            raise StudentServerError("500")
        return [Completion(text=f"chain {k}\n#### {7 + k}", finish_reason="stop", prompt_tokens=5, completion_tokens=4) for k in range(n)]

    async def aclose(self):
        pass


def test_chains_are_graded_as_they_come_and_failures_are_kept_as_such(tmp_path):
    asked = [example(0), example(1).model_copy(update={"query": "boom"})]
    traces = asyncio.run(
        write_traces(asked, client=Weak(), params=SamplingParams(temperature=1.0, seed=3), instruction="Think.", samples=2)
    )
    assert [(t.example_id, t.sample_index, t.is_correct, t.completion is None) for t in traces] == [
        ("0", 0, True, False), ("0", 1, False, False), ("1", 0, None, True), ("1", 1, None, True)
    ]  # fmt: skip
    assert (traces[0].n_tokens, traces[0].prompt_tokens, traces[0].teacher, traces[0].seed, traces[0].extracted) == (4, 5, "weak", 3, "7")
    save_traces(tmp_path / "traces.jsonl", traces)
    assert read_traces(tmp_path / "traces.jsonl", "traces.file") == traces


def test_a_file_of_chains_is_refused_by_line_and_by_question(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"example_id": "0", "completion": "x"}\n{"completion": "y"}\n')
    with pytest.raises(SettingError, match=r"t.jsonl:2: example_id: field required"):
        read_traces(path, "traces.file")
    path.write_text("")
    with pytest.raises(SettingError, match="holds no chain"):
        read_traces(path, "traces.file")
    with pytest.raises(SettingError, match="no such file"):
        read_traces(tmp_path / "none.jsonl", "traces.file")
    with pytest.raises(SettingError, match=r"chain of 'other' belongs to none of the 1 training questions"):
        asyncio.run(graded([Trace(example_id="other", completion="x")], [example(0)]))


def test_labels_in_a_file_decide_nothing():
    found = asyncio.run(graded([Trace(example_id="0", completion="#### 8", is_correct=True)], [example(0)]))
    assert found[0].is_correct is False and found[0].extracted == "8"


def test_nothing_to_learn_from_says_why():
    cut = [Trace(example_id="0", completion="x", finish_reason="length")]
    kept, dropped = clean(cut, QUERIES, HygieneConfig())
    with pytest.raises(RunError, match=r"all 1 chains were filtered away \(truncated 1\)"):
        check_usable(cut, kept, dropped, [], "all", FILE)
    mute = [Trace(example_id="0", completion="no idea", is_correct=False)]
    with pytest.raises(RunError, match="not one of 1 chains holds an answer"):
        check_usable(mute, mute, dropped, mute, "all", FILE)
    right = [Trace(example_id="0", completion="7", extracted="7", is_correct=True)]
    with pytest.raises(RunError, match="variant negative: nothing is left of 1 clean chains, 1 of which are right"):
        check_usable(right, right, dropped, [], "negative", FILE)
