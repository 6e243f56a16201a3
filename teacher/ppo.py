"""PPO with a critic (Schulman et al. 2017, arXiv 1707.06347) inside TRL's GRPO loop.

TRL has no PPO of its own since 1.13, but its clipped loss takes an advantage a token. `PPOTrainer` keeps everything of `GRPOTrainer` and
replaces the group-relative advantage by generalised advantage estimation (GAE, Schulman et al. 2016, arXiv 1506.02438, eq. 16) under a
value model, which learns from the same batch before the policy does. The value model starts from the teacher's weights with a head of
zeros, lies in every checkpoint, and resumes with it.

Private hooks of TRL that this stands on, each named by a test: `_calculate_rewards`, `_generate_and_score_completions`,
`_save_checkpoint`, `_load_optimizer_and_scheduler`, `_metrics`, and the keys of the batch it passes on.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from exchange.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class PPOConfig(Settings):
    """The critic of `algorithm: ppo`; clip range, KL and epochs are TRL's own `trl.epsilon`, `trl.beta` and `trl.num_iterations`."""

    critic_learning_rate: float | None = Field(default=None, gt=0)
    """Rate of the value model; None = the preset's (lab 1e-3, hub 1e-5: ten times the policy's, as in InstructGPT's 9e-6)."""
    critic_epochs: int = Field(default=2, ge=1)
    """Passes of the value model over each generated batch."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's λ: 1 = the whole return minus the value, 0 = one-step differences. 0.95: Schulman et al. 2017."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token. 1: the reward comes once, at the end of a short text."""


def gae(rewards_B: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, T) where the reward (B,) falls on each row's last token and the value after it is 0.

    `values_BT[:, t]` is the value of the state before token t; `mask_BT` is 1 on tokens of the text, whose rows have no gaps. Both results
    are 0 beyond it. δ_t = r_t + γ V_{t+1} - V_t, A_t = δ_t + γλ A_{t+1} (arXiv 1506.02438, eqs. 10, 16); returns are A_t + V_t.
    """
    import torch

    advantages_BT = torch.zeros_like(values_BT)
    following_B = torch.zeros_like(rewards_B)
    next_value_B = torch.zeros_like(rewards_B)
    after_B = torch.zeros_like(rewards_B)
    for t in range(values_BT.shape[1] - 1, -1, -1):
        here_B = mask_BT[:, t].to(values_BT.dtype)
        last_B = here_B * (1 - after_B)
        delta_B = last_B * rewards_B + gamma * next_value_B - values_BT[:, t]
        following_B = here_B * (delta_B + gamma * lam * following_B)
        advantages_BT[:, t] = following_B
        next_value_B = here_B * values_BT[:, t]
        after_B = here_B
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


class Critic:
    """A value for the state before each token of a completion, and what it learns from."""

    def __init__(self, model: str, config: PPOConfig, accelerator: Any, *, batch_size: int) -> None:
        """`model` is a folder or Hub id of the weights it starts from; its head is new, and zero."""
        import torch
        from transformers import AutoModelForTokenClassification
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()  # its report that the head is new
        network = AutoModelForTokenClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
        logging.set_verbosity(level)
        head = network.score if hasattr(network, "score") else network.classifier
        torch.nn.init.zeros_(head.weight)
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
        self.model = network.to(accelerator.device).eval()  # no dropout: values and returns are of one function
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.critic_learning_rate, weight_decay=0.0)
        self.config = config
        self.accelerator = accelerator
        self.batch_size = batch_size

    def values(self, batch: Any) -> Tensor:
        """(B, T) values of a batch of TRL's."""
        import torch

        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        width = batch["completion_ids"].shape[1]
        parts = [
            self.model(input_ids=ids[i : i + self.batch_size], attention_mask=mask[i : i + self.batch_size]).logits[:, -width - 1 : -1, 0]
            for i in range(0, len(ids), self.batch_size)
        ]
        return torch.cat(parts).float()

    def learn(self, batch: Any, returns_BT: Tensor, mask_BT: Tensor) -> float:
        """Fit the values to the returns, `critic_epochs` times; the mean loss."""
        import torch

        keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        losses: list[float] = []
        for _ in range(self.config.critic_epochs):
            for i in range(0, len(returns_BT), self.batch_size):
                rows = slice(i, i + self.batch_size)
                with torch.enable_grad():
                    error_BT = (self.values({key: batch[key][rows] for key in keys}) - returns_BT[rows]).square() * mask_BT[rows]
                    loss = 0.5 * error_BT.sum() / mask_BT[rows].sum().clamp(min=1)
                self.optimizer.zero_grad()
                loss.backward()
                if self.accelerator.num_processes > 1:
                    for parameter in self.model.parameters():
                        parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)

    def save(self, path: Path) -> None:
        import torch

        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)

    def load(self, path: Path) -> None:
        import torch

        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@cache
def ppo_trainer() -> type[Any]:
    """The trainer class; made on first use, since a command's `--help` must not load TRL."""
    import torch
    from trl import GRPOTrainer

    class PPOTrainer(GRPOTrainer):
        """`critic_model` is where the value model starts; `ppo` must name its learning rate."""

        def __init__(self, *args: Any, critic_model: str, ppo: PPOConfig, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.ppo = ppo
            self.critic = Critic(critic_model, ppo, self.accelerator, batch_size=self.args.per_device_train_batch_size)

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            self._rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            return self._rewards_per_func

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            batch = super()._generate_and_score_completions(inputs)
            if not self.model.training:
                return batch
            rows = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
            scores = self._rewards_per_func[rows]
            scorable_B = ~torch.isnan(scores).all(dim=1)
            rewards_B = (scores * self.reward_weights.to(scores.device)).nansum(dim=1)
            mask_BT = batch["completion_mask"] * scorable_B.unsqueeze(1)
            with torch.no_grad():
                values_BT = self.critic.values(batch)
            advantages_BT, returns_BT = gae(rewards_B, values_BT, mask_BT, gamma=self.ppo.gamma, lam=self.ppo.gae_lambda)
            self._metrics["train"]["critic/loss"].append(self.critic.learn(batch, returns_BT, mask_BT))
            # Whitened over all tokens of all processes, as PPO's implementations do.
            total = self.accelerator.reduce(torch.stack([mask_BT.sum().float(), (advantages_BT * mask_BT).sum()]), reduction="sum")
            mean = total[1] / total[0].clamp(min=1)
            squares = self.accelerator.reduce(((advantages_BT - mean).square() * mask_BT).sum(), reduction="sum")
            batch["advantages"] = (advantages_BT - mean) / ((squares / total[0].clamp(min=1)).sqrt() + 1e-4) * mask_BT
            # The critic compares all answers of a batch, pairs of equal reward among them: its one group is the batch.
            known_B = self.accelerator.gather(rewards_B.masked_fill(~scorable_B, torch.nan))
            known_B = known_B[~torch.isnan(known_B)]
            self._metrics["train"]["frac_reward_zero_std"][-1] = float(len(known_B) == 0 or bool((known_B == known_B[0]).all()))
            tokens = mask_BT.bool()
            if tokens.sum() > 1:
                unexplained = (returns_BT - values_BT)[tokens].var() / (returns_BT[tokens].var() + 1e-8)
                self._metrics["train"]["critic/explained_variance"].append(1 - unexplained.item())
            return batch

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self.critic.save(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}" / "critic.pt")

        def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None:
                self.critic.load(Path(checkpoint) / "critic.pt")

    return PPOTrainer
