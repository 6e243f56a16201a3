"""The service on a real socket, in a thread of the test's own process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from server.__main__ import web_config
from server.settings import ServerSettings


@contextmanager
def running_app(app: FastAPI, settings: ServerSettings | None = None) -> Iterator[str]:
    """The app's address while the block runs; served as `python -m server` does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        web = uvicorn.Server(web_config(settings or ServerSettings(), app))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            web.should_exit = True
            thread.join()
