"""PPO: the advantage on cases worked by hand, the private hooks of TRL it stands on, and what a run does."""

import inspect
import json
import os
from pathlib import Path

import pytest
import torch

from teacher.config import TrainConfig, resolve
from teacher.ppo import PPOConfig, gae, ppo_trainer
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY


def test_the_whole_return_minus_the_value_at_lambda_1():
    values = torch.tensor([[0.5, 0.25, 0.75], [0.1, 0.2, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    advantages, returns = gae(torch.tensor([1.0, -1.0]), values, mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages, torch.tensor([[0.5, 0.75, 0.25], [-1.1, -1.2, 0.0]]))
    assert torch.allclose(returns, torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]]))


def test_one_step_differences_at_lambda_0():
    values = torch.tensor([[0.5, 0.25, 0.75]])
    advantages, _ = gae(torch.tensor([1.0]), values, torch.ones(1, 3), gamma=1.0, lam=0.0)
    assert torch.allclose(advantages, torch.tensor([[-0.25, 0.5, 0.25]]))


def test_discount_and_lambda_between():
    # delta = (0.9 * 0.2 - 0.1, 2 - 0.2) = (0.08, 1.8); A = (0.08 + 0.45 * 1.8, 1.8)
    advantages, returns = gae(torch.tensor([2.0]), torch.tensor([[0.1, 0.2]]), torch.ones(1, 2), gamma=0.9, lam=0.5)
    assert torch.allclose(advantages, torch.tensor([[0.89, 1.8]]))
    assert torch.allclose(returns, torch.tensor([[0.99, 2.0]]))


def test_a_row_without_a_score_teaches_nothing():
    advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.full((2, 2), 0.5), torch.tensor([[0, 0], [1, 1]]), gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == returns[0].tolist() == [0.0, 0.0]
    assert advantages[1].tolist() == pytest.approx([0.95 * 0.5, 0.5])


def test_the_hooks_of_trl_that_it_overrides_are_there():
    from trl import GRPOTrainer

    hooks = {
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    }
    assert {name for name in vars(ppo_trainer()) if name in vars(GRPOTrainer)} - {"__init__", "__module__", "__doc__"} == set(hooks)
    for name, parameters in hooks.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "if advantages.dim() == 1" in source, "TRL's loss takes an advantage a token"


def test_the_critics_rate_is_the_presets_unless_set():
    assert resolve(TrainConfig(algorithm="ppo")).ppo.critic_learning_rate == 1e-3
    assert resolve(TrainConfig.model_validate({"teacher": {"model": "some/model"}})).ppo.critic_learning_rate == 1e-5
    assert resolve(TrainConfig(ppo=PPOConfig(critic_learning_rate=3e-4))).ppo.critic_learning_rate == 3e-4


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_a_run_of_either_algorithm_ends_with_a_teacher(algorithm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path))
    assert main([*TINY, f"--algorithm={algorithm}"]) == 0
    run = RunDirectory(next(Path(os.environ["WST_RUNS_DIR"]).iterdir()))
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["algorithm"] == algorithm and run.path.name.endswith(f"{algorithm}-s0")
    metrics = run.lines("metrics.jsonl")
    assert ("critic/loss" in metrics[-1]) == (algorithm == "ppo")
    if algorithm == "ppo":
        # The critic compares all answers of a batch: its one group either differs or does not, however many pairs are alike.
        assert {line["frac_reward_zero_std"] for line in metrics} <= {0.0, 1.0}
        assert all((line["reward_std"] == 0.0) == (line["frac_reward_zero_std"] == 1.0) for line in metrics)
        _, checkpoint = run.last_checkpoint()
        assert (checkpoint / "critic.pt").exists()


def test_a_field_of_the_other_trainer_is_refused(capsys):
    assert main(["--algorithm=rloo", "--trl.scale_rewards=none"]) == 2
    assert "trl.scale_rewards: TRL's RLOOConfig has no such field" in capsys.readouterr().err
