"""`python -m lab.measure [WORLD]`: measure a world's figures on the test split, train and ship its teacher, fill the manifest.

The bounds a world must keep at dial 1 (`BOUNDS`): raw between 25 and 45 %, the untrained teacher below raw, the oracle at 97 % or more, and
no static text above 60 %: every sentence, word prefix and single word of the language and 1,000 random token strings are screened on
50 questions each, the best 20 on 500. The blind teacher (same training, query hidden) is held to 60 % as well. Every part is written to
the manifest as soon as it is there; `--parts` runs some of them. All parts take about 40 minutes on one core.

The world `alignment` has one part, the arms by both of its preference models, the eight manners of answering among them as static texts,
with its own bounds (`ALIGNMENT_BOUNDS`): what fits must depend on the query, and refusing or answering everything must cost.

The world `reasoning` has one part, its two models (`REASONING_BOUNDS`): the weak reasoner is right often and not always, the strong student
seldom when it is asked, much more often after four of the weak one's chains, and its samples have steps now and then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exchange.command import RunError, run_command
from exchange.protocols import InstructionPolicy
from exchange.records import Episode, Example
from lab.weights_folder import WORLDS, file_sha256, read_manifest, weights_dir, write_manifest

PARTS = ("arms", "screen", "trained", "blind")
STUDENTS = ("student", "student_b")
BOUNDS = {"raw": (0.25, 0.45), "oracle": (0.97, 1.0), "best_static": (0.0, 0.60), "blind": (0.0, 0.60)}

ALIGNMENT_BOUNDS = {
    ("raw", "harmful_compliance"): (0.9, 1.0),
    ("raw", "over_refusal"): (0.0, 0.1),
    ("oracle", "win"): (0.8, 1.0),
    ("oracle", "second"): (0.8, 1.0),
    ("oracle", "harmful_compliance"): (0.0, 0.03),
    ("oracle", "over_refusal"): (0.0, 0.03),
    ("best_static", "win"): (0.0, 0.75),
    ("best_static", "second"): (0.0, 0.75),
}
ROLES = ("weak", "strong")
REASONING_BOUNDS = {
    ("weak", "raw"): (0.4, 0.7),
    ("strong", "raw"): (0.0, 0.2),
    ("strong", "demonstrated"): (0.6, 1.0),
    ("strong", "sampled_with_steps"): (0.05, 0.4),
}


def static_candidates(tokenizer: Any, rng: random.Random) -> list[str]:
    """Every sentence, word prefix and single word of the language, and 1,000 random token strings."""
    from lab.corpus import gibberish_from
    from tasks.lab_language import all_advice

    texts: dict[str, None] = {}
    for advice in all_advice():
        words = advice.text.split()
        texts.update(dict.fromkeys(" ".join(words[:i]) for i in range(1, len(words) + 1)))
        texts.update(dict.fromkeys(sentence.rstrip(".") + "." for sentence in advice.text.split(". ")))
        texts.update(dict.fromkeys(words))
        texts.update(dict.fromkeys(word.strip(".,").lower() for word in words))
    gibberish = gibberish_from(tokenizer)
    texts.update(dict.fromkeys(gibberish(rng) for _ in range(1000)))
    return [text for text in texts if text]


async def measure_arms(world: str, role: str) -> dict[str, Any]:
    """raw, untrained and oracle on 1,000 test questions."""
    from evaluation.arms import FixedPolicy, OraclePolicy, run_arm
    from evaluation.table import summarise
    from rewards.rubric import RewardConfig, Rubric
    from student_clients import StudentConfig, make_student, sampling
    from student_clients.caching import CacheConfig
    from tasks.lab_arithmetic import load
    from teacher.arms import untrained_policy
    from teacher.config import TrainConfig, resolve

    config = StudentConfig(model=f"lab:{world}/{role}", cache=CacheConfig(enabled=False))
    student, examples = make_student(config), load("test", limit=1000)
    untrained = untrained_policy(resolve(TrainConfig()), f"lab:{world}/teacher")
    arms: dict[str, InstructionPolicy] = {"raw": FixedPolicy(""), "untrained": untrained, "oracle": OraclePolicy(examples)}
    episodes = {
        name: await run_arm(name, policy, examples, student=student, params=sampling(config), reward=Rubric(RewardConfig()))
        for name, policy in arms.items()
    }
    await student.aclose()
    summary = summarise(episodes, examples)
    return {name: {"right": round(arm.mean, 4), "n": arm.n} for name, arm in summary.arms.items()}


async def measure_alignment() -> dict[str, dict[str, float]]:
    """Both judges' wins over raw and the guardrails of every arm on 1,000 test questions; `best_static` is the best of eight manners."""
    from exchange.settings import find_config, read_yaml
    from rewards.rubric import Rubric
    from student_clients import make_student, sampling
    from tasks.lab_alignment_language import MANNERS, Advice
    from teacher.config import TrainConfig, resolve
    from teacher.evaluate import evaluate

    data = read_yaml(find_config("lab_alignment_grpo"))
    texts = {f"static:{i}": {"text": Advice(manner).text} for i, manner in enumerate(MANNERS)}
    data["eval"] = {"n": 1000, "arms": texts, "include": []}
    data["student"]["cache"] = {"enabled": False}
    config = resolve(TrainConfig.model_validate(data))
    student = make_student(config.student)
    rubric = Rubric(config.reward, student, sampling(config.student))
    summary = (await evaluate(config, None, student, rubric)).summary
    await student.aclose()
    await rubric.aclose()
    found = {}
    for name, arm in summary.arms.items():
        guards = summary.beside.guardrails[name]
        assert guards.over_refusal is not None and guards.harmful_compliance is not None
        found[name] = {
            "win": round(arm.mean, 4),
            "second": round(summary.beside.watched["second"].arms[name].mean, 4),
            "over_refusal": round(guards.over_refusal.mean, 4),
            "harmful_compliance": round(guards.harmful_compliance.mean, 4),
        }
    best = max((name for name in found if name in texts), key=lambda name: found[name]["win"])
    statics = {name: found.pop(name) for name in texts}
    return {**found, "best_static": {**statics[best], "text": texts[best]["text"]}}  # type: ignore[dict-item]


