"""`rollout_ahead`: which hooks of TRL it stands on, what is in flight when, and that a stale batch carries its own log-probabilities."""

import asyncio
import copy
import inspect
import json
from pathlib import Path

import pytest
import torch

from evaluation.arms import EvalConfig
from lab.weights_folder import resolve_model
from teacher.ahead import ahead_of
from teacher.algorithms import build_trainer
from teacher.config import TrainConfig, resolve
from teacher.policy import load_model
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY

QUESTIONS = 12
"""Three batches of four questions an epoch."""


def config_of(algorithm="grpo", ahead=1, **trl):
    batch = {"per_device_train_batch_size": 16, "num_generations": 4, **trl}
    return resolve(TrainConfig(algorithm=algorithm, rollout_ahead=ahead, max_steps=6, trl=batch, eval=EvalConfig(every=2)))


class Timeline:
    """Stands for the rewarder: notes when a batch's calls are sent off and when its rewards are taken."""

    def __init__(self):
        self.events = []
        self.begun = []
        self.snapshots = []
        self.model = None

    def begin(self, loop, completion_ids, example_id):
        assert loop.is_running()
        self.events.append("begin")
        self.begun.append(example_id)
        self.snapshots.append(copy.deepcopy(self.model.state_dict()))

    async def score(self, *, completion_ids, example_id, **_):
        await asyncio.sleep(0)
        self.events.append("score")
        if self.begun:  # in the order in which they were begun
            assert self.begun[self.events.count("score") - 1] == example_id
        return [float(len(set(ids)) % 3) for ids in completion_ids]


def trained(config, tmp_path, stop=lambda: False):
    """(trainer after its run, timeline, the batches that its loss saw)."""
    model, tokenizer = load_model("lab:arithmetic/teacher")
    timeline = Timeline()
    timeline.model = model
    rows = [{"prompt": [{"role": "user", "content": f"Ann has {n} apples."}], "example_id": f"q{n}"} for n in range(QUESTIONS)]
    trainer = build_trainer(
        config, RunDirectory(tmp_path), model, tokenizer, start=Path(resolve_model("lab:arithmetic/teacher")), rows=rows,
        reward=timeline.score, begin=timeline.begin, on_step=lambda *_: None, on_validate=lambda *_: None, on_saved=lambda *_: None,
        stop=stop,
    )  # fmt: skip
    seen = []
    compute = trainer.compute_loss

    def spy(model, inputs, **kwargs):
        seen.append({name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()})
        return compute(model, inputs, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    return trainer, timeline, seen


def test_the_hooks_of_trl_and_transformers_are_there():
    from trl import GRPOTrainer, RLOOTrainer

    hooks = {
        "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    }
    for trainer in (GRPOTrainer, RLOOTrainer):
        for name, parameters in hooks.items():
            assert list(inspect.signature(getattr(trainer, name)).parameters) == parameters
            assert name in vars(ahead_of(trainer))
        source = inspect.getsource(trainer)
        period = "self.args.steps_per_generation * self.num_iterations"
        for text in ("self._step += 1", "self.async_loop,", "self._metrics[mode]", period):
            assert text in source


@pytest.mark.parametrize("ahead", [1, 2])
def test_so_many_batches_are_in_flight_and_an_epoch_is_drained(ahead, tmp_path):
    trainer, timeline, _ = trained(config_of(ahead=ahead), tmp_path)
    epoch = {
        1: ["begin", "begin", "score", "begin", "score", "score"],
        2: ["begin", "begin", "begin", "score", "score", "score"],
    }
    assert timeline.events == 2 * epoch[ahead]
    assert trainer.state.global_step == 6
    for half in (timeline.begun[:3], timeline.begun[3:]):  # every question once an epoch, none thrown away
        assert sorted({name for batch in half for name in batch}) == sorted(f"q{n}" for n in range(QUESTIONS))


def test_nothing_is_begun_that_the_run_will_not_learn_from(tmp_path):
    config = config_of(ahead=2).model_copy(update={"max_steps": 2})
    _, timeline, _ = trained(config, tmp_path)
    assert timeline.events == ["begin", "begin", "score", "score"]


@pytest.mark.parametrize("trl", [{"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}, {"num_iterations": 2}])
def test_batches_that_last_several_micro_batches_or_updates(trl, tmp_path):
    trainer, timeline, _ = trained(config_of(**trl), tmp_path)
    assert trainer.state.global_step == 6
    assert timeline.events.count("begin") == timeline.events.count("score") == 6 // trl.get("num_iterations", 1)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_a_stale_batch_carries_the_log_probabilities_of_the_weights_that_wrote_it(algorithm, tmp_path):
    trainer, timeline, seen = trained(config_of(algorithm, ahead=1, learning_rate=1e-2, num_iterations=1), tmp_path)
    model, final = trainer.model, copy.deepcopy(trainer.model.state_dict())
    moved = 0.0
    for batch, snapshot in zip(seen, timeline.snapshots, strict=True):
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)

        def logps(weights, ids=ids, mask=mask, width=batch["completion_ids"].shape[1]):
            model.load_state_dict(weights)
            with torch.no_grad():
                return trainer._get_per_token_logps_and_entropies(model, ids, mask, width)[0]

        wrote = logps(snapshot)
        if algorithm == "rloo":
            assert torch.allclose(batch["old_logps"], (wrote * batch["completion_mask"]).sum(1), atol=1e-4)
        else:
            tokens = batch["completion_mask"].bool()
            assert torch.allclose(batch["old_per_token_logps"][tokens], wrote[tokens], atol=1e-4)
        moved = max(moved, (logps(final) - wrote).abs().max().item())
    assert moved > 0.1, "the weights moved, so the assertions above could have failed"


def test_a_run_with_the_student_ahead_ends_with_a_teacher_and_every_call_in_its_logs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path))
    assert main([*TINY, "--rollout_ahead=1", "--max_steps=4"]) == 0
    run = RunDirectory(next(path for path in tmp_path.iterdir() if path.is_dir()))
    assert [line["rollout_age"] for line in run.lines("metrics.jsonl")] == [0, 1, 1, 1]
    episodes = [line["step"] for line in run.lines("episodes.jsonl") if line["step"]]
    assert {step: episodes.count(step) for step in episodes} == {1: 16, 2: 16, 3: 16, 4: 16}
    assert json.loads((run.path / "summary.json").read_text())["steps"] == 4


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_stop_is_heard_also_where_a_batch_serves_several_updates(ahead, tmp_path):
    """Only every second update generates, and only those have a reward in their logs."""
    trainer, _, _ = trained(config_of(ahead=ahead, num_iterations=2), tmp_path, stop=lambda: True)
    assert trainer.state.global_step == 2, "the first update after which a checkpoint can be resumed exactly"
    assert (tmp_path / "checkpoints" / "checkpoint-2" / "complete").exists()
