"""`python -m teacher.compare RUN RUN ... [--arm trained] [--alpha 0.05] [--json]`: evaluated runs beside each other.

Prints every run's arm against raw, each run against the first (paired question by question where both were asked the same ones), a
setting's figures over at least three seeds, and, where one teacher was measured with several students or on several tasks, the table of
its transfer. Nothing is asked or trained: it reads summary.json and evaluation.jsonl of each directory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.arguments import Parser, number
from evaluation.compare_runs import Table, compare_runs, read_run
from exchange.command import run_command
from exchange.settings import SettingError


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m teacher.compare", description=(__doc__ or "").split("\n")[0], epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("runs", nargs="+", metavar="RUN", help="directories of teacher.train, teacher.evaluate or teacher.ab")
    made.add_argument("--arm", default="trained", help="the arm that is compared (default trained)")
    made.add_argument("--alpha", default="0.05", help="error level of every interval (default 0.05)")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in head:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(grid)


def print_tables(table: Table) -> None:
    """All that was found, as tables on the terminal."""
    arm = table.arm
    rows = []
    for run in table.runs:
        pair = run["vs_raw"]
        gain = f"{pair['difference']:+.1%} ({pair['low']:+.1%} .. {pair['high']:+.1%})" if pair else ""
        shares = [f"{run[name]['mean']:.1%}" for name in ("raw", arm)]
        rows.append([Path(run["run"]).name, run["task"], run["student"], run["teacher"], str(run["seed"]), str(run["n"]), *shares, gain])
    show("runs", ("run", "task", "student", "teacher", "seed", "n", "raw", arm, f"{arm} - raw"), rows)
    rows = []
    for versus in table.versus:
        p = f"{versus.p_holm:.2g}" if versus.p_holm is not None else ""
        alike = f"{versus.p_equivalent:.2g}" if versus.p_equivalent is not None else ""
        least = f"{100 * versus.detectable:.1f}" if versus.detectable is not None else ""
        how = f"paired, {versus.questions} questions" if versus.paired else f"other questions, {versus.questions} in all"
        rows.append([Path(versus.run).name, f"{versus.difference:+.1%}", f"{versus.low:+.1%} .. {versus.high:+.1%}", p, alike, least, how])
    if rows:
        head = ("run", "difference", "interval", "p (Holm)", "p (TOST)", "detectable, points", "how")
        show(f"{arm} against that of {Path(table.runs[0]['run']).name}", head, rows)
    for seeds in table.seeds:
        rows = []
        for name, pair in seeds.vs_raw.items():
            by_seed = ", ".join(f"{mean:.1%}" for mean in seeds.arms[name])
            rows.append([name, by_seed, f"{pair.difference:+.1%}", f"{pair.low:+.1%} .. {pair.high:+.1%}", f"{pair.p_equivalent:.2g}"])
        title = f"{seeds.task}, {seeds.student}: seeds {', '.join(map(str, seeds.seeds))}"
        show(title, ("arm", "right by seed", "mean - raw", "interval", "p (TOST)"), rows)
    print_transfer(table)


def print_transfer(table: Table) -> None:
    """One teacher over students and tasks."""
    for teacher, by_student in table.transfer.items():
        tasks = list(dict.fromkeys(task for found in by_student.values() for task in found))
        rows = [[student, *(found.get(task, "") for task in tasks)] for student, found in by_student.items()]
        show(f"transfer of teacher {teacher}: {table.arm} - raw", ("student", *tasks), rows)


def body(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    if len(args.runs) < 2:
        raise SettingError(f"{args.runs[0]}: give at least two directories; report.html of one stands in it")
    alpha = number("--alpha", args.alpha, above=0.0, below=0.5)
    table = compare_runs([read_run(Path(run)) for run in args.runs], args.arm, alpha)
    if args.json:
        print(table.model_dump_json(indent=1))
    else:
        print_tables(table)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.compare", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
