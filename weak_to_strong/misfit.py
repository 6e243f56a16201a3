"""`python -m weak_to_strong.misfit --arrays F.npz [G.npz ...]` or `--data F.jsonl --model M`: gain and misfit of a label-imitating student.

Fits a head on frozen features to a weak model's labels and says how far the student departs from them (misfit), what that won against the
truth where there is one (gain), and whether "gain >= misfit" is a theorem here. Several files are several weak teachers, ranked by weak
error - misfit. For a prompt teacher, whose student imitates nothing, `teacher.probe` answers that question.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from exchange.command import run_command
from exchange.settings import SettingError, Settings, find_config, load, parse_flags, parse_known, read_yaml, setting_docs
from weak_to_strong.divergence import DIVERGENCES, LossName
from weak_to_strong.gain import Candidate, Misfit, Verdict, choose_teacher, judge, measure
from weak_to_strong.heads import HeadConfig, check_features, fit_head
from weak_to_strong.misfit_data import Rows, check_rows, read_arrays, read_texts, text_features


class MisfitConfig(Settings):
    """What is measured, and how."""

    arrays: tuple[str, ...] = ()
    """.npz files, one a weak teacher: `weak` (N,) or (N, K), and `features` (N, D) or the `student`'s outputs; where they are known `truth`
    and `weak_error` (the teacher's error on a hold-out of its own)."""
    data: str | None = None
    """JSON lines {"text", "weak", "truth"?} in place of arrays; labels are numbers or lists of them."""
    model: str | None = None
    """With `data`: the Hugging Face model (folder, Hub id or lab:WORLD/ROLE) whose last-token states are the features."""
    batch_size: int = Field(default=32, ge=1)
    """Texts a forward pass."""
    loss: LossName = "squared"
    """squared (summed over columns), forward_kl (ordinary cross-entropy training) or reverse_kl (student first), in nats. For a KL loss
    labels are probabilities; (N,) ones are those of the second of two classes."""
    head: HeadConfig = HeadConfig()
    """What is fitted on the features."""
    held_out: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows that is measured and not fitted; 0 = measure on the fitting rows, as the theorem does."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split, the experts and the intervals."""
    out: str | None = None
    """Folder for summary.json, report.md and misfit.svg, and the texts' features, which a second call reads again; None = print alone."""

    @model_validator(mode="after")
    def _one_source(self) -> MisfitConfig:
        if bool(self.arrays) == (self.data is not None):
            raise ValueError("arrays: give .npz files with --arrays, or texts with --data=F.jsonl and --model=M, and not both")
        if (self.data is None) != (self.model is None):
            raise ValueError("data and model belong together: --data=F.jsonl --model=M")
        return self


@dataclass(frozen=True)
class Measured:
    """One weak teacher's outcome."""

    rows: Rows
    found: Misfit
    verdict: Verdict

    def candidate(self) -> Candidate | None:
        """As `choose_teacher` takes it; None where nothing is known of the teacher's error."""
        given, on_rows = self.rows.weak_error, self.found.weak_error
        if given is None and on_rows is None:
            return None
        student = self.found.student_error
        return Candidate(
            name=self.rows.name,
            weak_error=given if given is not None else on_rows.value if on_rows is not None else 0.0,
            misfit=self.found.misfit.value,
            student_error=None if student is None else student.value,
        )

    def as_json(self) -> dict[str, Any]:
        """The contract's keys first; a misfit without truth is labelled as what it is."""
        data = self.found.model_dump(mode="json")
        note = {} if self.found.gain is not None else {"note": "misfit (not a gain): there is no truth"}
        return {"n": data.pop("n"), "misfit": data.pop("misfit"), **data, **note, "verdict": self.verdict.model_dump(mode="json")}


def measure_rows(rows: Rows, config: MisfitConfig) -> Measured:
    """Fit, measure and judge one teacher's rows. Raises SettingError where the features or labels allow no fit."""
    loss = DIVERGENCES[config.loss]
    if rows.features is None:
        assert rows.student is not None
        return Measured(rows, measure(rows.student, rows.weak, rows.truth, loss, seed=config.seed), Verdict(theorem=None))
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(rows.features)) if config.held_out else np.arange(len(rows.features))
    out = round(config.held_out * len(order))
    if config.held_out and not 0 < out < len(order):
        raise SettingError(f"held_out={config.held_out:g}: of {len(order)} rows that leaves {out} to measure on")
    fitted, measured = np.sort(order[out:]), np.sort(order[:out]) if out else order
    try:
        condition = check_features(rows.features[fitted], config.head)
        head = fit_head(rows.features[fitted], rows.weak[fitted], loss, config.head, rng)
    except SettingError as error:
        raise SettingError(f"{rows.name}: {error}") from None
    features, truth = rows.features[measured], None if rows.truth is None else rows.truth[measured]
    found = measure(head.predict(features), rows.weak[measured], truth, loss, seed=config.seed)
    return Measured(rows, found, judge(found, features, truth, loss, config.head, head, in_sample=not out, condition=condition))


