# ruff: noqa: E501 -- rows of Markdown tables
"""`python docs/make_reference.py`: write docs/reference.md from the code's own settings and the hand-written parts below.

`tests/test_reference.py` checks that every setting, metric, command and route is named there.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from exchange.settings import setting_docs  # noqa: E402
from server.settings import ServerSettings  # noqa: E402
from teacher.config import HUB_TRL, LAB_TRL, LAB_WARM_START, TrainConfig, WarmStartConfig, resolve  # noqa: E402
from teacher.config import TeacherConfig as Teacher  # noqa: E402

HEAD = """# Reference

The tables of settings are written by `python docs/make_reference.py` from the code.

## Commands

| command | does |
|---|---|
| `python -m teacher.train [CONFIG.yaml] [--a.b=value ...]` | trains a teacher; no config = the lab world. `--dry-run` prints the resolved config and what the run would cost: calls, tokens, dollars, hours under the rate limits, memory; `--resume` goes on with the newest unfinished run with the same settings, `--resume=RUN_DIR` with that one, whose budget, pacing, timeout, cache and extra arms may then be given anew |
| `python -m teacher.evaluate [CONFIG.yaml \\| RUN_DIR] [--a.b=value ...]` | measures the arms on held-out questions; on a run directory it replaces the `eval` block of its summary.json and takes only `eval`, `budget`, `student.pacing`, `student.timeout_s` and `student.cache`; no argument = the teacher the server would take; `--dry-run` as above |
| `python -m rewards.grade --task T [--strict] FILE.jsonl` | grades lines `{"gold", "output"}` (`-` = stdin): the same lines with `"correct"` and `"extracted"`, totals on stderr |
| `python -m rewards.train_preference (--base MODEL \\| --scratch) --out DIR [--pairs hh_rlhf \\| FILE.jsonl] [--half 0 \\| 1] [--seed] [--epochs] [--learning-rate] [--batch-size] [--max-tokens] [--limit] [--hidden] [--layers] [--vocabulary]` | trains a reward model on preference pairs and reports its held-out accuracy with an interval, in `DIR/preference.json` too |
| `python -m evaluation.analyze LOG.jsonl [--control A] [--alpha 0.05] [--planned-n N] [--weights arm=w,...] [--lower-is-better M,...] [--json]` | analyses an online A/B test from its log of exposures and outcomes |
| `python -m evaluation.plan --effect E (--baseline R \\| --sd S) [--arms ...] [--control A] [--alpha] [--power] [--metrics] [--daily-units] [--events-per-unit] [--icc] [--covariate-correlation] [--json]` | how many units an A/B test needs |
| `python -m benchmarks.sequential [--only PART]` | simulations of the A/B statistics; writes `benchmarks/results/sequential.json` |
| `python -m server [--host] [--port] [--teacher] [--check]` | serves `/instruct`; `--check` validates settings and teacher and ends |
| `python -m lab.pretrain [WORLD] [--roles ROLE ...]` | remakes a lab world's tokenizer and base weights: `arithmetic`, or `alignment` with its preference models |
| `python -m lab.serve [WORLD] [ROLE] [--port] [--delay-s] [--fault-rate]` | serves a lab model by the OpenAI protocol at 127.0.0.1, as slow and as faulty as asked for: for trials over HTTP |
| `python -m lab.measure [WORLD]` | measures a lab world's figures on the test split, trains and ships its teacher, fills the manifest |
| `python -m benchmarks.faulty_student [--jobs N]` | the lab run over HTTP, clean and with 30 % of all requests failing; writes `benchmarks/results/faulty_student.json` |
| `python -m benchmarks.label_free [--only NAME ...]` | rewards without golds, each measured by gold on the lab world; writes `benchmarks/results/label_free.json` and its table in results.md |
| `python -m benchmarks.lab_runs [--jobs N]` | the lab run over seeds, students and dials; writes `benchmarks/results/lab_runs.json` and its table in results.md |

Exit codes: 0 done, 1 the run failed, 2 a setting is wrong and nothing was started, 130 and 143 stopped by Ctrl-C and SIGTERM.

## Environment

