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
from server.students import ServedStudent  # noqa: E402
from server.teachers import TeacherSource  # noqa: E402
from teacher.config import HUB_ALGORITHM, HUB_TRL, LAB_ALGORITHM, LAB_TRL, LAB_WARM_START, TrainConfig, WarmStartConfig, resolve  # noqa: E402
from teacher.config import TeacherConfig as Teacher  # noqa: E402

HEAD = """# Reference

The tables of settings are written by `python docs/make_reference.py` from the code.

## Commands

| command | does |
|---|---|
| `python -m teacher.train [CONFIG.yaml] [--a.b=value ...]` | trains a teacher; no config = the lab world. `--dry-run` prints the resolved config and what the run would cost: calls, tokens, dollars, hours under the rate limits, memory; `--resume` goes on with the newest unfinished run with the same settings, `--resume=RUN_DIR` with that one, whose budget, pacing, timeout, cache and optional arms may then be given anew |
| `python -m teacher.probe [CONFIG.yaml] [--samples N] [--a.b=value ...]` | before spending: how far instructions move the student, the gain within reach with its interval, and whether to train, for at most a twentieth of the run's calls; `probe.json` in a run directory; `--dry-run` |
| `python -m teacher.evaluate [CONFIG.yaml \\| RUN_DIR] [--a.b=value ...]` | measures the arms on held-out questions; on a run directory it replaces the `eval` block of its summary.json and takes only `eval`, `budget`, `student.pacing`, `student.timeout_s` and `student.cache`; no argument = the teacher the server would take; `--dry-run` as above |
| `python -m teacher.ab PROMPTS.jsonl [--teacher DIR] [--a.b=value ...]` | raw against taught on a file of prompts, paired and graded, no server needed; `--task.own.query`, `--task.own.answer`, `--task.own.answer_type` say how its rows are read; student, reward and budget are the teacher's run's unless set |
| `python -m teacher.compare RUN RUN ... [--arm trained] [--alpha 0.05] [--json]` | evaluated directories beside each other: paired where the questions are the same, over seeds, one teacher over students and tasks |
| `python -m teacher.collect LOG.jsonl ... --out FOLDER [--metric M] [--good X] [--lower-is-better]` | a service's log into the next teacher's data: `train.jsonl` and `test.jsonl` for task `own`, `instructions.jsonl` for `teacher.warm_start.file`, `held_out.jsonl`; says what is missing. `--help` shows the lines it reads |
| `python -m rewards.grade --task T [--strict] FILE.jsonl` | grades lines `{"gold", "output"}` (`-` = stdin): the same lines with `"correct"` and `"extracted"`, totals on stderr |
| `python -m rewards.train_preference (--base MODEL \\| --scratch) --out DIR [--pairs hh_rlhf \\| FILE.jsonl] [--half 0 \\| 1] [--seed] [--epochs] [--learning-rate] [--batch-size] [--max-tokens] [--limit] [--hidden] [--layers] [--vocabulary]` | trains a reward model on preference pairs and reports its held-out accuracy with an interval, in `DIR/preference.json` too |
| `python -m evaluation.analyze LOG.jsonl [--control A] [--alpha 0.05] [--planned-n N] [--weights arm=w,...] [--lower-is-better M,...] [--json]` | analyses an online A/B test from its log of exposures and outcomes |
| `python -m evaluation.plan --effect E (--baseline R \\| --sd S) [--arms ...] [--control A] [--alpha] [--power] [--metrics] [--daily-units] [--events-per-unit] [--icc] [--covariate-correlation] [--json]` | how many units an A/B test needs |
| `python -m evaluation.export EVENTS.db (--experiment ID \\| --texts) [--tenant T]` | lines out of a server's event log: an experiment's exposures and outcomes for `evaluation.analyze`, or captured texts with their outcomes for `teacher.collect` |
| `python -m benchmarks.online_ab [--users N] [--kills K] [--no-save]` | online A/B tests end to end on a running server with Redis, killed in the middle; writes `benchmarks/results/online_ab.json` |
| `python -m benchmarks.nothing_lost [--events N] [--kills K] [--redis-kills R] [--no-save]` | acknowledged events through kills of server and Redis; writes `benchmarks/results/nothing_lost.json` |
| `python -m benchmarks.sequential [--only PART]` | simulations of the A/B statistics; writes `benchmarks/results/sequential.json` |
| `python -m server [--config FILE] [--host] [--port] [--teacher] [--check]` | serves `/instruct` and the proxy; `--check` validates settings and teacher and ends |
| `python -m server.keys [--keys FILE] create --tenant T \\| list \\| rotate ID \\| revoke ID` | the server's API keys: `create` and `rotate` print a key once; a running server takes changes within a second |
| `python -m lab.pretrain [WORLD] [--roles ROLE ...]` | remakes a lab world's tokenizer and base weights: `arithmetic`, or `alignment` with its preference models |
| `python -m lab.serve [WORLD] [ROLE] [--port] [--delay-s] [--fault-rate]` | serves a lab model by the OpenAI protocol at 127.0.0.1, as slow and as faulty as asked for: for trials over HTTP |
| `python -m lab.measure [WORLD]` | measures a lab world's figures on the test split, trains and ships its teacher, fills the manifest |
| `python -m benchmarks.faulty_student [--jobs N]` | the lab run over HTTP, clean and with 30 % of all requests failing; writes `benchmarks/results/faulty_student.json` |
| `python -m benchmarks.service_overhead [--seconds S]` | the server's own cost with a real Redis, beside a no-op app; writes `benchmarks/results/service_overhead.json` |
| `python -m benchmarks.label_free [--only NAME ...]` | rewards without golds, each measured by gold on the lab world; writes `benchmarks/results/label_free.json` and its table in results.md |
| `python -m benchmarks.paper [--student openai \\| vllm \\| tiny] [--only NAME ...] [--seeds N ...] [--instructor MODEL] [--gpus N] [--dry-run] [-- --a.b=value ...]` | the source's claims on MATH-500, GSM8K and HH-RLHF, tried on your models; writes `benchmarks/results/paper.json` and its table in results.md; `tiny` runs the kit on the lab's models |
| `python -m benchmarks.lab_runs [--jobs N]` | the lab run over seeds, students and dials; writes `benchmarks/results/lab_runs.json` and its table in results.md |

Exit codes: 0 done, 1 the run failed, 2 a setting is wrong and nothing was started, 130 and 143 stopped by Ctrl-C and SIGTERM.

## Environment

| variable | meaning |
|---|---|
| `WST_RUNS_DIR` | where runs lie (default `runs`) |
| `WST_CACHE_DIR` | where answers that were paid for are kept (default `.cache/wst`) |
| `WST_DATA_DIR` | folder of data sets (`gsm8k/train.jsonl.gz`, ...); else a folder `shared/data` beside the checkout, else the Hub is asked |
| `WST_TEACHER` | teacher folder or run directory for `teacher.evaluate` and the server; default the newest run, else the shipped one |
| `WST_CONFIG` | the server's config file, as `--config` |
| `WST_REQUIRE` | tests: comma-separated programs whose absence fails instead of skipping |

The server's settings are variables too, below.
"""

