"""Serves the teacher over HTTP.

python -m server                          the newest trained teacher, else the shipped one, on http://127.0.0.1:8000
python -m server --teacher runs/2026…     a certain run's
python -m server --check                  validate settings and teacher, then leave (0 good, 2 bad)
curl localhost:8000/instruct -H 'content-type: application/json' -d '{"query": "…"}'
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from exchange.command import RunError, run_command
from exchange.settings import SettingError
from server.keys import read_keys
from server.logs import set_up
from server.settings import FLAGS, ServerSettings, read_settings, variables_help
from server.students import make_students
from server.teachers import DEFAULT, ServedTeacher, TeacherSource, check_speed
from server.teachers import load as load_teacher
from student_clients.errors import StudentError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

METRICS_FOLDERS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class _Parser(argparse.ArgumentParser):
    """argparse that reports a bad flag as every command does: one line, exit 2."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(message)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = _Parser(
        prog="python -m server",
        description=__doc__,
        epilog="environment:\n" + variables_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the settings below, in lower case and without WST_")
    parser.add_argument("--host", help="loopback address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", help="TCP port, 0 for any free one (default 8000)")
    parser.add_argument("--teacher", metavar="FOLDER", help="run directory or teacher folder (default: newest run, else shipped)")
    parser.add_argument("--workers", metavar="N", help="processes that share the port, each with its own copy of the teacher (default 1)")
    parser.add_argument("--check", action="store_true", help="validate settings and teacher, then leave")
    return parser


def load(settings: ServerSettings) -> ServedTeacher:
    """The default teacher that `settings` mean. Raises SettingError whatever is wrong with it."""
    return _load(settings, DEFAULT, settings.teachers.get(DEFAULT, TeacherSource(folder=settings.teacher)))


def _load(settings: ServerSettings, name: str, source: TeacherSource) -> ServedTeacher:
    teacher = load_teacher(
        source, name, batch_size=settings.teacher_batch, threads=settings.teacher_lanes, timeout_s=settings.deadline_ms / 1000
    )
    try:
        slow = check_speed(teacher, settings.deadline_ms / 1000)
    except StudentError as error:  # its server is down, which it may be at any later time too: its breaker answers raw meanwhile
        late = f"server: teacher {name} does not answer yet ({type(error).__name__}); requests pass it by until it does"
        print(late, file=sys.stderr, flush=True)
        return teacher
    if slow:
        if settings.slow_teacher == "refuse":
            raise SettingError(slow)
        print(f"server: {slow}", file=sys.stderr, flush=True)
    return teacher


def load_all(settings: ServerSettings) -> dict[str, ServedTeacher]:
    """Every teacher by name."""
    others = {name: _load(settings, name, source) for name, source in settings.teachers.items() if name != DEFAULT}
    return {**others, DEFAULT: load(settings)}


def bind(settings: ServerSettings) -> socket.socket:
    """The listening address, taken before the model is loaded so that a busy port shows at once. Raises RunError."""
    family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise RunError(f"cannot listen on {url(address[0], settings.port)} ({error.strerror}); choose another --port") from None
    return listener


def url(host: str | int, port: int) -> str:
    """An address as one opens it."""
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


def check_events(settings: ServerSettings) -> None:
    """Raises SettingError for a store's URL that is none, and where a file that was named cannot be written. One that nobody named is made
    when it is needed; a Redis that is down is no error, the file keeps what it misses."""
    from server.experiments import open_events
    from store import StoreError

    events = open_events(settings)
    if settings.event_log is None:
        return
    try:
        asyncio.run(events.check())
    except StoreError as error:
        raise SettingError(f"WST_EVENT_LOG={settings.event_log!r}: {error}") from None


def quiet_broken_off() -> None:
    """Nothing to trace: the student broke off, and our own log has said so."""
    from server.errors import BrokenOffError

    logging.getLogger("uvicorn.error").addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], BrokenOffError)))


def web_config(settings: ServerSettings, app: FastAPI | str) -> uvicorn.Config:
    """How uvicorn serves an app of ours."""
    import uvicorn

    http: Any = "h11"
    if sys.platform != "win32":  # no httptools there; h11 bounds a head by itself
        from server.http_protocol import BoundedProtocol

        http = partial(BoundedProtocol, max_head_bytes=settings.max_head_bytes, head_time_s=settings.body_time_s)
    return uvicorn.Config(
        app,
        http=http,
        log_config=None,  # ours stands; uvicorn's access log would print the query string
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here trusts a caller's address
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


def serve(settings: ServerSettings, teachers: dict[str, ServedTeacher], listener: socket.socket) -> None:
    """Run until SIGTERM or Ctrl-C; running requests get `shutdown_grace_s` to finish."""
    import uvicorn

    from server.app import create_app

    teacher = teachers[DEFAULT]
    ready = f"serving teacher {teacher.id} (sha256 {teacher.sha256[:12]}…) on {url(settings.host, listener.getsockname()[1])}"

    app = create_app(settings, teacher, teachers)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            self.loop = asyncio.get_running_loop()
            print(ready, flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """SIGTERM: not ready first, then no new connections, then the end. A second signal: the end."""
            if app.state.draining:
                self.should_exit = self.force_exit = True
            elif sig == signal.SIGTERM and settings.drain_delay_s and self.started:
                app.state.draining = True
                self._captured_signals.append(sig)
                self.loop.call_soon_threadsafe(self.loop.call_later, settings.drain_delay_s, setattr, self, "should_exit", True)
                return
            app.state.draining = True
            super().handle_exit(sig, frame)

    quiet_broken_off()
    try:
        Server(web_config(settings, app)).run(sockets=[listener])
    except OSError as error:  # another process took the port between bind and listen
        raise RunError(f"cannot listen on {url(settings.host, settings.port)} ({error.strerror}); choose another --port") from None


def main(argv: Sequence[str]) -> int:
    """The command's body."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], ["--check", "--help", *(f"--{name}" for name in FLAGS)], n=1)
        raise SettingError(f"{unknown[0]}: no such flag" + (f"; did you mean {near[0]}?" if near else ""))
    settings = read_settings({name: getattr(arguments, name) for name in FLAGS}, os.environ)
    if settings.keys is not None:
        read_keys(Path(settings.keys))
    elif settings.hosts is None:
        settings = settings.model_copy(update={"hosts": [*LOOPBACK_NAMES, f"[{settings.host}]" if ":" in settings.host else settings.host]})
    check_events(settings)
    if settings.otel_endpoint is not None:
        from server.tracing import open_provider

        open_provider(settings.otel_endpoint).shutdown()  # raises where the SDK is missing
    if settings.redact is not None:
        from server.privacy import redaction

        redaction(settings.redact)
    if arguments.check:
        make_students(settings.students)
        teacher = load_all(settings)[DEFAULT]
        print(f"good: teacher {teacher.id} (sha256 {teacher.sha256[:12]}…) for {url(settings.host, settings.port)}")
        return 0
    set_up(level=settings.log_level, as_json=settings.log_format == "json")
    with bind(settings) as listener:
        if settings.workers == 1:
            for name in METRICS_FOLDERS:  # another program's, and prometheus_client would write there
                os.environ.pop(name, None)
            serve(settings, load_all(settings), listener)
            return 0
        from server.workers import serve_workers

        ready = f"serving with {settings.workers} workers on {url(settings.host, listener.getsockname()[1])}"
        serve_workers(settings, web_config(settings, "server.workers"), listener, ready)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("server", lambda: main(sys.argv[1:])))
