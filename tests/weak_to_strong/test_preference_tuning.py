"""Stage II's training: TRL's losses on worked numbers, the reference model, what is dropped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exchange.command import RunError
from teacher.config import LoraConfig
from teacher.policy import load_model
from weak_to_strong.fine_tuning import save_model
from weak_to_strong.preference_tuning import PreferenceConfig, prefer, preference_trainer
from weak_to_strong.run import StrongConfig

BASE = "lab:arithmetic/student"
STRONG = StrongConfig(model=BASE)
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Tom has {n} apples. How many apples?"}],
        "chosen": [{"role": "assistant", "content": f"#### {n}"}],
        "rejected": [{"role": "assistant", "content": f"#### {n + 1}"}],
        "id": str(n),
        "weak_side": "chosen",
    }
    for n in range(2, 10)
]


def config(**settings: Any) -> PreferenceConfig:
    return PreferenceConfig(**{"batch_size": 4, "learning_rate": 1e-3, **settings}).resolved(STRONG)


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not the base: every weight moved a little."""
    import torch

    model, tokenizer = load_model(BASE)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.01 * torch.randn_like(weights))
    folder = tmp_path_factory.mktemp("stage_one") / "model"
    save_model(model, tokenizer, folder, base=BASE)
    return folder


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]


def logps(model: Any, batch: dict[str, Any]) -> Any:
    """Summed log-probabilities of the completions of a batch, by a plain forward pass."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    picked = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (picked * batch["completion_mask"][:, 1:]).sum(-1)


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)])
def test_the_reference_is_the_stage_one_model(stage_one: Path, tmp_path: Path, lora: LoraConfig | None) -> None:
    """After training the reference still says what the Stage I model says, and neither what the base nor what the policy says."""
    import torch

    strong = STRONG.model_copy(update={"lora": lora})
    trainer = preference_trainer(stage_one, plain(ROWS), config(), strong, seed=0, work=tmp_path / "work")
    batch = next(iter(trainer.get_train_dataloader()))
    first_loss = float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    assert first_loss == pytest.approx(0.693147, abs=1e-4), "policy and reference are the same model before the first step"
    trainer.train()
    trainer.model.eval()
    from_disk, base = load_model(str(stage_one))[0].eval(), load_model(BASE)[0].eval()
    loss = float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    policy = logps(trainer.model, batch)

    def against(reference: Any) -> float:
        chosen, rejected = (policy - reference).chunk(2)
        return float(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean())

    assert loss == pytest.approx(against(logps(from_disk, batch)), abs=1e-4)
    assert abs(loss - against(logps(base, batch))) > 0.01 and abs(loss - against(policy)) > 0.001


def test_dpos_loss_on_worked_numbers(stage_one: Path, tmp_path: Path) -> None:
    """beta 0.1, policy (-10, -12), reference (-11, -11.5): logit 0.15, loss 0.620957."""
    import torch

    trainer = preference_trainer(stage_one, plain(ROWS[:1]), config(batch_size=1), STRONG, seed=0, work=tmp_path / "work")
    batch = next(iter(trainer.get_train_dataloader()))
    width = batch["input_ids"].shape[1] - 1

    class Says(torch.nn.Module):
        def __init__(self, chosen: float, rejected: float) -> None:
            super().__init__()
            self.log_probs = torch.zeros(2, width)
            self.log_probs[:, -1] = torch.tensor([chosen, rejected])

        def forward(self, **_: Any) -> Any:
            beside = torch.zeros(2, width)  # what TRL only logs
            return SimpleNamespace(log_probs=self.log_probs, entropy=beside, mean_logits=beside, is_top1=beside.bool())

    trainer.ref_model = Says(-11.0, -11.5)
    loss = trainer._compute_loss(Says(-10.0, -12.0), dict(batch), False)
    assert float(loss.detach()) == pytest.approx(0.620957, abs=1e-6)


def test_orpos_loss_on_worked_numbers() -> None:
    """Mean log-probabilities (-0.5, -1.0): log odds 0.974077, log sigmoid -0.320300, with NLL 0.5 and lambda 0.1 in all 0.532030."""
    import os

    import torch

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.orpo import ORPOTrainer

    holder = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
    losses, _, _, ratio, odds = ORPOTrainer.odds_ratio_loss(holder, torch.tensor([-0.5]), torch.tensor([-1.0]))
    assert float(odds) == pytest.approx(0.974077, abs=1e-5)
    assert float(ratio) == pytest.approx(-0.320300, abs=1e-5)
    assert 0.5 - float(losses.mean()) == pytest.approx(0.532030, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["dpo", "orpo"])
def test_pairs_move_the_model_towards_the_chosen_side(stage_one: Path, tmp_path: Path, algorithm: str) -> None:
    """Broken off in the third of four epochs and gone on with from the second one's end."""
    from transformers import TrainerCallback

    begun = []

    class Killed(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5 and len(begun) == 1:
                raise KeyboardInterrupt

    def learnt() -> dict[str, Any]:
        settings = config(algorithm=algorithm, epochs=4)
        return prefer(stage_one, ROWS, settings, STRONG, seed=0, out=tmp_path / "out", work=tmp_path / "work", callbacks=[Killed()])

    with pytest.raises(KeyboardInterrupt):
        learnt()
    facts = learnt()
    assert begun == [0, 4]
    assert facts["pairs"] == 8 and facts["steps"] == 8 and facts["too_long"] == 0
    trainer = preference_trainer(stage_one, plain(ROWS), config(batch_size=8), STRONG, seed=0, work=tmp_path / "measure")
    batch = next(iter(trainer.get_train_dataloader()))
    before, after = (logps(load_model(str(folder))[0].eval(), batch) for folder in (stage_one, tmp_path / "out"))
    margins = [float((values[:8] - values[8:]).mean()) for values in (before, after)]
    assert margins[1] > margins[0] + 0.5
    assert (tmp_path / "out" / "complete").exists() and not (tmp_path / "work").exists()
    assert load_model(str(tmp_path / "out"))[1].bos_token == load_model(str(stage_one))[1].bos_token


def test_no_pair_left_is_an_error_that_says_so(stage_one: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"all 8 pairs are longer than preference\.max_length=8"):
        prefer(stage_one, ROWS, config(max_length=8), STRONG, seed=0, out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(RunError, match="there are no pairs"):
        prefer(stage_one, [], config(), STRONG, seed=0, out=tmp_path / "out", work=tmp_path / "work")
