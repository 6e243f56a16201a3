"""Teachers exchanged under traffic: real checkpoints, swapped in one step; bad ones of every kind, refused while the old one serves on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lab.weights_folder import weights_dir
from server.app import create_app
from server.settings import ServerSettings
from server.teachers import TeacherSource, load
from store import EventLog, StoreError
from teacher.folder import MANIFEST, teacher_sha256
from tests.redis_server import RedisServer, running_redis
from tests.server.test_instruct import assert_error
from tests.server.test_modes import until

QUERY = "What is 17 more than 25?"


def sign(folder: Path) -> None:
    """Make the manifest say what the files are: damage that no checksum tells."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": teacher_sha256(folder)}))


def add_run(runs: Path, name: str, change: Callable[[Path], None] = lambda folder: None, *, signed: bool = True) -> Path:
    """A run directory with the shipped teacher, changed."""
    folder = runs / name / "teacher"
    shutil.copytree(weights_dir("arithmetic") / "trained_teacher", folder)
    change(folder)
    if signed:
        sign(folder)
    return folder


def other_words(folder: Path) -> None:
    """As good a teacher, of another sum."""
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "_note": folder.parent.name}))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    add_run(runs, "first")
    settings = ServerSettings(teacher=str(runs / "first"), cache_entries=0, deadline_ms=30_000)
    teacher = load(TeacherSource(folder=settings.teacher), "default", batch_size=32, threads=2, timeout_s=30)
    with TestClient(create_app(settings, teacher)) as client:
        yield client


def reload(client: TestClient, run: str | None) -> Any:
    return client.post("/teachers/default/reload", json={"run": run})


def test_each_answer_is_of_exactly_one_teacher(client: TestClient, runs: Path) -> None:
    folders = [add_run(runs, f"run-{i}", other_words) for i in range(2)]
    sums = {teacher_sha256(folder) for folder in folders} | {client.get("/readyz").json()["teacher"]["sha256"]}
    assert len(sums) == 3
    answers: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            got = client.post("/instruct", json={"query": QUERY})
            answers.append((got.status_code, got.json()["source"], (got.json()["teacher"] or {}).get("sha256"), got.json()["instruction"]))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for i in (0, 1, 0, 1):
        got = reload(client, f"run-{i}")
        assert (got.status_code, got.json()["sha256"]) == (200, teacher_sha256(folders[i]))
        assert client.post("/instruct", json={"query": QUERY}).json()["teacher"]["sha256"] == teacher_sha256(folders[i])
    over.set()
    for thread in asking:
        thread.join()
    assert {(status, source) for status, source, _, _ in answers} == {(200, "teacher")}
    assert {sha256 for _, _, sha256, _ in answers} <= sums
    assert len({text for *_, text in answers}) == 1
    assert client.get("/teachers").json()["teachers"]["default"]["sha256"] == teacher_sha256(folders[1])


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def spoilt(value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if "mlp" in name)
        tensors[name].view(-1)[3] = value

    return weights(change)


def config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **changes}))

    return edit


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, share: float) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((content := (folder / name).read_bytes())[: int(share * len(content))])


def to_pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_tensor(tensors: dict[str, Any]) -> None:
    del tensors[next(name for name in tensors if "mlp" in name)]


def of_another_shape(tensors: dict[str, Any]) -> None:
    name = next(name for name in tensors if "mlp" in name)
    tensors[name] = tensors[name][:-1].clone()


SIGNED = {
    "nan": spoilt(float("nan")),
    "inf": spoilt(float("inf")),
    "a tensor lacks": weights(drop_a_tensor),
    "a tensor of another shape": weights(of_another_shape),
    "weights cut": cut("model.safetensors", 0.5),
    "weights empty": write("model.safetensors", b""),
    "weights garbage": write("model.safetensors", b"\xff" * 1000),
    "no weights": remove("model.safetensors"),
    "pickled weights": to_pickle,
    "config garbage": write("config.json", b"{"),
    "no config": remove("config.json"),
    "unknown architecture": config(model_type="nothing", architectures=["Nothing"]),
    "code of its own": config(model_type="own", auto_map={"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"}),
    "another width": config(hidden_size=48),
    "another vocabulary": config(vocab_size=7),
    "tokenizer garbage": write("tokenizer.json", b"{}"),
    "no template": remove("template.txt"),
    "template not UTF-8": write("template.txt", b"\xff\xfe"),
    "manifest is none": write(MANIFEST, b"[]"),
    "manifest lacks its limit": lambda folder: (folder / MANIFEST).write_text('{"id": "x", "sha256": "", "task": "t", "blind": false}'),
}
UNSIGNED = {"a byte changed": cut("model.safetensors", 0.999), "a file added": write("extra.json", b"{}")}