| variable | meaning |
|---|---|
| `WST_RUNS_DIR` | where runs lie (default `runs`) |
| `WST_CACHE_DIR` | where answers that were paid for are kept (default `.cache/wst`) |
| `WST_DATA_DIR` | folder of data sets (`gsm8k/train.jsonl.gz`, ...); else a folder `shared/data` beside the checkout, else the Hub is asked |
| `WST_TEACHER` | teacher folder or run directory for `teacher.evaluate` and the server; default the newest run, else the shipped one |
| `WST_REQUIRE` | tests: comma-separated programs whose absence fails instead of skipping |

The server's settings are variables too, below.
"""

ROUTES = """
## Routes

| route | does |
|---|---|
| `POST /instruct` | one query -> instruction and composed messages |
| `POST /instruct/batch` | `{"items": [...]}`, each item as for `/instruct` |
| `GET /livez` | 200 while the process lives |
| `GET /readyz` | 200 with the teacher's id and sum; the port answers only once the teacher is loaded |
| `GET /docs` | the OpenAPI page |

Fields of the request: `query` (required), `system`, `history`, `task`, `student`, `unit`, `experiment`. `source` in the answer says where the
instruction comes from: `teacher`, `cache`, `static`, `silence`, or `passthrough`, whose reason stands in the header `WST-Degraded`.

## Metrics of a training run

`metrics.jsonl` holds a line a step. Ours:

| metric | meaning |
|---|---|
| `right_rate` | share of the step's answers that are right, of those that could be judged; where a preference pays the mean win over raw, with consistency the mean agreement |
| `gold_rate` | share right by gold where something else pays; only on questions with a gold |
| `silence_rate` | share of instructions that are empty |
| `ill_formed_rate` | share that the format gate refused |
| `distinct_rate` | distinct texts over all instructions of the step; a fall to 1 / batch is collapse |
| `failed_rate` | share of student calls that failed or could not be judged |
| `no_answer_rate` | share of answers in which the grader found none |
| `unparsed_rate` | share of answers that the grader found and could not parse |
| `undecided_rate` | share of answers that came and could not be judged: the grader ran over its limits, or the judge or the raw answer failed |

The others are TRL's: `reward`, `reward_std`, `entropy`, `kl`, `clip_ratio/*`, `frac_reward_zero_std`, `completions/*`, `grad_norm`, `learning_rate`, `loss`, `step_time`.

`validation.jsonl`: `step`, `value` (mean reward of the greedy teacher, by which the best is chosen), `right`, `n`; `gold` where something else
than an existing gold pays; with a second judge `second` (its mean win, half of which counts in `value`), `parted` (training stops) and `wins`
(both judges' by question).
"""


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, text in rows:
        default, text = default.replace("|", "\\|"), text.replace("|", "\\|")
        lines.append(f"| `{name}` | `{default}` | {text} |")
    return "\n".join(lines) + "\n"


def presets() -> str:
    lab, hub = resolve(TrainConfig()), resolve(TrainConfig(teacher=Teacher(preset="hub")))
    rows = [
        ("max_steps", str(lab.max_steps), str(hub.max_steps)),
        ("teacher.max_instruction_tokens", str(lab.teacher.max_instruction_tokens), str(hub.teacher.max_instruction_tokens)),
        *((f"trl.{key}", str(LAB_TRL.get(key, "TRL's")), str(HUB_TRL.get(key, "TRL's"))) for key in sorted({*LAB_TRL, *HUB_TRL})),
        *(
            (f"teacher.warm_start.{key}", str(getattr(LAB_WARM_START, key)), str(getattr(WarmStartConfig(), key)))
            for key in WarmStartConfig.model_fields
        ),
    ]
    head = """
## Presets

`lab` is measured on the lab world (results.md). `hub` is for real models: **literature, not measured here**; the sources stand beside the
values in `teacher/config.py`.

| setting | lab | hub |
|---|---|---|
"""
    return head + "\n".join(f"| `{name}` | {lab} | {hub} |" for name, lab, hub in rows) + "\n"


def main() -> None:
    text = HEAD + "\n## Settings of a run\n\nFlags `--name=value` of `teacher.train` and `teacher.evaluate`, and keys of a YAML file.\n\n"
    text += table(list(setting_docs(TrainConfig))) + presets()
    text += "\n## Settings of the server\n\nVariables `WST_<NAME>`, some also flags.\n\n"
    text += table([(f"WST_{name.upper()}", default, doc) for name, default, doc in setting_docs(ServerSettings)])
    (ROOT / "docs" / "reference.md").write_text(text + ROUTES, encoding="utf-8")


if __name__ == "__main__":
    main()
