"""What is recorded comes back, and what was not says so."""

import asyncio
import json
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Message
from exchange.settings import SettingError
from student_clients.errors import StudentBadRequest
from student_clients.recording import RecordingStudent, ReplayStudent
from student_clients.scripted import ScriptedStudent

ASK = (Message(role="system", content="Be brief."), Message(role="user", content="wie gro\u00df?\u2028"))
OTHER = (Message(role="user", content="2+2?"),)
PARAMS = SamplingParams(temperature=0.7, seed=3)


def test_traffic_comes_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "traffic.jsonl"
    texts = iter(["a", "b", "c", "d"])
    recording = RecordingStudent(ScriptedStudent(lambda _: next(texts)), path)
    recorded = asyncio.run(recording.complete(ASK, PARAMS, n=2))
    recorded += asyncio.run(recording.complete(ASK, PARAMS, sample_index=2))
    asyncio.run(recording.complete(OTHER, PARAMS))
    replay = ReplayStudent(path)
    # The split is the one thing that may differ: it is never sent.
    assert asyncio.run(replay.complete(ASK, PARAMS.model_copy(update={"split": "test"}), n=3)) == recorded
    assert asyncio.run(replay.complete(OTHER, PARAMS))[0].text == "d"
    assert replay.ledger.stats.cost_usd == 0.0


@pytest.mark.parametrize(
    ("messages", "params", "index"), [(OTHER, PARAMS, 0), (ASK, SamplingParams(), 0), (ASK, PARAMS, 1)], ids=["query", "params", "sample"]
)
def test_what_was_not_recorded_is_an_error_that_says_so(
    tmp_path: Path, messages: tuple[Message, ...], params: SamplingParams, index: int
) -> None:
    path = tmp_path / "traffic.jsonl"
    asyncio.run(RecordingStudent(ScriptedStudent(lambda _: "a"), path).complete(ASK, PARAMS))
    with pytest.raises(StudentBadRequest, match="holds no answer to this request"):
        asyncio.run(ReplayStudent(path).complete(messages, params, sample_index=index))


def test_a_line_written_by_hand_fits_any_parameters(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "2+2?"}], "completion": {"text": "#### 4"}}) + "\n")
    assert asyncio.run(ReplayStudent(path).complete(OTHER, PARAMS))[0].text == "#### 4"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"messages": []}', "line 2"),
        (b"{not json", "line 2"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "completion: Field required"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_damaged_recording_names_file_and_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_bytes(b"\n" + content + b"\n")
    with pytest.raises(SettingError, match=complaint) as caught:
        ReplayStudent(path)
    assert "traffic.jsonl" in str(caught.value)


def test_a_missing_recording_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        ReplayStudent(tmp_path / "none.jsonl")
