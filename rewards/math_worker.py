"""The process that does algebra on answers nobody has vetted, started and fed by `rewards.worker_pool`.

It loads sympy once and then only forks: the child does the work, under a limit of memory and of processor time a question, and where
one of them strikes, the child is gone and the next is there in milliseconds. So `10^{10^{10}}` costs its second and nothing else. A
question is `{"id": n, "gold": str, "answers": [str]}` behind its length, a reply a line
`{"id": n, "equal": [bool | null], "unparsed": n}`, or `{"lost": reason}` from a process that no longer knows the question. With
`"last": true` it is the last one: a child that died otherwise than by its limits may have left half a question in the pipe.
"""

from __future__ import annotations

import json
import os
import resource
import signal

SOFT_CPU_S = 1.0
"""Processor time after which a question is given up where Python can still be interrupted."""
HARD_CPU_S = 1.5
"""Processor time after which the child is killed by the kernel, in the middle of a long multiplication too."""
MEMORY_BYTES = 1 << 30
"""Address space above what the loaded libraries take."""
QUESTIONS_A_CHILD = 500
"""sympy's caches grow with every question; a new child starts from clean ones."""


class OutOfTime(BaseException):
    """Not an Exception: the libraries in between catch those and go on."""


def _give_up(number: int, frame: object) -> None:
    raise OutOfTime


def answer(line: bytes) -> dict[str, object]:
    """Decide one question."""
    from rewards.symbolic import Unparsed, same_leaf
    from tasks.math_equivalence import compare

    question = json.loads(line)
    equal: list[bool | None] = []
    unparsed = 0
    for text in question["answers"]:
        try:
            equal.append(compare(question["gold"], text, same_leaf))
        except (Unparsed, ValueError):
            equal.append(False)
            unparsed += 1
        except Exception:  # sympy raises anything; what it cannot compare is not shown to be equal
            equal.append(False)
            unparsed += 1
    return {"id": question["id"], "equal": equal, "unparsed": unparsed}


HEADER_BYTES = 8


def framed(question: bytes) -> bytes:
    """A question as it is sent: its length in eight digits, then itself."""
    return f"{len(question):0{HEADER_BYTES}d}".encode() + question


def read_question() -> bytes:
    """One question from stdin and not a byte more: what is left there belongs to the next child. b"" at the end."""
    header = _read_exactly(HEADER_BYTES)
    return _read_exactly(int(header)) if header else b""


def _read_exactly(size: int) -> bytes:
    read = b""
    while len(read) < size:
        chunk = os.read(0, size - len(read))
        if not chunk:
            return b""
        read += chunk
    return read


def reply(message: dict[str, object]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def serve() -> int:
    """The child: questions until the end of stdin (exit 0) or until it should be replaced (exit 3)."""
    with open("/proc/self/statm") as sizes:
        size = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, _give_up)
    for _ in range(QUESTIONS_A_CHILD):
        line = read_question()
        if not line:
            return 0
        signal.setitimer(signal.ITIMER_PROF, HARD_CPU_S)  # SIGPROF is not handled, so it kills
        try:
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, SOFT_CPU_S)
                outcome = answer(line)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except OutOfTime:
            outcome = {"lost": "time"}
        except (MemoryError, RecursionError):
            reply({"lost": "memory"})
            return 3
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(outcome)
    return 3


def main() -> int:
    """The parent: loads the libraries, forks a child, and says so where it was killed over a question."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import rewards.symbolic

    for text in (r"\frac{x}{2}+\sqrt{3}", "2"):  # builds the parser's tables once, before the first fork
        rewards.symbolic.expression(text)
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = serve()
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            reply({"lost": "time"})
        elif os.WIFSIGNALED(status) or os.WEXITSTATUS(status) not in (0, 3):
            reply({"lost": "memory", "last": True})
            return 1
        elif os.WEXITSTATUS(status) == 0:
            return 0