ROUTES = """
## Routes

| route | does |
|---|---|
| `POST /instruct` | one query -> instruction and composed messages |
| `POST /instruct/batch` | `{"items": [...]}`, each item as for `/instruct` |
| `POST /experiments` | starts an experiment; 201, or 200 where the same definition stands already |
| `GET /experiments`, `GET /experiments/{name}` | all, or one as it stands |
| `POST /experiments/{name}/ramp` | `{"enrolled": 0.5}`: let more units take part; nobody who is in changes the arm |
| `POST /experiments/{name}/stop` | ends it; outcomes of what was served are still taken |
| `GET /experiments/{name}/report` | the verdict and what it rests on, as JSON or (`?format=html`, or in a browser) as a page |
| `GET /experiments/{name}/log` | its log as JSON lines, for `python -m evaluation.analyze` |
| `POST /outcomes` | what became of a request or a unit; on reply it is on the disk |
| `POST /v1/chat/completions` | OpenAI's chat completions: the last user turn gets an instruction, the rest is forwarded as it stands; streams |
| `POST /v1/responses` | OpenAI's responses, likewise |
| `GET /v1/models`, `GET /v1/models/{name:path}` | the students that the proxy forwards to |
| `GET /livez` | 200 while the process lives |
| `GET /readyz` | 200 with the teacher's id and sum; the port answers only once the teacher is loaded |
| `GET /docs` | the OpenAPI page |

Fields of the request: `query` (required), `system`, `history`, `task`, `student`; for experiments `unit` (who asks; none = every request is
a unit of its own), `experiment` (its id), `covariate` (a number known of the unit before), `force_arm` (for a look by hand). `source` in the answer says where the
instruction comes from: `teacher`, `cache`, `static`, `silence`, or `passthrough`, whose reason stands in the header `WST-Degraded`.

An experiment: `id`; `arms`, each `name`, `weight` and one of `"teacher": sha256 or id`, `"text": …`, `"raw": true`; `control`; `metric` and
further `metrics`, each a name (any number) or `{"name", "kind": "binary|bounded|real", "low", "high", "lower_is_better"}`; `guardrails`, each
`{"metric", "margin", "higher_is_worse", "alpha"}`; `planned_n`, `alpha`, `enrolled`, `layer` with `layer_slice`, `hypothesis`. A guardrail's
metric is one that the service measures (`fallback`, `latency_ms`, `injection`) or one that outcomes are reported of. An arm that is surely
worse than the control by more than `margin` is stopped: its units get the control's treatment, and with no arm left the experiment ends.

An outcome: `request_id`, or `unit` and `experiment`; `metric`; `value`; `idempotency_key` (also the header `Idempotency-Key`). One value a
request (or unit) and metric counts, several need a key each. Sent again it is `"duplicate": true`; with another value, 409. 404: what it is
about was not served here. 422: not a metric of the experiment, or out of its range. 503: the event log fails, send it again.

### The proxy

`model` names one of the server's students. Only a request whose last turn is a user's with text is instructed; a passthrough is forwarded byte
for byte, an instructed body differs in the text of that turn. The reply's headers are the student's, and

| header of the reply | meaning |
|---|---|
| `WST-Source` | where the instruction comes from, as `source` above |
| `WST-Degraded` | why there is none: `opted_out`, `tool_turn`, `no_user_turn`, `no_text` (pictures alone), `not_unicode`, `already_instructed`, `query_too_long`, `student_refused` (the instructed request was refused and went once more as it came), or a reason as for `/instruct` |
| `WST-Experiment`, `WST-Arm` | the experiment and arm that the request takes part in (`WST-Experiment` and `WST-Unit` of the request, else the body's `user`) |
| `WST-Outcome-Id` | the `request_id` under which `/outcomes` takes what became of it |
| `WST-Student-Request-Id` | the student's own request id; `X-Request-Id` is this server's |
| `Server-Timing` | `teacher`: the wait for the instruction, `total`: until the student's answer began, in milliseconds |

A caller may set these headers, or the same names below `wst` in the body, a field that is not forwarded
(`extra_body={"wst": {"task": "gsm8k"}}`):

| header of the request | field | meaning |
|---|---|---|
| `WST-Instruct: off` | `instruct` | forward as it stands |
| `WST-Teacher` | `teacher` | one of the server's teachers |
| `WST-Task` | `task` | the kind of question |
| `WST-Unit` | `unit` | who asks |
| `WST-Experiment` | `experiment` | the experiment to take part in |

The student's errors come through as they are; 502 and 504 say that it could not be reached, broke off, refuses the server's key, or was too
slow. A stream that breaks off ends with an event `error` and a broken connection. Nothing is tried again but an instructed request that was
refused as such: retries are the caller's client's.

`/instruct` takes `WST-Teacher` too, and both take `WST-Timeout-Ms`: the milliseconds that the caller leaves for the instruction, where that
is less than `WST_DEADLINE_MS`. Reasons for a passthrough that the teacher gives: `timeout`, `overloaded` (the queue is full, or as long as
the deadline), `teacher_failed`, `teacher_down` (it failed five times in a row and is left alone for a second or longer), `query_too_long`,
`refused_too_long`, `refused_chat_marker`, `refused_role_line`.

### Keys and limits

With `WST_KEYS` every route but `/livez` and `/readyz` asks for a key, `Authorization: Bearer wst_...` or `X-Api-Key`. 401: no valid key; 403: the
key lacks the scope (`instruct`, `proxy` for `/v1/...`, `outcomes`, `experiments`, `metrics`; `admin` opens all). A key may have limits: requests
and tokens a minute, requests at the same time; 429 says in `Retry-After` when to come again, and every reply of a key with limits has
`RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` (seconds). Tokens are a quarter of the body's bytes at first, and what the
student says that they were in the end. Replicas share limits by `WST_STORE`; while that fails each counts for itself. A key with
`on_failure: error` gets 503 with `Retry-After` where others get the raw messages because the teacher failed.

## Metrics of a training run

`metrics.jsonl` holds a line a step. Ours:

| metric | meaning |
|---|---|
| `right_rate` | share of the step's answers that are right, of those that could be judged; where a preference pays the mean win over raw, with consistency the mean agreement |
| `gold_rate` | share right by gold where something else pays; only on questions with a gold |
| `silence_rate` | share of instructions that are empty |
| `ill_formed_rate` | share that the format gate refused |
| `help_rate`, `harm_rate` | share right with the instruction and wrong raw, and the reverse, where raw is asked (`reward.harm_penalty`) |
| `repetition_rate` | mean share of three-word runs that an instruction says again |
| `distinct_rate` | distinct texts over all instructions of the step; a fall to 1 / batch is collapse |
| `failed_rate` | share of student calls that failed or could not be judged |
| `no_answer_rate` | share of answers in which the grader found none |
| `unparsed_rate` | share of answers that the grader found and could not parse |
| `undecided_rate` | share of answers that came and could not be judged: the grader ran over its limits, or the judge or the raw answer failed |

The others are TRL's: `reward`, `reward_std`, `entropy`, `kl`, `clip_ratio/*`, `frac_reward_zero_std`, `completions/*`, `grad_norm`, `learning_rate`, `loss`, `step_time`.

`validation.jsonl`: `step`, `value` (mean reward of the greedy teacher, by which the best is chosen), `right`, `n`, `help_rate`, `harm_rate`; `gold` where something else
than an existing gold pays; with a second judge `second` (its mean win, half of which counts in `value`), `parted` (training stops) and `wins`
(both judges' by question).

## Files of an evaluation

`evaluation.jsonl`: a line an arm and question: `arm`, `id`, `query`, `gold`, `instruction`, `answers`, `extracted`, `score` (null = failed or not judged),
`prompt_tokens`, `completion_tokens`, `error`. `report.html`, `report.md`, `report.json`: headline, frontier, differences, help and harm, learning
curve, tables, the questions helped and harmed most. None of them holds a time: the same answers give the same bytes. `latency_s` in
summary.json has median, 95th percentile and number of the fresh calls by arm.
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
        *((f"trl.{key}", str(lab.trl.get(key, "TRL's")), str(hub.trl.get(key, "TRL's"))) for key in sorted({*lab.trl, *hub.trl})),
        *(
            (f"trl.{key} ({name})", str({**LAB_TRL, **LAB_ALGORITHM[name]}.get(key, "TRL's")), str({**HUB_TRL, **HUB_ALGORITHM[name]}[key]))
            for name in ("rloo", "ppo")
            for key in HUB_ALGORITHM[name]
        ),
        ("ppo.critic_learning_rate", str(lab.ppo.critic_learning_rate), str(hub.ppo.critic_learning_rate)),
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
    text += "\n### A student of the proxy\n\nKeys below `students.NAME`.\n\n" + table(list(setting_docs(ServedStudent)))
    text += "\n### A teacher of the server\n\nKeys below `teachers.NAME`.\n\n" + table(list(setting_docs(TeacherSource)))
    (ROOT / "docs" / "reference.md").write_text(text + ROUTES, encoding="utf-8")


if __name__ == "__main__":
    main()
