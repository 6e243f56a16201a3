"""`python -m benchmarks.lab_m [--size small|full] [--device cpu|cuda] [--seconds S]`: lab-m, a middle world in prose.

A student with a BPE vocabulary reads thousands of prose templates and real GSM8K and MATH training text; small teachers learn to
instruct it; all arms answer held-out template questions and real GSM8K test questions. `full` (student 23M, teacher 2.9M parameters) is
for one large GPU and begins from nothing; `small` (0.9M, 0.3M) is for the background of a CPU, and its student goes on from the
arithmetic world's.

It needs torch and transformers alone, and of the checkout `lab/`, `benchmarks/` and `exchange/templates/advice.txt`: a machine with a large
GPU seldom has this project's environment. Hence a training loop of its own (`lab.prose_teacher`); tests hold its composer and grader to the
project's. Everything is kept under `--folder` and goes on after a kill. `--report`, in the project's environment, grades the kept
answers with the project's grader, adds intervals and writes `benchmarks/results/lab_m.json` and its table in evidence.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import prose_corpus, prose_world
from lab.prose_models import COMPLETE, Shape, load_folder, pretrain
from lab.prose_teacher import Learning, Student, instruct, right, train
from lab.prose_world import Row

NAME = "lab_m"
SEEDS = (0, 1, 2)
FIELDS = {"ids": "id", "queries": "query", "families": "family", "golds": "gold"}
COT = "Let's think step by step."


@dataclass(frozen=True)
class Size:
    """Everything that a size decides."""

    vocabulary: int
    student: Shape
    teacher: Shape
    learning: Learning
    first_words: int
    """Chunks of documents in which the student reads its authors alone."""
    real: float
    """Share of GSM8K and MATH in the student's documents."""
    tested: int
    """Template questions of the test split."""
    searched: int
    """Training questions on which the best text for all is chosen."""
    real_tested: int | None
    """GSM8K's first test questions that are asked; None = all 1,319."""
    answer_tokens: int
    """Longest answer to one of them."""
    batch: int
    """Answers at a time."""


SIZES: dict[str, Size] = {
    "small": Size(
        vocabulary=2048,
        # A CPU has no hours: it goes on from the arithmetic world's student, at 0.6 of that one's rate, as the dial's student does at 0.4.
        student=Shape(128, 3, 352, 1, 1.5e-3, steps=1400, tokens_a_batch=4096, documents_a_chunk=2048, begins_with="arithmetic/student"),
        teacher=Shape(64, 3, 160, seed=3, lr=3e-3, steps=800, tokens_a_batch=4096, documents_a_chunk=2048),
        learning=Learning(400, 12, 8, 2e-3, steps=30, batch=96, group=6, lr=4e-4, every=10, validation=128),
        first_words=0, real=0.06, tested=300, searched=40, real_tested=200, answer_tokens=80, batch=64,
    ),
    "full": Size(
        vocabulary=8192,
        student=Shape(448, 8, 1216, seed=1, lr=1.5e-3, steps=6000, tokens_a_batch=32768, documents_a_chunk=16384),
        teacher=Shape(192, 3, 512, seed=3, lr=2e-3, steps=1000, tokens_a_batch=16384, documents_a_chunk=8192),
        learning=Learning(1000, 24, 8, 1e-3, steps=50, batch=384, group=12, lr=2e-4, every=10, validation=300),
        first_words=10, real=0.10, tested=1000, searched=300, real_tested=None, answer_tokens=256, batch=512,
    ),
    # Minutes of nothing: for the tests, which only ask whether it runs and goes on.
    "tiny": Size(
        vocabulary=600,
        student=Shape(64, 1, 64, seed=1, lr=2.5e-3, steps=6, tokens_a_batch=1024, documents_a_chunk=64),
        teacher=Shape(64, 1, 64, seed=3, lr=3e-3, steps=6, tokens_a_batch=1024, documents_a_chunk=64),
        learning=Learning(4, 4, 1, 2e-3, steps=2, batch=8, group=4, lr=4e-4, every=1, validation=4),
        first_words=1, real=0.10, tested=6, searched=2, real_tested=6, answer_tokens=4, batch=8,
    ),
}  # fmt: skip


