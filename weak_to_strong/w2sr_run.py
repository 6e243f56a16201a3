"""A W2SR run, phase by phase: chains, fine-tuning, ceiling, measurement."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from evaluation.paired import arm_result
from exchange.command import RunError
from exchange.records import Example
from exchange.settings import SettingError
from lab.weights_folder import read_manifest, resolve_model
from student_clients import LAB_MODEL, StudentConfig, sampling
from student_clients.embedded import model_folder
from tasks import answer_type_of
from tasks.static_texts import chain_of_thought
from teacher.algorithms import trl_config
from teacher.estimate import parameters
from weak_to_strong.ceiling import Reinforced, train_config
from weak_to_strong.cost import Cost, asked, ratio
from weak_to_strong.fine_tuning import fine_tune, rows_of
from weak_to_strong.gap import Recovered, recovered
from weak_to_strong.measuring import Asked, answers, grades, measured
from weak_to_strong.misfit_callback import Followed, before_and_after
from weak_to_strong.run import Run
from weak_to_strong.traces import check_usable, chosen, clean, graded, read_traces, save_traces, write_traces
from weak_to_strong.w2sr_config import W2SRConfig

TOKENS_A_LAB_BATCH = 4096
"""Of `lab.pretrain`; what its models were trained on is batches of about so many tokens."""


def parameters_of(settings: StudentConfig) -> int | None:
    """Parameters of an embedded model; None for one that lies elsewhere."""
    return parameters(model_folder(resolve_model(settings.model))) if settings.kind == "embedded" else None


def flops_of_training(config: W2SRConfig) -> float | None:
    """What the weak reasoner's own training took: as set, or of a lab model by its manifest (6 N a token); None where nobody knows."""
    lab = LAB_MODEL.fullmatch(config.weak.model)
    if config.weak_flops is not None or lab is None or config.weak.kind != "embedded":
        return config.weak_flops
    role = read_manifest(lab["world"])["roles"].get(lab["role"])
    return 6.0 * (parameters_of(config.weak) or 0) * role["steps"] * TOKENS_A_LAB_BATCH if role else None