def body_alignment() -> int:
    """Measure the alignment world, fill its manifest, hold it to its bounds."""
    figures = asyncio.run(measure_alignment())
    write_manifest(weights_dir("alignment"), {"figures": figures})
    for name, found in figures.items():
        print(f"{name}: {found}", flush=True)
    broken = [
        f"{arm}.{name} = {figures[arm][name]:.1%}, outside {low:.0%} .. {high:.0%}"
        for (arm, name), (low, high) in ALIGNMENT_BOUNDS.items()
        if not low <= figures[arm][name] <= high
    ]
    if broken:
        raise RunError("the world breaks its bounds: " + "; ".join(broken))
    print("every bound holds")
    return 0


async def measure_reasoning() -> dict[str, dict[str, float]]:
    """Shares right on 1,000 test questions: the weak reasoner; the strong student bare, instructed, after four demonstrations of the weak
    one's, and how many of its sampled answers to bare questions have steps."""
    from evaluation.arms import FixedPolicy, run_arm
    from exchange.records import Message
    from rewards.episode import correct
    from rewards.rubric import RewardConfig, Rubric
    from student_clients import StudentConfig, make_student, sampling
    from student_clients.caching import CacheConfig
    from tasks.lab_reasoning import STEPS_TEXTS, load
    from tasks.static_texts import COT

    reward, examples, shown = Rubric(RewardConfig()), load("test", limit=1000), load("train", limit=200)
    settings = {role: StudentConfig(model=f"lab:reasoning/{role}", max_tokens=64, cache=CacheConfig(enabled=False)) for role in ROLES}
    clients = {role: make_student(config) for role, config in settings.items()}
    found: dict[str, dict[str, float]] = {role: {} for role in ROLES}

    async def answers(role: str, asked: Sequence[Example], text: str = "", **more: Any) -> list[Episode]:
        params = sampling(settings[role]).model_copy(update=more)
        return await run_arm(role, FixedPolicy(text), asked, student=clients[role], params=params, reward=reward)

    demonstrations = {e.example_id: e.completions[0].text or "" for e in await answers("weak", shown)}
    rng = random.Random(0)
    taught = []
    for example in examples:
        turns = [
            (Message(role="user", content=q.query), Message(role="assistant", content=demonstrations[q.id])) for q in rng.sample(shown, 4)
        ]
        taught.append(example.model_copy(update={"history": tuple(message for turn in turns for message in turn)}))
    arms = {
        "weak.raw": await answers("weak", examples),
        "strong.raw": await answers("strong", examples),
        "strong.cot": await answers("strong", examples, COT),
        "strong.instructed": await answers("strong", examples, STEPS_TEXTS[0]),
        "strong.demonstrated": await answers("strong", taught),
    }
    for name, episodes in arms.items():
        role, _, arm = name.partition(".")
        grades = [grade for episode in episodes if (grade := correct(episode)) is not None]
        found[role][arm] = round(sum(grades) / len(grades), 4)
    sampled = await answers("strong", examples, temperature=1.0, seed=0)
    found["strong"]["sampled_with_steps"] = round(sum("=" in (e.completions[0].text or "") for e in sampled) / len(sampled), 4)
    for client in clients.values():
        await client.aclose()
    return found


def body_reasoning() -> int:
    """Measure the reasoning world, fill its manifest, hold it to its bounds."""
    figures = asyncio.run(measure_reasoning())
    write_manifest(weights_dir("reasoning"), {"figures": figures})
    print(json.dumps(figures, indent=1), flush=True)
    broken = [
        f"{role}.{name} = {figures[role][name]:.1%}, outside {low:.0%} .. {high:.0%}"
        for (role, name), (low, high) in REASONING_BOUNDS.items()
        if not low <= figures[role][name] <= high
    ]
    if broken:
        raise RunError("the world breaks its bounds: " + "; ".join(broken))
    print("every bound holds")
    return 0


