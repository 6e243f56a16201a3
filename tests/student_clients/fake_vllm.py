"""A program that looks like `vllm serve` from outside, for tests that start, kill and restart one: needs the standard library only.

    python fake_vllm.py serve MODEL --host 127.0.0.1 --port 8000 --served-model-name m

It prints its arguments and answers every chat with its process id. Made to misbehave: `--crash TEXT` prints and exits with 3,
`--unhealthy` never gets healthy, `--deaf` ignores SIGTERM, `--worker` starts a process that ignores SIGTERM as well, `--delay-s` is the
time for an answer, `--leave-s` the time from SIGTERM to the end, `--dies-at N` kills it with its Nth chat, when others are in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    arguments: argparse.Namespace
    chats = 0
    counting = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply({}, 503 if self.arguments.unhealthy else 200)
        elif self.path == "/version":
            self.reply({"version": "0.32.0"})
        elif self.path == "/v1/models":
            self.reply({"data": [{"id": self.arguments.served_model_name}]})
        else:
            self.reply({}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.counting:
            Handler.chats += 1
            if Handler.chats == self.arguments.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.arguments.delay_s)
        choices = [{"message": {"content": str(os.getpid())}, "finish_reason": "stop"}] * body.get("n", 1)
        self.reply({"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 3 * len(choices)}})

    def reply(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--leave-s", type=float, default=0.0)
    parser.add_argument("--dies-at", type=int)
    parser.add_argument("--crash")
    parser.add_argument("--unhealthy", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    print("arguments:", *sys.argv[1:], "threads:", os.environ.get("OMP_NUM_THREADS"), flush=True)
    if arguments.crash:
        sys.exit(print("Traceback of the fake\n\n  in a line\n" + arguments.crash, flush=True) or 3)
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(arguments.leave_s), os._exit(0)))
    if arguments.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.worker:
        with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            print("worker:", worker.pid, flush=True)
            serve(arguments)
    serve(arguments)


def serve(arguments: argparse.Namespace) -> None:
    Handler.arguments = arguments
    Server((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