def plan(config: W2SRConfig) -> dict[str, Any]:
    """What the run would ask, for --dry-run."""
    chains = 0 if config.traces.file else config.traces.questions * config.traces.samples
    tuned = config.fine_tune
    found: dict[str, Any] = {
        "weak_calls_at_most": chains + config.eval.n,
        "strong_answers_measured": 4 * config.eval.n,
        "fine_tuning_steps_at_most": -(-(chains or config.traces.questions) // (tuned.batch_size or 1)) * (tuned.epochs or 1),
    }
    if config.ceiling is not None and config.ceiling.run is None:
        resolved = train_config(config, config.ceiling)
        args = trl_config(resolved, Path("/dev/null"))
        found["ceiling_samples_at_most"] = (resolved.max_steps or 0) * args.per_device_train_batch_size * args.gradient_accumulation_steps
    return found


class W2SR:
    """One process's work on a run."""

    def __init__(self, run: Run[W2SRConfig]) -> None:
        self.run = run
        self.config = run.config
        self.train = run.questions("train", self.config.task.train_size)
        self.asked = self.train[: self.config.traces.questions]
        self.validation = run.questions("validation", self.config.task.validation_size)
        self.student = run.path / "student"

    def __call__(self) -> dict[str, Any]:
        run, config = self.run, self.config
        if not run.done("traces"):  # a student that cannot be loaded is found out before the weak one is paid for
            run.client("raw", config.strong.client())
            run.release("raw")
        held = run.once("traces", self._traces)
        run.release()
        run.say(
            f"{held['chains']} chains, {held['right']:.1%} right; kept {held['kept']}, dropped "
            + (", ".join(f"{rule} {count}" for rule, count in held["dropped"].items() if count) or "none")
        )
        tuned = run.once("student", self._tune)
        ceiling, strongest = self._ceiling()
        examples = run.questions("test", config.eval.n)
        arms = self._arms(examples, strongest)
        episodes = answers(run, arms, examples)
        gap = None
        if "ceiling" in episodes:
            triple = (grades(episodes[name]) for name in ("trained", "raw", "ceiling"))
            gap = recovered(*triple, alpha=config.eval.alpha, seed=config.seed)
        cost = self._cost(ceiling)
        curve = [(line["epoch"], line["right"]) for line in tuned["epochs"] if "right" in line]
        _, summary = measured(
            run, arms, examples, title=f"{config.algorithm} on {config.task.name}", teacher=config.weak.model, episodes=episodes,
            more=[traces_table(held, tuned), cost_table(cost, gap)], curve=curve,
        )  # fmt: skip
        if gap is not None:
            run.say(said(gap))
        result = run.finish(
            {
                "variant": config.variant,
                "match_size": config.match_size,
                "traces": {key: value for key, value in held.items() if key != "cost"},
                "fine_tune": {key: value for key, value in tuned.items() if key != "cost"},
                "student_folder": str(self.student),
                "ceiling": {key: value for key, value in ceiling.items() if key != "cost"} if ceiling else None,
                "rgr": gap.model_dump() if gap is not None else None,
                "cost": cost,
                "eval": summary.model_dump(mode="json"),
            }
        )
        print(f"student: {self.student}   report: {run.path / 'report.html'}")
        return result

    def _traces(self) -> dict[str, Any]:
        """Write traces.jsonl: every chain, with its grade."""
        run, config = self.run, self.config
        if config.traces.file is not None:
            traces = asyncio.run(graded(read_traces(config.traces.file, "traces.file"), self.asked))
            cost = Cost()
        else:
            client = run.client("weak", config.weak)
            traces = asyncio.run(
                write_traces(
                    self.asked, client=client, params=sampling(config.weak), instruction=config.traces.instruction,
                    samples=config.traces.samples,
                )
            )  # fmt: skip
            cost = asked(
                parameters_of(config.weak), calls=len(traces), prompt_tokens=sum(t.prompt_tokens for t in traces),
                completion_tokens=sum(t.n_tokens for t in traces),
            )  # fmt: skip
        save_traces(run.path / "traces.jsonl", traces)
        if all(trace.completion is None for trace in traces):  # no phase that is done: a resumed run asks again
            raise RunError(f"traces: not one of {len(traces)} chains came, every call failed; mend that and go on with --resume={run.path}")
        kept, dropped = clean(traces, {example.id: example.query for example in self.asked}, config.hygiene)
        known = [t.is_correct for t in traces if t.is_correct is not None]
        interval = arm_result([float(value) for value in known], alpha=config.eval.alpha) if known else None
        return {
            "questions": len(self.asked),
            "chains": len(traces),
            "right": round(interval.mean, 4) if interval else 0.0,
            "right_low": round(interval.low, 4) if interval else 0.0,
            "right_high": round(interval.high, 4) if interval else 0.0,
            "kept": len(kept),
            "dropped": dropped,
            "first_and_last_differ": sum(t.first_and_last_differ for t in kept),
            "cost": cost.model_dump(),
        }

    def _tune(self) -> dict[str, Any]:
        run, config = self.run, self.config
        traces = read_traces(run.path / "traces.jsonl", "traces")
        kept, dropped = clean(traces, {example.id: example.query for example in self.asked}, config.hygiene)
        taken, sizes = chosen(
            kept, config.variant, match_size=config.match_size, keep=config.keep, rng=random.Random(f"{config.seed}/{config.variant}")
        )
        check_usable(traces, kept, dropped, taken, config.variant, run.path / "traces.jsonl")
        by_id: dict[str, Example] = {example.id: example for example in self.asked}
        weak, learnt = (rows_of([(by_id[t.example_id], t.completion or "") for t in chains]) for chains in (kept, taken))
        followed = Followed(run.directory, "student", config.strong.model, weak)
        tuned = fine_tune(
            config.strong.model, learnt, config.fine_tune, config.strong, seed=config.seed, out=self.student,
            work=run.path / "checkpoints" / "student", say=run.say, callbacks=[followed.callback],
            watched=self.validation[: config.fine_tune.watch],
        )  # fmt: skip
        facts = {"variants": sizes, "taken_right": round(sum(bool(t.is_correct) for t in taken) / len(taken), 4)}
        return {**facts, **tuned, "misfit": followed.steps()}

    def _ceiling(self) -> tuple[dict[str, Any] | None, Path | None]:
        """(what the ceiling's training was, the folder of its student)."""
        settings = self.config.ceiling
        if settings is None:
            return None, None
        if settings.run is None:
            found = self.run.once("ceiling", lambda: Reinforced(self.run, settings, self.train, self.validation)())
            folder = self.run.path / "ceiling" / "student"
        else:
            folder = Path(settings.run) / "ceiling" / "student"
            path = Path(settings.run) / "phases" / "ceiling.json"
            if not (path.exists() and folder.is_dir()):
                raise SettingError(f"ceiling.run={settings.run!r}: holds no finished ceiling (phases/ceiling.json, ceiling/student)")
            found = json.loads(path.read_text(encoding="utf-8"))
        if not found["plateau"]:
            self.run.say(f"the ceiling ended at its last step ({found['steps']}), no plateau: RGR is too high; raise ceiling.max_steps")
        return found, folder

    def _arms(self, examples: list[Example], ceiling: Path | None) -> dict[str, Asked]:
        config = self.config
        strong = config.strong.client()
        arms = {"raw": Asked("raw", strong, about="the untrained student")}
        for name, text in chain_of_thought(answer_type_of(examples[0].task)).items():
            arms[name] = Asked("raw", strong, text, "the untrained student under a chain-of-thought prompt")
        arms["weak"] = Asked("weak", config.weak, config.traces.instruction, "who wrote the chains")
        for name, folder, about in (("trained", self.student, "fine-tuned on the chains"), ("ceiling", ceiling, "the student after GRPO")):
            if folder is not None:
                arms[name] = Asked(name, config.strong.client(folder), about=about)
        return arms

    def _cost(self, ceiling: dict[str, Any] | None) -> dict[str, Any]:
        """What learning took, and how many times that the ceiling took; measuring is left out."""
        tuning, chains = self.run.cost("student"), self.run.cost("traces")
        parts = {"training": tuning + chains, "fine_tuning": tuning, "traces": chains}
        found: dict[str, Any] = {name: part.model_dump() for name, part in parts.items()}
        if ceiling is None:
            return found
        dear = Cost(**ceiling["cost"])
        found |= {"ceiling": dear.model_dump(), "ratio": ratio(dear, tuning + chains), "ratio_without_traces": ratio(dear, tuning)}
        weak = flops_of_training(self.config)
        if weak is not None:
            found["weak_training_flops"] = weak
            found["ratio_with_weak_training"] = {"flops": round(dear.flops / (tuning.flops + chains.flops + weak), 2)}
        return found


def said(gap: Recovered) -> str:
    if gap.value is None:
        return f"RGR: none, the ceiling ({gap.ceiling:.1%}) is not above the untrained student ({gap.floor:.1%})"
    interval = f" ({gap.low:.3f} to {gap.high:.3f})" if gap.low is not None and gap.high is not None else ""
    return f"RGR {gap.value:.3f}{interval}: from {gap.floor:.1%} to {gap.x:.1%}, where GRPO reaches {gap.ceiling:.1%}"


def traces_table(held: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """Where the chains went, for the report."""
    rows = [["written", held["chains"]], ["right", f"{held['right']:.1%} ({held['right_low']:.1%} to {held['right_high']:.1%})"]]
    rows += [[f"dropped: {rule}", count] for rule, count in held["dropped"].items() if count]
    rows += [["kept", held["kept"]], *([f"variant {name}", count] for name, count in tuned["variants"].items())]
    rows += [["too long for the context", tuned["too_long"]], ["learnt from", tuned["rows"]]]
    rows += [["misfit against the chains kept, nats a token, before and after", before_and_after(tuned)]]
    rows += [["name two different answers (last one counts)", held["first_and_last_differ"]]]
    for line in tuned["epochs"]:
        if "right" in line:
            shown = f"right {line['right']:.1%}, stops {line['stop_rate']:.1%}, cut {line['truncation_rate']:.1%}"
            rows.append([f"epoch {line['epoch']}", shown])
    return {"title": "Chains", "note": "", "head": ["", ""], "rows": rows}


def cost_table(cost: dict[str, Any], gap: Recovered | None) -> dict[str, Any]:
    """RGR and what it took, for the report."""
    rows = [[name.replace("_", " "), cost[name]["tokens"] if "tokens" in cost[name] else _tokens(cost[name]), f"{cost[name]['flops']:.3g}",
             f"{cost[name]['cpu_s']:.0f}"] for name in ("traces", "fine_tuning", "ceiling") if name in cost]  # fmt: skip
    for name in ("ratio", "ratio_without_traces", "ratio_with_weak_training"):
        if name in cost:
            found = cost[name]
            rows.append([name.replace("_", " "), *(found.get(key) or "–" for key in ("tokens", "flops", "cpu_s"))])
    note = said(gap) + "." if gap is not None else "Without --ceiling there is no RGR and no ratio."
    return {"title": "Cost", "note": note, "head": ["", "tokens", "FLOPs", "CPU seconds"], "rows": rows}


def _tokens(cost: dict[str, Any]) -> int:
    return Cost(**cost).tokens