def commit() -> str | None:
    """The checkout's commit, with -dirty where files differ; None where there is no checkout."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def machine(device: str) -> str:
    """The accelerator or processor, without names of hosts."""
    import torch

    if device != "cpu":
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


def keep(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    path.with_suffix(".tmp").write_text(text, encoding="utf-8")
    os.replace(path.with_suffix(".tmp"), path)


class World:
    """A size's models under a folder, made where they are missing."""

    def __init__(self, size: str, folder: Path, device: str) -> None:
        from transformers import AutoTokenizer

        from lab.tokenizer import train_tokenizer

        self.size, self.folder, self.device, self.name = SIZES[size], folder, device, size
        folder.mkdir(parents=True, exist_ok=True)
        asked, kept = json.dumps(asdict(self.size)), folder / "size.json"
        if not kept.exists():
            keep(kept, asked)
        elif kept.read_text(encoding="utf-8") != asked:
            raise SystemExit(f"{folder} was begun with other sizes than this script's; take another --folder, or delete it")
        if not (folder / "tokenizer" / COMPLETE).exists():
            train_tokenizer(prose_corpus.tokenizer_corpus(4000 if size != "tiny" else 50), self.size.vocabulary, folder / "tokenizer")
            (folder / "tokenizer" / COMPLETE).touch()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def pretrain(self) -> None:
        """Student and teacher."""
        size = self.size

        def student_draw(rng: Any, chunk: int) -> prose_corpus.Document:
            if chunk < size.first_words:
                return prose_corpus.author_document(rng)
            return prose_corpus.student_document(rng, real=size.real)

        pretrain(
            "teacher", size.teacher, self.tokenizer, lambda rng, _: prose_corpus.teacher_document(rng), self.folder / "teacher", self.device
        )
        pretrain("student", size.student, self.tokenizer, student_draw, self.folder / "student", self.device)

    def student(self) -> Student:
        return Student(load_folder(self.folder / "student", self.device), self.tokenizer, self.size.batch)

    def teacher_folder(self, arm: str, seed: int | None) -> Path:
        """Where an arm's teacher lies."""
        if arm == "untrained":
            return self.folder / "teacher"
        return self.folder / f"{'blind' if arm == 'blind' else 'seeing'}-{seed}" / ("sft" if arm == "sft" else "trained")


def candidates() -> list[str]:
    """Texts for all questions: one wording of each procedure, the task's default, chain of thought."""
    procedures = [a.text for a in prose_world.all_advice() if a.phrase == a.frame == a.tail == 0]
    return [prose_world.STATIC_INSTRUCTION, COT, *procedures]


def best_static(world: World, student: Student) -> str:
    """The best of the candidates on training questions; kept, as everything."""
    path = world.folder / "best_static.json"
    if not path.exists():
        rows = prose_world.load("train", world.size.searched)
        scores = {text: sum(student.grades(rows, [text] * len(rows))) for text in candidates()}
        keep(path, json.dumps({"text": max(scores, key=lambda text: scores[text]), "right": scores, "n": len(rows)}))
    return str(json.loads(path.read_text(encoding="utf-8"))["text"])


def cells() -> list[tuple[str, int | None, str]]:
    """(arm, teacher's seed, questions) of all columns, in an order whose beginnings are worth a table: one seed whole before the next."""
    fixed: list[tuple[str, int | None]] = [(arm, None) for arm in ("raw", "static", "best_static", "oracle", "untrained")]
    made: list[tuple[str, int | None, str]] = []
    for seed in SEEDS:
        for arms in ([*(fixed if seed == SEEDS[0] else ()), ("trained", seed)], [("blind", seed)]):
            made += [(*arm, "templates") for arm in arms] + [(*arm, "gsm8k") for arm in arms if arm[0] != "oracle"]
    return made + [("sft", seed, "templates") for seed in SEEDS]


