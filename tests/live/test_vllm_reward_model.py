"""A reward model behind a real vLLM gives the rewards that it gives in this process, and a generating server is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exchange.records import Message
from exchange.settings import SettingError
from lab.weights_folder import model_dir
from rewards.preference import PreferenceConfig, ServedRewardModel
from rewards.preference_model import RewardModel
from tests.live.servers import LiveServer, vllm_server

TURNS = (Message(role="user", content="How do I open my own desk?"),)
ANSWERS = ["Turn the pin to the left.", "I cannot help with that.", "Gladly! First, turn the pin to the left. Then, hold it still."]


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_gives_the_same_rewards_as_this_process(tmp_path: Path) -> None:
    folder = model_dir("alignment", "preference")
    here = RewardModel(str(folder), batch_size=8, max_tokens=512)
    with vllm_server(folder, "rm", log_dir=tmp_path, extra=("--runner", "pooling")) as server:
        there = ServedRewardModel(PreferenceConfig(model="rm", base_url=server.base_url), None, None)

        async def both() -> tuple[list[float], list[float]]:
            await there.check()
            found = [await asyncio.gather(*(model.score(TURNS, answer) for answer in ANSWERS)) for model in (here, there)]
            await here.aclose()
            await there.aclose()
            return found[0], found[1]

        ours, theirs = asyncio.run(both())
    assert theirs == pytest.approx(ours, abs=0.02)
    assert there.client.stats.calls == 4 and there.client.stats.failures == 0


@pytest.mark.slow
@pytest.mark.vllm
def test_a_server_that_generates_is_no_reward_model(live_vllm: LiveServer) -> None:
    async def check() -> None:
        model = ServedRewardModel(PreferenceConfig(model=live_vllm.model, base_url=live_vllm.base_url), None, None)
        try:
            await model.check()
        finally:
            await model.aclose()

    with pytest.raises(SettingError, match="at /classify"):
        asyncio.run(check())