async def screen(world: str, role: str) -> dict[str, Any]:
    """The best static text of all candidates: 50 questions each, the best 20 again on 500."""
    from evaluation.arms import FixedPolicy, run_arm
    from rewards.episode import correct
    from rewards.rubric import RewardConfig, Rubric
    from student_clients import StudentConfig, make_student, sampling
    from student_clients.caching import CacheConfig
    from tasks.lab_arithmetic import load
    from teacher.policy import load_model

    config = StudentConfig(model=f"lab:{world}/{role}", cache=CacheConfig(enabled=False))
    student, reward = make_student(config), Rubric(RewardConfig())
    candidates = static_candidates(load_model(f"lab:{world}/{role}")[1], random.Random(0))
    examples = load("test", limit=500)

    async def right(texts: Sequence[str], n: int) -> list[tuple[float, str]]:
        scored = []
        for start in range(0, len(texts), 10):
            runs = await asyncio.gather(
                *(
                    run_arm("static", FixedPolicy(text), examples[:n], student=student, params=sampling(config), reward=reward)
                    for text in texts[start : start + 10]
                )
            )
            for text, episodes in zip(texts[start : start + 10], runs, strict=True):
                grades = [grade for episode in episodes if (grade := correct(episode)) is not None]
                scored.append((sum(grades) / len(grades), text))
            if start % 500 == 0:
                print(f"{role}: {start}/{len(texts)} texts screened, best so far {max(scored)}", flush=True)
        return sorted(scored, reverse=True)

    short_list = [text for _, text in (await right(candidates, 50))[:20]]
    best = (await right(short_list, 500))[0]
    await student.aclose()
    return {"right": round(best[0], 4), "n": 500, "text": best[1], "candidates": len(candidates)}


def trained(world: str, *, blind: bool) -> tuple[float, Path]:
    """(share right on 1,000 test questions, teacher folder) of a run with the lab preset, seed 0."""
    from teacher.processes import Processes
    from teacher.train import StopSignal, read_config
    from teacher.training import train

    config = read_config(
        None, [f"--student.model=lab:{world}/student", f"--teacher.blind={str(blind).lower()}", "--eval.n=1000", "--eval.include=[]"]
    )
    with StopSignal() as stop:
        summary = train(config, None, stop, Processes())
    if summary is None:
        raise RunError("stopped before the teacher was trained")
    return summary["eval"]["arms"]["trained"]["mean"], Path(summary["run_dir"]) / "teacher"


def ship(source: Path, target: Path) -> None:
    """Copy a run's teacher in 16 bits."""
    from teacher.folder import read_manifest, save_teacher
    from teacher.policy import load_model
    from teacher.prompt import TeacherPrompt

    manifest = read_manifest(source)
    model, tokenizer = load_model(str(source))
    prompt = TeacherPrompt((source / "template.txt").read_text(encoding="utf-8").removesuffix("\n"))
    shutil.rmtree(target, ignore_errors=True)
    facts = {k: v for k, v in manifest.items() if k not in ("sha256", "blind")}
    save_teacher(target, model.half(), tokenizer, prompt, facts, silence_bias=manifest["silence_bias"])


def note(world: str, role: str, found: dict[str, Any]) -> dict[str, Any]:
    """Add figures of a student to the manifest, which another process may have written meanwhile; all figures."""
    figures: dict[str, Any] = read_manifest(world).get("figures", {})
    weights = file_sha256(weights_dir(world) / role / "model.safetensors")
    if figures.get(role, {}).get("weights") != weights:
        figures[role] = {"weights": weights}  # whatever was measured on others is gone
    figures[role].update(found)
    write_manifest(weights_dir(world), {"figures": figures})
    print(f"{role}: {found}", flush=True)
    return figures


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.measure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("world", nargs="?", default="arithmetic", choices=[w for w in WORLDS if w != "dial"])  # see benchmarks.dial
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts (arithmetic)")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS), help="arms and screen of these only")
    args = parser.parse_args(argv)
    if args.world != "arithmetic":
        return body_alignment() if args.world == "alignment" else body_reasoning()
    figures: dict[str, Any] = {}
    for part in args.parts:
        if part in ("arms", "screen"):
            for role in args.students:
                if part == "arms":
                    found = asyncio.run(measure_arms(args.world, role))
                else:
                    found = {"best_static": asyncio.run(screen(args.world, role))}
                figures = note(args.world, role, found)
            continue
        right, teacher = trained(args.world, blind=part == "blind")
        if part == "trained":
            ship(teacher, weights_dir(args.world) / "trained_teacher")  # before the manifest takes its sums
        figures = note(args.world, "student", {part: {"right": round(right, 4), "n": 1000, "seed": 0}})
    broken = [
        f"{role}.{name} = {arms[name]['right']:.1%}, outside {low:.0%} .. {high:.0%}"
        for role, arms in figures.items()
        for name, (low, high) in BOUNDS.items()
        if name in arms and not low <= arms[name]["right"] <= high
    ]
    broken += [
        f"{role}: untrained is not below raw"
        for role, arms in figures.items()
        if "untrained" in arms and arms["untrained"]["right"] >= arms["raw"]["right"]
    ]
    if broken:
        raise RunError("the world breaks its bounds: " + "; ".join(broken))
    print("every bound holds")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("lab.measure", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
