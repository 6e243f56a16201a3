"""The service's log: lines for people, or one JSON object a line for machines. Neither holds a body."""

from __future__ import annotations

import json
import logging
import time
import traceback

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonLines(logging.Formatter):
    """{"time", "level", "logger", "message", …}; what a line is about stands in fields of its own (`record.about`)."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **record.__dict__.get("about", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # Type and place only: the text of an exception may quote the query.
            frames = traceback.format_tb(record.exc_info[2], limit=-6)
            line |= {"exception": record.exc_info[0].__name__, "traceback": "".join(frames)}
        return json.dumps(line, ensure_ascii=False)


def set_up(*, level: str, as_json: bool) -> None:
    """For the whole process: to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(TEXT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("wst").setLevel(level.upper())
