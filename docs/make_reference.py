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
from weak_to_strong.direct import DirectConfig  # noqa: E402
from weak_to_strong.misfit import MisfitConfig  # noqa: E402
from weak_to_strong.two_stage_config import TwoStageConfig  # noqa: E402
from weak_to_strong.w2sr_config import W2SRConfig  # noqa: E402

HEAD = """# Reference

The tables of settings are written by `python docs/make_reference.py` from the code.

## Commands

| command | does |
|---|---|
| `python -m teacher.train [CONFIG.yaml] [--a.b=value ...]` | trains a teacher; no config = the lab world. `--dry-run` prints the resolved config and what the run would cost: calls, tokens, dollars, hours under the rate limits, memory; `--resume` goes on with the newest unfinished run with the same settings, `--resume=RUN_DIR` with that one, whose budgets, pacing, timeout, cache and optional arms may then be given anew |
| `python -m teacher.probe [CONFIG.yaml] [--samples N] [--a.b=value ...]` | before spending: how far instructions move the student, the gain within reach with its interval, and whether to train, for at most a twentieth of the run's calls; `probe.json` in a run directory; `--dry-run` |
| `python -m teacher.evaluate [CONFIG.yaml \\| RUN_DIR] [--a.b=value ...]` | measures the arms on held-out questions; on a run directory it replaces the `eval` block of its summary.json and takes only `eval`, `budget`, `student.pacing`, `student.timeout_s` and `student.cache`; no argument = the teacher the server would take; `--dry-run` as above |
| `python -m teacher.ab PROMPTS.jsonl [--teacher DIR] [--a.b=value ...]` | raw against taught on a file of prompts, paired and graded, no server needed; `--task.own.query`, `--task.own.answer`, `--task.own.answer_type` say how its rows are read; student, reward and budget are the teacher's run's unless set |
| `python -m teacher.compare RUN RUN ... [--arm trained] [--alpha 0.05] [--json]` | evaluated directories beside each other: paired where the questions are the same, over seeds, one teacher over students and tasks |
| `python -m teacher.collect LOG.jsonl ... --out FOLDER [--metric M] [--good X] [--lower-is-better]` | a service's log into the next teacher's data: `train.jsonl` and `test.jsonl` for task `own`, `instructions.jsonl` for `teacher.warm_start.file`, `held_out.jsonl`; says what is missing. `--help` shows the lines it reads |
| `python -m weak_to_strong.w2sr [CONFIG.yaml] [--a.b=value ...]` | fine-tunes a strong student on a weak reasoner's chains (`--variant=all\\|positive\\|negative`, `--match-size`), beside the untrained student, its chain-of-thought prompts, the weak reasoner and with `--ceiling` the student after GRPO; RGR and cost ratio; `--dry-run`, `--resume[=RUN_DIR]` |
| `python -m weak_to_strong.direct [CONFIG.yaml] [--a.b=value ...]` | direct RL, a teacher's control: GRPO of its base model (`--strong.model=...`) on its own right answers, until validation no longer gains; the run is an arm of `teacher.evaluate` (`--eval.arms.direct=...`, printed at its end); `--dry-run`, `--resume` |
| `python -m weak_to_strong.two_stage [CONFIG.yaml] [--a.b=value ...]` | two-stage weak-to-strong reasoning without golds: fine-tunes a strong student on what the weak model's answers and its own agree on (`--stage_one.rounds=N`), then on preferences (`--preference.algorithm=dpo\\|orpo`); beside full weak and gold fine-tuning; `--dry-run`, `--resume` |
| `python -m weak_to_strong.misfit --arrays F.npz ... [--json]` or `--data F.jsonl --model M` | gain, misfit and slack of a student that imitates weak labels, and whether the inequality is a theorem there; several files are weak teachers and are ranked; `--out FOLDER` keeps report, plot and features; `--dry-run` |
| `python -m benchmarks.two_stage [--only PART] [--seeds ...]` | both stages on the lab's reasoning world over seeds, and with a systematic weak error; writes `benchmarks/results/two_stage.json` |
| `python -m benchmarks.misfit [--only PART]` | misfit on random worlds and HH-RLHF pairs; writes `benchmarks/results/misfit.json` and its plots |
| `python -m weak_to_strong.compare RUN RUN ... [--json]` | the prompt teacher, W2SR, two-stage and direct GRPO beside each other on one task: accuracy, paired differences, calls, tokens, seconds |
| `python -m rewards.grade --task T [--strict] FILE.jsonl` | grades lines `{"gold", "output"}` (`-` = stdin): the same lines with `"correct"` and `"extracted"`, totals on stderr |
| `python -m rewards.train_preference (--base MODEL \\| --scratch) --out DIR [--pairs hh_rlhf \\| FILE.jsonl] [--half 0 \\| 1] [--seed] [--epochs] [--learning-rate] [--batch-size] [--max-tokens] [--limit] [--hidden] [--layers] [--vocabulary]` | trains a reward model on preference pairs and reports its held-out accuracy with an interval, in `DIR/preference.json` too |
| `python -m evaluation.analyze LOG.jsonl [--control A] [--alpha 0.05] [--planned-n N] [--weights arm=w,...] [--lower-is-better M,...] [--json]` | analyses an online A/B test from its log of exposures and outcomes |
| `python -m evaluation.plan --effect E (--baseline R \\| --sd S) [--arms ...] [--control A] [--alpha] [--power] [--metrics] [--daily-units] [--events-per-unit] [--icc] [--covariate-correlation] [--json]` | how many units an A/B test needs |
| `python -m evaluation.export EVENTS.db (--experiment ID \\| --texts) [--tenant T]` | lines out of a server's event log: an experiment's exposures and outcomes for `evaluation.analyze`, or captured texts with their outcomes for `teacher.collect` |
| `python -m benchmarks.online_ab [--users N] [--kills K] [--no-save]` | online A/B tests end to end on a running server with Redis, killed in the middle; writes `benchmarks/results/online_ab.json` |
| `python -m benchmarks.matrix [--methods wst w2sr] [--weak ...] [--strong ...] [--seeds ...] [--cells N] [--share S] [--folder F]` | teachers and students of four families, and teachers moved to unseen students; writes `benchmarks/results/matrix.json` and docs/evidence.md |
| `python -m benchmarks.self_improvement [--seeds ...] [--rounds N] [--folder F]` | two rounds of a teacher that learns from its own service's log, each next one an arm against its predecessor; writes `benchmarks/results/self_improvement.json` and docs/evidence.md |
| `python -m benchmarks.engine [--teacher DIR] [--vllm URL --model NAME] [--half-billion] [--queries N] [--samples N] [--no-save]` | the micro-batcher against plain batches, the lanes against vLLM itself, what an instruction adds to the first token; writes `benchmarks/results/engine.json` |
| `python -m benchmarks.faults [--seconds S] [--requests N] [--clients N] [--no-save]` | Redis and teacher broken in each way, overload, vanishing clients; writes `benchmarks/results/faults.json` |
| `python -m benchmarks.fuzz [--cases N] [--first-round N] [--resume] [--no-save]` | schemathesis and hypothesis against the server; exit 1 at a 5xx or an answer outside of the schema; writes `benchmarks/results/fuzz.json` |
| `python -m benchmarks.injection [--prompts N] [--no-save]` | how much of an injected text passes the guard as advice; writes `benchmarks/results/injection.json` |
| `python -m benchmarks.proxy_peers [--seconds S] [--venv DIR] [--no-save]` | our proxy beside LiteLLM's, which gets an environment of its own; writes `benchmarks/results/proxy_peers.json` |
| `python -m benchmarks.soak [--requests N] [--minutes M] [--resume] [--no-save]` | memory, descriptors and tasks over a million requests; writes `benchmarks/results/soak.json` |
| `python -m benchmarks.nothing_lost [--events N] [--kills K] [--redis-kills R] [--no-save]` | acknowledged events through kills of server and Redis; writes `benchmarks/results/nothing_lost.json` |
| `python -m benchmarks.restarts [--restarts N] [--reloads N] [--resume] [--no-save]` | rolling restarts and hot reloads under load; writes `benchmarks/results/restarts.json` |
| `python -m benchmarks.sequential [--only PART]` | simulations of the A/B statistics; writes `benchmarks/results/sequential.json` |
| `python -m server [--config FILE] [--host] [--port] [--teacher] [--check]` | serves `/instruct` and the proxy; `--check` validates settings and teacher and ends |
| `python -m server.keys [--keys FILE] create --tenant T \\| list \\| rotate ID \\| revoke ID` | the server's API keys: `create` and `rotate` print a key once; a running server takes changes within a second |
| `python -m lab.pretrain [WORLD] [--roles ROLE ...]` | remakes a lab world's tokenizer and base weights: `arithmetic`, `alignment` with its preference models, or `reasoning` |
| `python -m lab.serve [WORLD] [ROLE] [--port] [--delay-s] [--fault-rate]` | serves a lab model by the OpenAI protocol at 127.0.0.1, as slow and as faulty as asked for: for trials over HTTP |
| `python -m lab.measure [WORLD]` | measures a lab world's figures on the test split, trains and ships its teacher, fills the manifest |
| `python -m benchmarks.slow_student [--delays S,S,…]` | seconds a step with a student that answers late, with and without `rollout_ahead`; writes `benchmarks/results/slow_student.json` |
| `python -m benchmarks.calls_to_target [--sweep ours\\|plain\\|all]` | student calls until validation reaches 0.90 x oracle, ours and plain TRL GRPO, each at the best of a sweep; writes `benchmarks/results/calls_to_target.json` |
| `python -m benchmarks.strong_instructor [--folder DIR] [--seconds S]` | a student-sized teacher that states answers: untrained, and after RL with the leakage gate and without it; writes `benchmarks/results/strong_instructor.json` and its table in evidence.md |
| `python -m benchmarks.real_shape [--shape S] [--batch N] [--group N]` | tokens a second, memory and parts of a training step at the shape of a real teacher, random weights; writes `benchmarks/results/real_shape.json` |
| `python -m benchmarks.faulty_student [--jobs N]` | the lab run over HTTP, clean and with 30 % of all requests failing; writes `benchmarks/results/faulty_student.json` |
| `python -m benchmarks.service_overhead [--seconds S] [--rounds N] [--plain] [--no-save]` | the server's own cost with a real Redis, beside a no-op app; writes `benchmarks/results/service_overhead.json` |
| `python -m benchmarks.w2sr [--only PART] [--seeds S ...] [--folder DIR]` | what W2SR's student learns from, on the lab's reasoning world: variants, structure against accuracy, weak reasoners of several sizes; writes `benchmarks/results/w2sr.json` |
| `python -m benchmarks.methods [--seeds S ...] [--folder DIR]` | prompt teacher, W2SR, two-stage and direct GRPO on the lab's reasoning world, counted alike by `weak_to_strong.compare`; writes `benchmarks/results/methods.json` and its table in results.md |
| `python -m benchmarks.recorded_chains [--only TASK] [--vllm PYTHON] [--folder DIR]` | W2SR and two-stage on GSM8K, `choice` and `knights_knaves`, weak answers from a recording, every other model served by vLLM from its folder; writes `benchmarks/results/recorded_chains.json` |
| `python -m benchmarks.gsm8k_chains --out DIR [--writer NAME]` | four models' labelled GSM8K solutions as a recording for `weak.replay`, the questions split in two |
| `python -m benchmarks.alignment [--seeds N ...]` | the alignment world by both judges, with and without a charge for harm; writes `benchmarks/results/alignment.json` and its table in results.md |
| `python -m benchmarks.offline [--only PART ...] [--n N]` | the shipped teacher over students x tasks, and raw against raw again with a sampling student; writes `benchmarks/results/offline.json` |
| `python -m benchmarks.label_free [--only NAME ...]` | rewards without golds, each measured by gold on the lab world; writes `benchmarks/results/label_free.json` and its table in results.md |
| `python -m benchmarks.resume [--kills N] [--kills-a-run K] [--seconds S] [--no-save]` | kill -9 at random moments, resumed each time: weights, metrics and account against the unbroken run; writes `benchmarks/results/resume.json` |
| `python -m benchmarks.paper [--student openai \\| vllm \\| tiny] [--only NAME ...] [--seeds N ...] [--instructor MODEL] [--gpus N] [--dry-run] [-- --a.b=value ...]` | the source's claims on MATH-500, GSM8K and HH-RLHF, tried on your models; writes `benchmarks/results/paper.json` and its table in results.md; `tiny` runs the kit on the lab's models |
| `python -m benchmarks.dial [--cells KIND ...] [--worlds NAME ...] [--seconds S] [--jobs N] [--predict]` | gain predicted by the probe before training against realised gain, and every rival, over lab worlds; writes `benchmarks/results/dial.json`, the figures and the tables of evidence.md |
| `python -m benchmarks.lab_m [--size small\\|full] [--device cpu\\|cuda] [--folder DIR] [--seconds S] [--report]` | a middle world in prose with a BPE vocabulary and real training text, from tokenizer to arms, on torch and transformers alone; `--report` writes `benchmarks/results/lab_m.json` and its table in evidence.md |
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
| `POST /outcomes/batch` | `{"items": [...]}`, up to 1,000, each as for `/outcomes`; each is taken or refused by itself: `{"status", "outcome", "error"}` |
| `POST /v1/chat/completions` | OpenAI's chat completions: the last user turn gets an instruction, the rest is forwarded as it stands; streams |
| `POST /v1/responses` | OpenAI's responses, likewise |
| `GET /v1/models`, `GET /v1/models/{name:path}` | the students that the proxy forwards to |
| `DELETE /units/{unit:path}` | erases what is kept of a unit, on every replica: texts, shadows, exposures, outcomes; scope `admin` |
| `GET /modes`, `GET /modes/{key}`, `PUT /modes/{key}` | how keys are served (below); `default` is the one of a server without keys; scope `admin` |
| `GET /modes/{key}/shadow` | what the teacher wrote in a key's shadow, as JSON lines |
| `GET /teachers`, `POST /teachers/{name}/reload` | who writes; `{"run": NAME}` loads that run's teacher (null: as configured) beside the old one and swaps them, 409 where it cannot be loaded and the old one serves on; every replica follows; scope `admin` |
| `PUT /teachers/{name}`, `DELETE /teachers/{name}` | `{"run": NAME, "temperature": 0}` has that run's teacher serve under a further name, so that an arm may be it (201; the same again 200; 409 where it cannot be loaded or another has the name), over restarts too, until it is deleted; above temperature 0 its instructions are drawn, without its bias towards silence, and not cached; every replica follows; scope `admin` |
| `POST /teachers/{name}/rollback` | puts back the teacher that served under the name before, from where it came; 409 where there is none since the start; every replica follows; scope `admin` |
| `GET /livez` | 200 while the process lives |
| `GET /readyz` | 200 with the teacher's id and sum; the port answers only once the teacher is loaded. 503 from SIGTERM on, `WST_DRAIN_DELAY_S` before the listener closes |
| `GET /metrics` | for Prometheus (below); scope `metrics` |
| `GET /docs` | the OpenAPI page |
| `GET /` | the [console](console.md); a browser without a key is sent to the log-in |

Pages of the console, for people; `POST` is what their forms send, refused from pages of other sites:

| page | shows and does | scope |
|---|---|---|
| `/ui/login`, `/ui/logout`, `/ui/static` | a key into a session and out of it; styles and scripts | none |
| `/ui/playground`, `/ui/playground/answer` | `POST /instruct`, and the proxy for each answer | `instruct`, answers `proxy` |
| `/ui/traffic`, `/ui/traffic/now` | what `/metrics` said in the last minutes | `metrics` |
| `/ui/traffic/modes/{key}` | `PUT /modes/{key}` | `admin` |
| `/ui/teachers`, `/ui/teachers/{name}/load`, `/ui/teachers/{name}/rollback` | `/teachers` | `admin` |
| `/ui/experiments`, `/ui/experiments/{name}`, `/ui/experiments/{name}/live`, `/ui/experiments/{name}/report`, `/ui/experiments/{name}/ramp`, `/ui/experiments/{name}/stop` | `/experiments` | `experiments` |
| `/ui/runs`, `/ui/runs/{name}`, `/ui/runs/{name}/report.html` | the run directories | `admin` |

Fields of the request: `query` (required), `system`, `history`, `task`, `student`; for experiments `unit` (who asks; none = every request is
a unit of its own), `experiment` (its id), `covariate` (a number known of the unit before), `force_arm` (for a look by hand). `source` in the answer says where the
instruction comes from: `teacher`, `cache`, `static`, `silence`, or `passthrough`, whose reason stands in the header `WST-Degraded`.

An experiment: `id`; `arms`, each `name`, `weight` and one of `"teacher": sha256 or id`, `"text": …`, `"raw": true`; `control`; `metric` and
further `metrics`, each a name (any number) or `{"name", "kind": "binary|bounded|real", "low", "high", "lower_is_better"}`; `guardrails`, each
`{"metric", "margin", "higher_is_worse", "alpha"}`; `planned_n`, `alpha`, `enrolled`, `layer` with `layer_slice`, `attribution_window_s`,
`hypothesis`. A guardrail's
metric is one that the service measures (`fallback`, `latency_ms`, `injection`) or one that outcomes are reported of. An arm that is surely
worse than the control by more than `margin` is stopped: its units get the control's treatment, and with no arm left the experiment ends.

An outcome: `request_id`, or `unit` and `experiment`; `metric`; `value`; `idempotency_key` (also the header `Idempotency-Key`); `time`, when it
happened (none = now): past the experiment's `attribution_window_s` since the request, or a unit's first one, it is refused. One value a
request (or unit) and metric counts, several need a key each. Sent again it is `"duplicate": true`; with another value, 409. 404: what it is
about was not served here. 422: not a metric of the experiment, or out of its range. 503: the event log fails, send it again.

A key's budget: `tokens_per_day` and `dollars_per_day` (`python -m server.keys create --dollars-per-day 5`), by days of UTC. Dollars are of
students with a `price`, reserved at a request's highest price and settled by its usage. Past it a key with `on_failure: error` gets 429 with
`Retry-After`, others the raw messages (`over_budget`; where the account cannot be asked, `budget_unknown`), which still cost and are booked.

### Modes

`PUT /modes/KEY` `{"mode": "off|shadow|canary|on"}`; replicas follow within a second.

| mode | serves |
|---|---|
| `off` | the raw messages (`mode_off`); the teacher is not asked |
| `shadow` | the raw messages at once (`mode_shadow`); what the teacher would have written is logged, without the query |
| `canary` | instructions to the share of units that the step says (`steps`, `step_s`, `step_units`), the others raw (`canary`); a broken guardrail switches it off, the last step switches it on (`promote`) |
| `on` | instructions to all units but the `holdback` (0.05), which stays raw |

A key whose mode nobody set is `on` without a holdback. Further fields: `metric` (what outcomes report, default the binary `success`),
`guardrails`, `planned_n`, `alpha`. Canary and on are experiments (`experiment` in the reply): their exposures, outcomes and report are like
any other's. `benefit` says that the holdback's interval lay above 0; `alarm`, that it reaches 0 after that, lies below it, or still holds 0 with
`planned_n` units. Another `model` or `system_fingerprint` in the student's answers, or another teacher, begins a new measurement.

### Metrics

| metric | labels | is |
|---|---|---|
| `wst_requests_total` | route, status | requests |
| `wst_overhead_seconds` | route | a request's whole time less the teacher's and the student's (not of batches) |
| `wst_teacher_seconds` | | the wait for the teacher, its queue included |
| `wst_student_seconds` | | from a forwarded request to the end of its answer |
| `wst_instructions_total` | source | conversations, by `source` |
| `wst_degraded_total` | reason | those that went out raw, by the reason in `WST-Degraded` |
| `wst_arm_requests_total` | tenant, experiment, arm | exposures; past 200 arms `other` |
| `wst_student_tokens_total` | student, kind | tokens, `prompt` and `completion` |
| `wst_teacher_queued`, `wst_teacher_down` | | requests that no teacher has begun with; teachers left alone after failures |
| `wst_cache_hits_total`, `wst_cache_misses_total` | | of the instruction cache |
| `wst_store_left_alone`, `wst_store_owed` | | whether the shared store is left alone after a failure; what it has still to be told |
| `wst_events_behind` | | 1 while the event log does not reach Redis |
| `wst_shadows_left_out_total` | | shadows not written because too many were |
| `wst_holdback_alarms` | | keys whose holdback shows no benefit any more |
| `wst_draining` | | 1 from the signal to end on |

Each worker and replica is scraped by itself. `WST_LOG_FORMAT=json` writes a line a request as an object: `request_id`, `method`, `path`, `status`,
`ms`, `overhead_ms`, `key`, `source`, `degraded`. No metric and no line holds a body.

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

With `WST_KEYS` every route but `/livez`, `/readyz` and the console's log-in, log-out and static files asks for a key, `Authorization: Bearer wst_...` or `X-Api-Key`; on the console a browser's cookie, which opens nothing else. 401: no valid key; 403: the
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
| `rollout_age` | updates between the writing of a batch and its learning, where `rollout_ahead` > 0 |
| `failed_rate` | share of student calls that failed or could not be judged |
| `no_answer_rate` | share of answers in which the grader found none |
| `unparsed_rate` | share of answers that the grader found and could not parse |
| `undecided_rate` | share of answers that came and could not be judged: the grader ran over its limits, or the judge or the raw answer failed |

The others are TRL's: `reward`, `reward_std`, `entropy`, `kl`, `clip_ratio/*`, `frac_reward_zero_std`, `completions/*`, `grad_norm`, `learning_rate`, `loss`, `step_time`.

`validation.jsonl`: `step`, `value` (mean reward of the greedy teacher, by which the best is chosen), `right`, `n`, `help_rate`, `harm_rate`, `calls` and `requests` of the run so far (requests: with those that a cache answered); `gold` where something else
than an existing gold pays; with a second judge `second` (its mean win, half of which counts in `value`), `parted` (training stops) and `wins`
(both judges' by question).

## Files of a sister method

A run directory as `teacher.train`'s, and `phases/NAME.json` a phase (its result and `cost`: calls, tokens, FLOPs, seconds), `traces.jsonl` (a line a
chain: `example_id`, `sample_index`, `completion`, `finish_reason`, `is_correct`, `extracted`, `first_and_last_differ`, `n_tokens`,
`prompt_tokens`, `teacher`, `temperature`, `seed`), `student/` (the trained model), `ceiling/` (with `metrics.jsonl`, `validation.jsonl` and
`student/`). summary.json holds beside `eval`: `traces` (right, kept, `dropped` by rule), `fine_tune` (rows, `epochs` with `stop_rate` and
`truncation_rate`), `ceiling` (`plateau`: whether it was reached), `rgr`, `cost` with the ratios. Rules of the hygiene filter: `failed`,
`empty`, `truncated`, `loop`, `foreign`, `unanswered`, `unjudged`, `duplicate`.

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
    text += "\n## Settings of W2SR\n\nOf `weak_to_strong.w2sr`; what `weak` takes is what `student` takes above.\n\n" + table(
        list(setting_docs(W2SRConfig))
    )
    text += "\n## Settings of two-stage\n\nOf `weak_to_strong.two_stage`.\n\n" + table(list(setting_docs(TwoStageConfig)))
    text += "\n## Settings of direct RL\n\nOf `weak_to_strong.direct`.\n\n" + table(list(setting_docs(DirectConfig)))
    text += "\n## Settings of misfit\n\nOf `weak_to_strong.misfit`.\n\n" + table(list(setting_docs(MisfitConfig)))
    text += "\n## Settings of the server\n\nVariables `WST_<NAME>`, some also flags.\n\n"
    text += table([(f"WST_{name.upper()}", default, doc) for name, default, doc in setting_docs(ServerSettings)])
    text += "\n### A student of the proxy\n\nKeys below `students.NAME`.\n\n" + table(list(setting_docs(ServedStudent)))
    text += "\n### A teacher of the server\n\nKeys below `teachers.NAME`.\n\n" + table(list(setting_docs(TeacherSource)))
    (ROOT / "docs" / "reference.md").write_text(text + ROUTES, encoding="utf-8")


if __name__ == "__main__":
    main()
