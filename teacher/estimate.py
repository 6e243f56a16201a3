"""What a command would cost, for `--dry-run`: calls, tokens, dollars, hours under the rate limits, memory."""

from __future__ import annotations

import json
import statistics
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exchange.compose import compose
from exchange.records import Example, Instruction
from exchange.settings import SettingError
from rewards.rubric import RewardConfig, SecondConfig
from student_clients.budget import NANO, price_of
from student_clients.rate_limits import hours_under_limits
from student_clients.token_bounds import BYTES_A_TOKEN, prompt_tokens_about
from tasks import TASKS
from teacher.arms import teacher_prompt
from teacher.config import TrainConfig
from teacher.memory import memory

SAMPLE = 200
"""Questions whose length is measured."""


def estimate(config: TrainConfig, calls: dict[str, int], *, trains: bool, examples: Sequence[Example] | None = None) -> dict[str, Any]:
    """The estimate for `calls` by phase, each at most. Prompts count 4 bytes a token with an instruction of full length, answers
    `max_tokens`; nothing is cached and nothing fails. Lengths are those of `examples`, else of the first training questions."""
    examples = examples or TASKS[config.task.name].load(config.task, "train", min(SAMPLE, config.task.train_size))
    longest = Instruction(text="x" * BYTES_A_TOKEN * (config.teacher.max_instruction_tokens or 1), source="static")
    prompt_tokens = round(statistics.fmean(prompt_tokens_about(compose(example.public(), longest)) for example in examples))
    judged = judge_calls(config, calls)
    calls = {**calls, **reward_calls(config, calls)}
    total = sum(calls.values())
    tokens = {"prompt_about": total * prompt_tokens, "completion_at_most": total * config.student.max_tokens}
    pacing = config.student.pacing
    hours = hours_under_limits(total, sum(tokens.values()), pacing.rate_limits())
    result: dict[str, Any] = {
        "student_calls_at_most": {**calls, "total": total},
        "tokens": tokens,
        **_dollars(config, tokens),
        **_judges(config, judged, prompt_tokens),
        "hours_under_rate_limits": round(hours, 2),
        "days_under_rate_limits": round(hours / 24, 2),
    }
    if config.student.kind in ("openai", "vllm"):
        result["hours_at_1_s_a_call"] = round(total / pacing.concurrency / 3600, 2)
    longest_prompt = max(prompt_tokens_about(teacher_prompt(config).messages(example.public())) for example in examples) if trains else 0
    return {**result, "memory_gib": memory(config, trains=trains, prompt_tokens=longest_prompt)}


def reward_calls(config: TrainConfig, calls: dict[str, int]) -> dict[str, int]:
    """Student calls that the reward makes at most: raw answers to compare with, or samples that vote."""
    questions = config.task.train_size + config.task.validation_size + config.eval.n
    reward = config.reward
    if reward.kind == "consistency":
        return {"votes": reward.consistency.samples * (questions if reward.consistency.on == "raw" else sum(calls.values()))}
    return {"raw_answers": questions} if reward.kind != "correctness" or reward.second is not None else {}


def judge_calls(config: TrainConfig, calls: dict[str, int]) -> dict[str, int]:
    """Calls of judges and served reward models at most, by what they do: the second one only sees validation and evaluation."""
    watched = calls.get("validation", 0) + calls.get("evaluation", 0)
    found = {}
    pairs: dict[str, tuple[RewardConfig | SecondConfig, int]] = {"judge": (config.reward, sum(calls.values()))}
    if config.reward.second is not None:
        pairs["second"] = (config.reward.second, watched)
    for name, (settings, answers) in pairs.items():
        if settings.judge is not None:
            found[name] = 2 * answers
        elif settings.preference is not None and settings.preference.base_url is not None:
            found[name] = 2 * answers  # the answer and, once a question, the raw one
    return found


def _judges(config: TrainConfig, judged: dict[str, int], prompt_tokens: int) -> dict[str, Any]:
    """What the judges are asked, and the dollars of those whose price is given."""
    dollars = {}
    for name, count in judged.items():
        judge = config.reward.judge if name == "judge" else config.reward.second.judge if config.reward.second else None
        price = config.budget.prices.get(judge.client.model) if judge is not None else None
        if judge is not None and price is not None:
            both = prompt_tokens + 2 * config.student.max_tokens
            dollars[name] = round(price.nano(count * both, count * judge.client.max_tokens) / NANO, 4)
    return {**({"judge_calls_at_most": judged} if judged else {}), **({"judge_usd_about": dollars} if dollars else {})}


def _dollars(config: TrainConfig, tokens: dict[str, int]) -> dict[str, Any]:
    try:
        price = price_of(config.student, config.budget)
    except SettingError as error:
        price = config.budget.prices.get(config.student.model)
        if price is None:
            return {"usd_about": None, "budget": f"would not start: {error}"}
        return {"usd_about": round(price.nano(*tokens.values()) / NANO, 4), "budget": f"would not start: {error}"}
    if price is None:
        unknown = config.budget.unlimited and config.student.model not in config.budget.prices and config.student.kind == "openai"
        own = {"budget": "a server of your own: nothing is booked or limited"} if config.student.kind in ("openai", "vllm") else {}
        return {"usd_about": None} if unknown else {"usd_about": 0.0, **own}
    usd = price.nano(*tokens.values()) / NANO
    limited = config.budget.usd is not None and not config.budget.unlimited and usd > config.budget.usd
    note = {"budget": f"may stop at budget.usd={config.budget.usd:g}"} if limited else {}
    return {"usd_about": round(usd, 4), "prices_as_of": price.as_of.isoformat(), **note}


def parameters(folder: Path | None) -> int | None:
    """How many parameters the safetensors files of a model folder hold, read from their headers; None where there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    total = 0
    for path in files:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for width in tensor["shape"]:
                    count *= width
                total += count
    return total if files else None
