"""The live servers answer, count what reached them, and are gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
import pytest

from tests.live.servers import LiveServer, transformers_server


def ask(server: LiveServer, **fields: object) -> list[str]:
    body = {"model": server.model, "messages": [{"role": "user", "content": "3 + 4"}], "max_tokens": 12, "temperature": 0} | fields
    reply = httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=60, trust_env=False)
    reply.raise_for_status()
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_answers_and_counts_requests_and_sequences(live_vllm: LiveServer) -> None:
    requests, sequences = live_vllm.requests_served(), live_vllm.completions_made()
    assert ask(live_vllm) == ask(live_vllm)
    assert len(ask(live_vllm, n=3, temperature=1)) == 3
    assert live_vllm.requests_served() - requests == 3
    assert live_vllm.completions_made() - sequences == 5


@pytest.mark.slow
@pytest.mark.vllm
def test_both_engines_give_the_same_greedy_answer(live_vllm: LiveServer, live_transformers: LiveServer) -> None:
    before = live_transformers.requests_served()
    assert ask(live_transformers) == ask(live_vllm)
    assert live_transformers.requests_served() - before == 1


@pytest.mark.slow
def test_a_server_is_gone_when_its_block_ends(student_dir: Path, tmp_path: Path) -> None:
    with transformers_server(student_dir, log_dir=tmp_path) as server:
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.origin}/health", trust_env=False)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exited with|not ready"), transformers_server(tmp_path, log_dir=tmp_path, timeout_s=30):
        pass