def gsm8k_rows(limit: int | None) -> list[Row]:
    rows = [Row(f"gsm8k-test-{i}", real.question, real.final, "gsm8k", "") for i, real in enumerate(prose_corpus.gsm8k("test"))]
    return rows[:limit]


def answer_arm(world: World, student: Student, arm: str, seed: int | None, questions: str) -> None:
    """Let one arm answer one set of questions and keep instructions and answers."""
    path = world.folder / "answers" / f"{arm}-{seed}-{questions}.json"
    if path.exists():
        return
    size = world.size
    rows = prose_world.load("test", size.tested) if questions == "templates" else gsm8k_rows(size.real_tested)
    if arm in ("raw", "static", "best_static", "oracle"):
        text = best_static(world, student) if arm == "best_static" else {"static": prose_world.STATIC_INSTRUCTION}.get(arm, "")
        texts = [row.oracle if arm == "oracle" else text for row in rows]
    else:
        teacher = load_folder(world.teacher_folder(arm, seed), world.device)
        texts, _ = instruct(teacher, student, [row.query for row in rows], blind=arm == "blind")
    most = 24 if questions == "templates" else size.answer_tokens
    answers = student.answers([row.query for row in rows], texts, most=most)
    path.parent.mkdir(exist_ok=True)
    kept = {name: [getattr(row, field) for row in rows] for name, field in FIELDS.items()}
    keep(path, json.dumps({**kept, "instructions": texts, "answers": answers}))
    good = sum(right(answer, row.gold) for answer, row in zip(answers, rows, strict=True))
    print(f"{arm} {'' if seed is None else f'seed {seed} '}on {questions}: {good} of {len(rows)} right", flush=True)


def run(world: World, go_on: Callable[[], bool]) -> bool:
    """All that is missing, as long as there is time; whether everything is there."""
    world.pretrain()
    student, size = world.student(), world.size
    train_rows, validation = (
        prose_world.load("train", 4000 if world.name != "tiny" else 20),
        prose_world.load("validation", size.learning.validation),
    )
    for arm, seed, questions in cells():
        if not go_on():
            return False
        if seed is not None:
            folder = world.teacher_folder(arm, seed).parent
            train(world.folder / "teacher", folder, student, train_rows, validation, size.learning, seed=seed, blind=arm == "blind")
        answer_arm(world, student, arm, seed, questions)
    return True


def note(world: World, started: float, finished: bool) -> None:
    """What the report says of how the figures came about; seconds add up over calls."""
    path = world.folder / "about.json"
    before: dict[str, Any] = {"wall_s": 0.0, "cpu_s": 0.0, "commits": []}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    commits = list(dict.fromkeys([*before["commits"], commit()]))
    about = {
        "size": world.name, "device": machine(world.device), "finished": finished, "commits": commits,
        "wall_s": round(before["wall_s"] + time.monotonic() - started, 1), "cpu_s": round(before["cpu_s"] + time.process_time(), 1),
    }  # fmt: skip
    keep(path, json.dumps(about))


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="small: a CPU's background; full: one large GPU; tiny: to try the script"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--folder", type=Path, help="where everything is kept (default .cache/lab_m/SIZE)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no arm after so many seconds")
    parser.add_argument("--report", action="store_true", help="run nothing: results file and table of what was answered")
    args = parser.parse_args()
    folder = args.folder or Path(".cache/lab_m") / args.size
    if args.report:
        from benchmarks.lab_m_report import report

        report(folder, args.size)
        return 0
    try:
        prose_corpus.data_folder()
    except ValueError as error:
        parser.error(str(error))
    import torch

    started = time.monotonic()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if device != "cpu" else "false")
    world = World(args.size, folder, device)
    finished = False
    try:
        finished = run(world, lambda: time.monotonic() - started < args.seconds)
    finally:
        note(world, started, finished)
    print("everything is answered" if finished else "time is up; call again to go on", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
