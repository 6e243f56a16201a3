"""The probe on the lab world: where there is much to teach, where there is nothing, and what it costs."""

import json
from collections import Counter

import pytest

from benchmarks.dial_worlds import WORLDS
from evaluation.headroom import Estimate
from exchange.command import RunError
from rewards.episode import correct
from student_clients.errors import StudentUnreachable
from teacher.config import TrainConfig, resolve
from teacher.evaluate import Asking
from teacher.probe import ask, calls_a_question, counts, main, report, size, verdict
from teacher.train import dry_run, read_config
from tests.teacher.test_train_lab import TINY


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "runs"


def found(runs):
    return json.loads(next(runs.glob("*/probe.json")).read_text())


def test_on_the_lab_there_is_much_to_learn(runs, capsys):
    assert main(["--samples=6"]) == 0
    probe = found(runs)
    assert (probe["questions"], probe["questions_raw"], probe["samples"], probe["failed"]) == (96, 192, 6, 0)
    assert 96 * 8 < probe["calls"] < 96 * (2 + 2 * 6), "what is right raw or hit is not asked for more"
    assert len(probe["counts"]) == 192 and 2 < probe["lessons"] < 12, "twelve procedures, some more often than others"
    assert probe["predicted_gain"]["low"] > 0.1 and probe["verdict"].startswith("train")
    assert probe["learnable_gain"]["value"] < probe["predicted_gain"]["value"] < probe["reachable_gain"]["value"]
    assert probe["best_of_n"] - probe["untrained"] == pytest.approx(probe["headroom"])
    assert probe["raw"]["low"] < probe["raw"]["mean"] < probe["raw"]["high"]
    printed = capsys.readouterr().out
    assert "gain within reach" in printed and "train: " in printed
    assert sum(line.lstrip().startswith(("right ", "wrong ")) and "->" in line for line in printed.splitlines()) == 10


def test_on_the_dial_0_world_there_is_nothing(runs, capsys):
    assert main(["--samples=2", "--task.dial=0"]) == 0
    assert found(runs)["verdict"].startswith("do not train")
    assert found(runs)["predicted_gain"]["high"] < 0.02


class Flaky:
    """A student whose every third fresh answer fails."""

    def __init__(self, student):
        self.student, self.name, self.asked, self.fresh, self.failed = student, student.name, Counter(), 0, 0

    async def complete(self, messages, params, *, n=1, sample_index=0):
        self.asked.update((str(messages), sample_index + k) for k in range(n))
        self.fresh += sample_index > 0
        if sample_index > 0 and self.fresh % 3 == 0:
            self.failed += 1
            raise StudentUnreachable("nobody there")
        return await self.student.complete(messages, params, n=n, sample_index=sample_index)

    async def aclose(self):
        await self.student.aclose()


def test_of_a_student_that_samples_fresh_answers_are_asked_and_what_fails_is_no_wrong_answer(runs):
    world = next(world for world in WORLDS if world.name == "one-h0n1")
    config = read_config(None, [*world.flags(), "--student.max_tokens=64"])
    asking = Asking(config)
    student = Flaky(asking.panel.student)
    asked = asking(lambda: ask(config, 48, 6, student, asking.panel.reward))
    assert asked.calls <= 48 * calls_a_question(config, 6) and set(student.asked.values()) == {1}, "each answer is one of its own"
    probe = report(config, asked, samples=6)
    assert probe["failed"] == student.failed > 0
    tried = [one for one in counts(config, asked) if one.raw < 0.5 and one.trials]
    failed = [sum(correct(e) is None for e in row) for row in (asked.repeated[i] for i in range(96)) if row]
    hits = sum(correct(e) == 1.0 for i in range(48) if correct(asked.raw[i]) == 0.0 for e in asked.groups[i])
    assert sum(one.hits for one in tried) == hits - sum(failed), "a hit that could not be judged again is no trial"
    assert sum(one.moves for one in tried) == sum(correct(e) is not None for row in asked.moved for e in row)
    rate = sum(one.repeated + one.moved for one in tried) / sum(one.hits + one.moves for one in tried)
    assert rate > 0.6, "two in three: it slips on 15 %, and some hits were slips; with failures as wrong answers it would be 0.44"
    assert probe["reachable_gain"]["value"] > 0.5 and probe["reachable_gain"]["low"] > 0.3 and probe["lessons"] < 2
    assert probe["verdict"].startswith("train")


def test_where_every_call_fails_the_probe_says_so_and_not_that_nothing_is_to_be_gained(runs):
    config = read_config(None, ["--student.max_tokens=64"])
    asking = Asking(config)

    class Down(Flaky):
        async def complete(self, messages, params, *, n=1, sample_index=0):
            raise StudentUnreachable("nobody there")

    with pytest.raises(RunError, match="probe: every student call failed"):
        asking(lambda: ask(config, 4, 2, Down(asking.panel.student), asking.panel.reward))


def test_it_asks_a_twentieth_of_the_run_and_no_more(runs, capsys):
    assert main(["--dry-run"]) == 0
    assert capsys.readouterr().out.strip() == "96 questions, 2016 calls at most"
    assert main([*TINY, "--samples=8"]) == 2
    assert "a probe asks at most 5% of the run's 298 calls, which is 0 questions" in capsys.readouterr().err
    assert main(["--samples=1"]) == 2
    assert main(["lab_alignment_grpo"]) == 2
    assert "reward.kind=preference: a probe counts right answers" in capsys.readouterr().err
    assert not runs.exists()


def test_the_verdict_says_what_to_do():
    nothing, much, maybe = (Estimate(value=v, low=low, high=high) for v, low, high in [(0, 0, 0.01), (0.4, 0.3, 0.5), (0.1, 0.0, 0.2)])
    assert verdict(nothing, nothing, 0.0).startswith("do not train: hardly a question")
    assert verdict(Estimate(value=0.01, low=0.0, high=0.04), nothing, 0.0).startswith("do not train: hardly a question")
    assert verdict(nothing, nothing, 0.0, luck=True).startswith("do not train: what is right under an instruction was right by chance")
    assert verdict(Estimate(value=0.0, low=0.0, high=0.5), nothing, 0.0).startswith("unclear: the gain within reach may be nothing")
    assert verdict(much, much, 0.6).startswith("do not train yet: most instructions state an answer")
    assert verdict(maybe, nothing, 0.0).startswith("unclear")
    assert verdict(much, maybe, 0.0).startswith("unclear: some instruction of each question hits, by merit or by chance")
    assert verdict(much, much, 0.0).startswith("train: what works is within reach")


def test_samples_that_vote_are_counted(runs, capsys):
    """5 % of the run's calls hold fewer questions where each costs more of them."""
    assert main(["--dry-run", "--samples=8", "--reward.kind=consistency", "--reward.consistency.samples=4"]) == 0
    assert capsys.readouterr().out.strip() == f"96 questions, {96 * (2 + 2 * 8 + 3 + 2 * 4)} calls at most"
    config = resolve(TrainConfig.model_validate({"reward": {"kind": "consistency", "consistency": {"samples": 4, "on": "instruction"}}}))
    assert calls_a_question(config, 8) == 21 + 4 * 21
    assert size(config, 40) * calls_a_question(config, 40) <= 0.05 * dry_run(config)["student_calls_at_most"]["total"]
