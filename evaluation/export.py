"""Lines out of a service's event log: what `evaluation.analyze` and `teacher.collect` read.

    python -m evaluation.export runs/events.db --experiment advice-1 > advice-1.jsonl     (exposures and outcomes)
    python -m evaluation.export runs/events.db --texts > texts.jsonl                      (captured texts, and their outcomes)

The file may be in use by a server. Lines are in order of time; the same log gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.arguments import Parser
from exchange.command import run_command
from exchange.settings import SettingError


def text_lines(texts: Sequence[Any], outcomes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Captured texts (events), each a line, then the outcomes of those requests: joined by `request_id`."""
    known = set()
    for event in texts:
        known.add(event.content["request_id"])
        yield {**{name: value for name, value in event.content.items() if value not in (None, [], False)}, "time": event.time}
    for event in outcomes:
        content = event.content
        if content["request_id"] in known:
            yield {"request_id": content["request_id"], "metric": content["metric"], "value": content["value"], "time": event.time}


def parser() -> Parser:
    made = Parser(prog="python -m evaluation.export", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    made.add_argument("log", metavar="EVENTS.db", help="the server's event log (WST_EVENT_LOG; else events.db in WST_RUNS_DIR)")
    made.add_argument("--experiment", metavar="ID", help="one experiment's exposures and outcomes, for evaluation.analyze")
    made.add_argument("--texts", action="store_true", help="captured texts with their outcomes, for teacher.collect")
    made.add_argument("--tenant", default="", help="whose; a server without keys has one tenant without name")
    return made


async def lines(path: Path, tenant: str, experiment: str | None) -> bytes:
    """An experiment's log, or where none is named all captured texts. Raises SettingError for an experiment that is not in the log."""
    from evaluation.experiment import Experiment
    from evaluation.online import TOPIC, data_topic, exported, text_topic
    from store import EventLog

    log = EventLog(path)
    try:
        made = [event.content for event in await log.read_all(TOPIC) if event.kind == "created"]
        definitions = [Experiment.model_validate(content["definition"]) for content in made if content["tenant"] == tenant]
        if experiment is not None:
            for definition in definitions:
                if definition.id == experiment:
                    return exported(await log.read_all(data_topic(tenant, experiment)), definition)
            known = ", ".join(definition.id for definition in definitions) or "none"
            raise SettingError(f"--experiment={experiment}: no such experiment in {path}; known: {known}")
        captured = await log.read_all(text_topic(tenant))
        topics = [data_topic(tenant, definition.id) for definition in definitions]
        told = [event for topic in topics for event in await log.read_all(topic)]
        outcomes = [event for event in [*captured, *told] if event.kind == "outcome"]
        outcomes.sort(key=lambda event: (event.time, event.id))
        texts = [event for event in captured if event.kind == "text"]
        return "".join(json.dumps(row) + "\n" for row in text_lines(texts, outcomes)).encode()
    finally:
        await log.aclose()


def body(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    if (args.experiment is None) != args.texts:
        raise SettingError("give exactly one of --experiment ID and --texts")
    path = Path(args.log)
    if not path.is_file():
        raise SettingError(f"{path}: no such file")

    import asyncio

    from store import StoreError

    try:
        found = asyncio.run(lines(path, args.tenant, args.experiment))
    except StoreError as error:
        raise SettingError(str(error)) from None
    sys.stdout.buffer.write(found)
    sys.stdout.flush()
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("evaluation.export", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
