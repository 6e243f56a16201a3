"""Models of every family through the real line: as student and as teacher, in left-padded batches, warm-started, trained, served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from exchange.protocols import SamplingParams
from exchange.records import Message, PublicExample
from lab.pretrain import save_role
from lab.shapes import FAMILIES, shape_of
from lab.weights_folder import model_dir
from server.app import create_app
from server.settings import ServerSettings
from server.teachers import TeacherSource, load
from student_clients.embedded import EmbeddedStudent
from teacher.folder import read_manifest, save_teacher
from teacher.policy import TransformersPolicy, load_model, with_room
from teacher.prompt import TeacherPrompt
from teacher.run_directory import RunDirectory
from teacher.train import main

QUERIES = ["A", "What is 17 more than 25?", "Ravi lost 8 of the 47 cups. How many cups are left?", "How many? " * 12]
SMALL = {"hidden": 64, "layers": 1, "mlp": 64}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model of the family with the lab's tokenizer; weights so large that what it writes depends on all that it reads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(model_dir("arithmetic", "teacher"))
    model = AutoModelForCausalLM.from_config(shape_of({**SMALL, "family": request.param}, tokenizer), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "A_log" not in name:
                parameter.normal_(0.0, 0.3)
    save_role("model", model, tokenizer, tmp_path)
    return tmp_path / "model"


def test_a_student_in_batches_answers_as_generate_does_one_by_one(folder: Path) -> None:
    model, tokenizer = load_model(str(folder))
    expected = []
    for query in QUERIES:
        turns = [{"role": "user", "content": query}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(ids, skip_special_tokens=True))
    assert len(set(expected)) == len(QUERIES)
    student = EmbeddedStudent(folder)

    async def answers() -> list[str | None]:
        asked = (student.complete([Message(role="user", content=query)], SamplingParams(max_tokens=8)) for query in QUERIES)
        return [completions[0].text for completions in await asyncio.gather(*asked)]

    assert asyncio.run(answers()) == expected
    asyncio.run(student.aclose())


def test_a_teacher_writes_in_batches_what_single_queries_get_and_is_served(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(str(folder))
    prompt = TeacherPrompt.named("lab")
    policy = TransformersPolicy(model, tokenizer, prompt, max_instruction_tokens=6)
    examples = [PublicExample(id=str(i), task="lab_arithmetic", split="test", query=query) for i, query in enumerate(QUERIES)]
    together = asyncio.run(policy.instruct(examples))
    assert together == [asyncio.run(policy.instruct([example]))[0] for example in examples]
    assert len({instruction.text for instruction in together}) > 1
    assert len(with_room(examples, str(folder), prompt, max_instruction_tokens=6, needed=4)) == 4
    save_teacher(tmp_path / "teacher", model, tokenizer, prompt, {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 6})
    settings = ServerSettings(deadline_ms=30_000)
    teacher = load(TeacherSource(folder=str(tmp_path / "teacher")), "default", batch_size=32, threads=1, timeout_s=30)
    with TestClient(create_app(settings, teacher)) as client:
        reply = client.post("/instruct", json={"query": QUERIES[1]}).json()
    assert (reply["source"], reply["teacher"]["sha256"]) == ("teacher", read_manifest(tmp_path / "teacher")["sha256"])


@pytest.mark.slow
def test_a_teacher_is_warm_started_and_trained(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    logged = tmp_path / "logged.jsonl"
    logged.write_text("".join(json.dumps({"query": query, "instruction": "Add the two numbers."}) + "\n" for query in QUERIES))
    sizes = ["--max_steps=1", "--eval.every=1", "--eval.n=4", "--eval.include=[]", "--task.train_size=16", "--task.validation_size=4"]
    warm = ["--teacher.warm_start.questions=2", "--teacher.warm_start.epochs=1", f"--teacher.warm_start.file={logged}"]
    batch = ["--trl.per_device_train_batch_size=4", "--trl.num_generations=2", "--teacher.max_instruction_tokens=6"]
    model = [f"--teacher.model={folder}", "--teacher.preset=lab"]
    assert main([*sizes, *warm, *batch, *model, f"--student.model={folder}", "--student.max_tokens=8"]) == 0
    run = RunDirectory(next((tmp_path / "runs").iterdir()))
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1]
    assert read_manifest(run.teacher)["base_model"] == str(folder)
