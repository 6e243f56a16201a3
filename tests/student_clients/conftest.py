"""A real OpenAI-compatible server whose answers a test scripts, and a tiny random model in Hugging Face format."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def chat(*texts: str, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a chat completion: 7 prompt tokens, 3 tokens a choice."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason} for i, text in enumerate(texts)
    ]
    return {"id": "x", "object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 3 * len(texts)}}


def response(*texts: str, status: str = "completed", **fields: Any) -> dict[str, Any]:
    """The body of a /v1/responses reply that reasoned before it spoke: 7 prompt tokens (2 cached), 3 answer tokens (1 of reasoning)."""
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": content}
    usage = {
        "input_tokens": 7, "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 10,
    }  # fmt: skip
    reasoning = {"id": "r", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    output = [reasoning, *([message] if texts else [])]
    return {"id": "x", "object": "response", "model": "m-2026", "status": status, "output": output, "usage": usage, **fields}


class ScriptedServer:
    """Answers POST /v1/chat/completions and /v1/responses with the next of `replies`, the last one for ever; keeps what it was sent.

    A reply is a chat body, or (status, body, headers), or "hang". `models` is the body of GET /v1/models, None = 500.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.replies: list[Any] = [chat("ok")]
        self.models: Any = {"data": [{"id": "m"}]}
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self._at_once = 0

    def app(self) -> Starlette:
        async def completions(request: Request) -> Response:
            self.bodies.append(await request.json())
            self.keys.append(request.headers.get("authorization"))
            self.headers.append(dict(request.headers))
            self.paths.append(request.url.path)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            try:
                if reply == "hang":
                    while (await request.receive())["type"] != "http.disconnect":
                        pass
                    return Response()
                status, body, headers = reply if isinstance(reply, tuple) else (200, reply, {})
                if isinstance(body, str):
                    return Response(body, status, headers, media_type="application/json")
                return JSONResponse(body, status, headers)
            finally:
                self._at_once -= 1

        async def models(request: Request) -> Response:
            return JSONResponse(self.models, 200 if self.models is not None else 500)

        asked = [Route(f"/v1/{path}", completions, methods=["POST"]) for path in ("chat/completions", "responses")]
        return Starlette(routes=[*asked, Route("/v1/models", models)])


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    scripted = ScriptedServer(listener.getsockname()[1])
    running = uvicorn.Server(uvicorn.Config(scripted.app(), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield scripted
    running.should_exit = True
    thread.join()


@pytest.fixture
def closed_port_url() -> str:
    """The address of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 20 k parameters that reads bytes and has 64 positions; its greedy texts differ from prompt to prompt."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
    folder = tmp_path_factory.mktemp("tiny_model")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=1.0, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