def read(config: MisfitConfig) -> list[Rows]:
    """The rows of every weak teacher. Raises SettingError."""
    loss = DIVERGENCES[config.loss]
    if config.data is None:
        names = [Path(file).stem for file in config.arrays]
        if len(set(names)) < len(names):
            raise SettingError(f"arrays: two files are called {max(names, key=names.count)}; teachers are told apart by the file's name")
        return [read_arrays(file, loss) for file in config.arrays]
    assert config.model is not None
    texts, labels = read_texts(config.data)
    check_rows("texts", {**labels, "features": np.zeros((len(texts), 1))}, loss, config.data)  # before the model reads for minutes
    kept = None if config.out is None else Path(config.out) / "features.npz"
    features = text_features(texts, config.model, config.batch_size, kept)
    return [check_rows(Path(config.data).stem, {**labels, "features": features}, loss, config.data)]


def outcome(config: MisfitConfig, measured: list[Measured]) -> dict[str, Any]:
    """summary.json and what --json prints: one teacher's measurement, or the table of several."""
    if len(measured) == 1:
        return {**measured[0].as_json(), "loss": config.loss, "head": config.head.kind, "held_out": config.held_out}
    candidates = [found for one in measured for found in [one.candidate()] if found is not None]
    ranked = choose_teacher(candidates) if len(candidates) == len(measured) else []
    return {
        "loss": config.loss,
        "head": config.head.kind,
        "held_out": config.held_out,
        "ranking": [{**one.model_dump(), "predicted": one.predicted} for one in ranked],
        "teachers": {one.rows.name: one.as_json() for one in measured},
    }


def dry_run(config: MisfitConfig) -> dict[str, Any]:
    """What would be read and computed. No student is called and nothing costs money."""
    if config.data is None:
        rows = read(config)
        return {"student_calls": 0, "cost_usd": 0.0, "rows": {one.name: len(one.weak) for one in rows}}
    texts, _ = read_texts(config.data)
    return {"student_calls": 0, "cost_usd": 0.0, "rows": len(texts), "forward_passes": -(-len(texts) // config.batch_size)}


def body(argv: list[str] | None) -> int:
    epilog = "settings (also in a YAML file):\n" + "\n".join(
        f"  --{name}={default}\n      {text}" for name, default, text in setting_docs(MisfitConfig)
    )
    parser = argparse.ArgumentParser(
        prog="python -m weak_to_strong.misfit", description=(__doc__ or "").split("\n")[0], epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("config", nargs="?", help="a YAML file of settings")
    parser.add_argument("--arrays", nargs="+", metavar="F.npz", help="one file a weak teacher: features, weak, truth?")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what would be read, then stop")
    args, rest = parse_known(parser, argv)
    data = read_yaml(find_config(args.config)) if args.config is not None else {}
    flags = parse_flags(rest) + ([("arrays", args.arrays)] if args.arrays else [])
    config = load(MisfitConfig, data, flags)
    if args.dry_run:
        print(json.dumps({"config": config.model_dump(mode="json"), **dry_run(config)}, indent=1))
        return 0

    from weak_to_strong import misfit_report as report

    folder = None if config.out is None else report.prepare(Path(config.out))
    measured = [measure_rows(rows, config) for rows in read(config)]
    result = outcome(config, measured)
    text = report.markdown(config, measured, result)
    if folder is not None:
        report.publish(folder, config, measured, result, text)
    print(json.dumps(result, indent=1) if args.json else text)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("weak_to_strong.misfit", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
