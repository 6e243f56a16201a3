"""A real Redis server for tests: on a free port of 127.0.0.1 and on a socket file, in a folder of its own, ended by its own id."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unused_port
from tests.requirements import need


class RedisServer:
    """Starts when made; `kill` and `start` make it die and come back, at the same address and without its data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = unused_port()
        self.socket_file = folder / "redis.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        at = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket_file), "--dir", str(folder)]
        self._command = [str(need("redis")), *at, "--save", "", "--appendonly", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, f"{' '.join(self._command)}: ended with {self._process.returncode}"
            assert time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def running_redis(*options: str) -> Iterator[RedisServer]:
    """A fixture's body: a server while the test runs."""
    with tempfile.TemporaryDirectory(prefix="wst-redis-") as folder:  # pytest's own may be too long for a socket's path
        server = RedisServer(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests; each takes a namespace or keys of its own, and leaves the server alive."""
    yield from running_redis()