def test_bad_checkpoints_are_refused_and_the_old_one_serves_on(client: TestClient, runs: Path) -> None:
    before = client.get("/readyz").json()
    text = client.post("/instruct", json={"query": QUERY}).json()["instruction"]
    taken = []
    for i, (kind, change) in enumerate({**SIGNED, **UNSIGNED}.items()):
        add_run(runs, f"bad-{i}", change, signed=kind in SIGNED and not kind.startswith("manifest"))
        got = reload(client, f"bad-{i}")
        if got.status_code != 409:
            taken.append((kind, got.text))
            continue
        assert_error(got, 409, "conflict", "the old teacher serves on: ")
        assert client.get("/readyz").json() == before
        assert client.post("/instruct", json={"query": QUERY}).json()["instruction"] == text
    assert not taken
    assert_error(reload(client, "no-such-run"), 409, "conflict", "the old teacher serves on: ")
    for name in ("../first", "/etc", "first/teacher", ""):
        assert_error(reload(client, name), 422, "invalid_field", "run: ")
    assert_error(client.post("/teachers/other/reload"), 404, "not_found", "known: default")
    foreign = client.post("/teachers/default/reload", headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403


@pytest.mark.redis
def test_every_replica_follows(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.experiments.EventLog", lambda path, redis_url: EventLog(path, redis_url=redis_url, redis_timeout_s=10))
    add_run(runs, "first")
    folder = add_run(runs, "second", other_words)
    servers = running_redis("--appendonly", "yes")
    redis: RedisServer = next(servers)

    def replica(name: str) -> TestClient:
        settings = ServerSettings(teacher=str(runs / "first"), event_log=str(tmp_path / name), store=redis.url, deadline_ms=30_000)
        teacher = load(TeacherSource(folder=settings.teacher), "default", batch_size=32, threads=1, timeout_s=30)
        return TestClient(create_app(settings, teacher))

    with replica("a.db") as a, replica("b.db") as b:
        assert reload(a, "second").status_code == 200
        until(lambda: b.get("/readyz").json()["teacher"]["sha256"] == teacher_sha256(folder), "the other replica did not follow")
        first = a.post("/teachers/default/rollback").json()["sha256"]
        assert first != teacher_sha256(folder)
        until(lambda: b.get("/readyz").json()["teacher"]["sha256"] == first, "the other replica did not go back")
    servers.close()  # type: ignore[attr-defined]


def test_who_takes_the_place_of_another_comes_to_its_teacher_and_to_those_before(runs: Path, tmp_path: Path) -> None:
    """As a worker does that its supervisor started later: it begins with the first teacher, whatever was loaded or came since."""
    first = add_run(runs, "first")
    settings = ServerSettings(teacher=str(runs / "first"), event_log=str(tmp_path / "events.db"), deadline_ms=30_000)

    def worker(since: float | None) -> TestClient:
        teacher = load(TeacherSource(folder=settings.teacher), "default", batch_size=32, threads=1, timeout_s=30)
        app = create_app(settings, teacher)
        app.state.reloads.since = since
        return TestClient(app)

    def serves(client: TestClient) -> str:
        return str(client.get("/readyz").json()["teacher"]["sha256"])

    began, sums = time.time(), [teacher_sha256(first)]
    with worker(began) as a:
        for name in ("second", "third", "fourth"):
            sums.append(teacher_sha256(add_run(runs, name, other_words)))
            assert reload(a, name).status_code == 200
        assert a.post("/teachers/default/rollback").json()["sha256"] == sums[2]
        with worker(began) as b, worker(None) as late:
            assert (serves(a), serves(b), serves(late)) == (sums[2], sums[2], sums[0])
            assert b.post("/teachers/default/rollback").json()["sha256"] == sums[1]
            until(lambda: serves(a) == sums[1], "the other worker did not go back")
            until(lambda: serves(late) == sums[1], "one that knew of none before did not go back")
            assert a.post("/teachers/default/rollback").json()["sha256"] == sums[0]
            until(lambda: serves(b) == sums[0], "the one that made up for it did not go back")
        other_words(runs / "second" / "teacher")
        sign(runs / "second" / "teacher")
        assert reload(a, "second").status_code == 200
        cut("model.safetensors", 0.5)(runs / "second" / "teacher")
        with worker(began) as c:
            assert serves(c) == sums[0]  # what is gone cannot be loaded; the log says so


def test_a_roll_back_puts_the_one_before_in_its_place_and_what_is_gone_is_refused(client: TestClient, runs: Path) -> None:
    def serves() -> str:
        return str(client.get("/readyz").json()["teacher"]["sha256"])

    def back() -> Any:
        return client.post("/teachers/default/rollback")

    assert_error(back(), 409, "conflict", "no other teacher has served")
    first = serves()
    for name in ("second", "third"):
        add_run(runs, name, other_words)
        assert reload(client, name).status_code == 200
    third = serves()
    second = runs / "second" / "teacher"
    shutil.move(second, runs / "away")
    assert_error(back(), 409, "conflict", "the teacher serves on")
    assert serves() == third
    shutil.copytree(runs / "third" / "teacher", second)  # another one lies there now
    assert_error(back(), 409, "conflict", "holds another teacher")
    shutil.rmtree(second)
    shutil.move(runs / "away", second)
    assert back().json()["sha256"] == serves() == teacher_sha256(second)
    assert back().json()["sha256"] == serves() == first
    assert_error(back(), 409, "conflict", "no other teacher has served")
    assert_error(client.post("/teachers/other/rollback"), 404, "not_found", "known: default")
    assert client.post("/teachers/default/rollback", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_a_teacher_is_added_beside_the_others_as_an_arm_stays_over_a_restart_and_is_removed(runs: Path, tmp_path: Path) -> None:
    add_run(runs, "first")
    folder = add_run(runs, "second", other_words)
    settings = ServerSettings(teacher=str(runs / "first"), event_log=str(tmp_path / "events.db"), deadline_ms=30_000)

    def server() -> TestClient:
        options = {"batch_size": 32, "threads": 1, "timeout_s": 30}
        sources = {"default": TeacherSource(folder=settings.teacher), **settings.teachers}
        teachers = {name: load(source, name, **options) for name, source in sources.items()}
        return TestClient(create_app(settings, teachers["default"], teachers))

    async def refuse(*_: Any) -> None:
        raise StoreError("the disk is full")

    def sums(client: TestClient) -> dict[str, str]:
        return {name: teacher["sha256"] for name, teacher in client.get("/teachers").json()["teachers"].items()}

    with server() as a, server() as b:
        put = {"run": "second"}
        assert [a.put("/teachers/second", json=put).status_code for _ in range(2)] == [201, 200]
        drawn = a.put("/teachers/drawn", json={"run": "second", "temperature": 1.5}).json()
        assert drawn["id"].endswith("-t1.5") and drawn["sha256"] != teacher_sha256(folder)
        until(lambda: sums(b) == sums(a), "the other replica did not follow")
        assert set(sums(b)) == {"default", "second", "drawn"} and sums(b)["second"] == teacher_sha256(folder)
        arms = [{"name": "old", "teacher": sums(a)["default"], "weight": 0.5}, {"name": "new", "teacher": drawn["id"], "weight": 0.5}]
        made = {"id": "e", "arms": arms, "control": "old", "metric": {"name": "m", "kind": "binary"}, "planned_n": 100}
        assert a.post("/experiments", json=made).status_code == 201
        ask = {"query": QUERY, "experiment": "e", "unit": "u", "force_arm": "new"}
        replies = [a.post("/instruct", json=ask).json() for _ in range(12)]
        assert {reply["source"] for reply in replies} <= {"teacher", "silence"}  # drawn, never out of the cache
        assert len({reply["instruction"] for reply in replies}) > 1
        assert {reply["teacher"]["sha256"] for reply in replies} == {drawn["sha256"]}
        assert_error(a.put("/teachers/second", json={"run": "first"}), 409, "conflict", "another teacher serves as second")
        assert_error(a.put("/teachers/third", json={"run": "nowhere"}), 409, "conflict", "no teacher was added")
        assert_error(a.delete("/teachers/default"), 409, "conflict", "the config has it")
        assert_error(a.delete("/teachers/nobody"), 404, "not_found", "known: default")
        before = sums(a)
    with server() as a, server() as b:
        assert sums(a) == sums(b) == before
        assert a.delete("/teachers/drawn").status_code == a.delete("/teachers/second").status_code == 200
        until(lambda: set(sums(b)) == {"default"}, "the other replica did not remove them")
        assert a.post("/instruct", json=ask).json()["teacher"]["sha256"] == drawn["sha256"]  # the experiment runs on
    with server() as a:
        assert set(sums(a)) == {"default"}
        assert a.put("/teachers/late", json=put).status_code == 201
        # What the event log refuses is not half done: it can be asked for again.
        broken = pytest.MonkeyPatch()
        broken.setattr(EventLog, "append", refuse)
        assert_error(a.put("/teachers/later", json=put), 503, "capacity")
        assert_error(a.delete("/teachers/late"), 503, "capacity")
        assert set(sums(a)) == {"default", "late"}
        broken.undo()
    settings = settings.model_copy(update={"teachers": {"late": TeacherSource(folder=str(runs / "first"))}})
    with server() as a:
        assert sums(a)["late"] == sums(a)["default"], "what the config names by now is not what was added under the name before"
        assert_error(a.delete("/teachers/late"), 409, "conflict", "the config has it")
