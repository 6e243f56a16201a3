"""Methods beside each other: rows from directories of known content."""

import json

import pytest

from weak_to_strong.compare import main, table


def evaluated(folder, rights, **summary):
    """A run directory whose arms answered four questions as given; `rights` by arm."""
    from evaluation.table import summarise
    from exchange.records import Completion, Episode, Example, Instruction, Message, Score

    examples = [Example(id=str(k), task="lab_reasoning", split="test", query=f"q{k}", gold="1") for k in range(4)]
    silence = Instruction(text="", source="silence")
    episodes = {
        arm: [
            Episode(
                example_id=e.id, arm=arm, instruction=silence, messages=(Message(role="user", content=e.query),),
                completions=(Completion(text="1"),), scores=(Score(value=right, parts={"correct": right}),),
            )
            for e, right in zip(examples, map(float, of), strict=True)
        ]
        for arm, of in rights.items()
    }  # fmt: skip
    folder.mkdir()
    found = summarise(episodes, examples).model_dump(mode="json")
    (folder / "config.yaml").write_text("seed: 3\n")
    lines = [
        {"arm": arm, "id": e.id, "query": e.query, "score": float(right)} for arm, of in rights.items() for e, right in zip(examples, of)
    ]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"task": "lab_reasoning", "wall_s": 9.0, "eval": found, **summary}))
    return folder


@pytest.fixture
def runs(tmp_path):
    cost = {"training": {"calls": 4, "prompt_tokens": 40, "trained_tokens": 60, "flops": 5.0, "wall_s": 2.0}, "ceiling": {"calls": 100}}
    w2sr = evaluated(
        tmp_path / "w2sr", {"raw": [0, 0, 0, 0], "trained": [1, 1, 1, 0], "ceiling": [1, 1, 1, 1]}, algorithm="w2sr", phases={}, cost=cost
    )
    wst = evaluated(tmp_path / "wst", {"raw": [0, 0, 0, 0], "trained": [1, 0, 0, 0]}, algorithm="grpo")
    episode = {"step": 1, "completions": [{"prompt_tokens": 7, "completion_tokens": 3}], "instruction": {"num_tokens": 5}}
    (wst / "episodes.jsonl").write_text(2 * (json.dumps(episode) + "\n"))
    return w2sr, wst


def test_each_method_is_a_row_and_is_paired_with_the_first(runs):
    rows = table(list(runs))
    assert [row.method for row in rows] == ["w2sr", "direct GRPO", "prompt teacher (grpo)"]
    assert [row.right.mean for row in rows] == [0.75, 1.0, 0.25] and {row.seed for row in rows} == {3}
    assert rows[0].versus is None
    assert [(row.versus.paired, row.versus.difference) for row in rows[1:]] == [(True, 0.25), (True, -0.5)]
    assert (rows[0].cost.calls, rows[0].cost.tokens, rows[0].cost.wall_s) == (4, 100, 9.0)
    assert (rows[2].cost.calls, rows[2].cost.prompt_tokens, rows[2].cost.completion_tokens) == (2, 14, 6 + 10)


def test_the_command_prints_the_table_and_json(runs, capsys):
    assert main([str(path) for path in runs]) == 0
    assert "direct GRPO" in capsys.readouterr().out
    assert main([str(runs[0]), "--json"]) == 0
    assert [row["method"] for row in json.loads(capsys.readouterr().out)] == ["w2sr", "direct GRPO"]


def test_what_cannot_be_compared_is_one_line(runs, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no summary.json" in capsys.readouterr().err
    held = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps({**held, "task": "gsm8k"}))
    assert main([str(path) for path in runs]) == 2
    assert "different tasks (gsm8k, lab_reasoning)" in capsys.readouterr().err
