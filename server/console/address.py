"""Where the console's pages lie, what each asks of a key, and what stands around every answer. The door reads it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from server.console.wording import sentence

if TYPE_CHECKING:
    from jinja2 import Environment

    from server.keys import Scope as KeyScope

FOLDER = Path(__file__).parent.parent
HOME, BELOW = "/", "/ui/"
LOGIN = "/ui/login"
COOKIE, COOKIE_BY_TLS = "wst-console", "__Host-wst-console"
"""A browser takes the second from no neighbour's host name and sends it by TLS alone."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends `Origin: null` with our own forms
    "Cache-Control": "no-store",
}
"""Of every page. A report that brings its style along has `policy_of` in place of CSP."""
KEPT = {"HX-Reswap": "none"}
"""Of an error in place of a piece that fetches itself again: the piece stays as it is and goes on."""
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """An entry of the menu."""

    name: str
    path: str
    scope: KeyScope


PAGES = (
    Page("Playground", "/ui/playground", "instruct"),
    Page("Traffic", "/ui/traffic", "metrics"),
    Page("Teachers", "/ui/teachers", "admin"),
    Page("Experiments", "/ui/experiments", "experiments"),
    Page("Runs", "/ui/runs", "admin"),
)


def is_console(path: str) -> bool:
    """Whether a path is a page of ours, to which a browser's cookie opens the door."""
    return path == HOME or path.startswith(BELOW)


def for_a_reader(path: str, headers: Headers) -> bool:
    """Whether an error goes to a browser on a page of ours; a program gets the API's everywhere."""
    return is_console(path) and ("text/html" in headers.get("accept", "") or headers.get("hx-request") == "true")


def is_open(path: str) -> bool:
    """What is given without a key: the log-in page and what it is made of."""
    return path in (LOGIN, "/ui/logout") or path.startswith("/ui/static/")


def visible(scopes: Sequence[str]) -> list[Page]:
    """The pages that a key of these scopes may open."""
    return [page for page in PAGES if page.scope in scopes or "admin" in scopes]


def by_tls(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy that is nearest to it."""
    told = Headers(scope=scope).get("x-forwarded-proto", scope["scheme"])
    return told.partition(",")[0].strip().lower() == "https"


def cookie_name(scope: Scope) -> str:
    """The cookie that holds this browser's session."""
    return COOKIE_BY_TLS if by_tls(scope) else COOKIE


def session_in(scope: Scope) -> str:
    """What a browser keeps of its log-in; empty = nothing."""
    return cookie_parser("; ".join(Headers(scope=scope).getlist("cookie"))).get(cookie_name(scope), "")


def policy_of(page: str) -> str:
    """The policy of a report that brings its styles along: they are allowed by their sums, and nothing else is."""
    sums = [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in STYLE.findall(page)]
    styles = " ".join(f"'sha256-{one}'" for one in sums) or "'none'"
    return f"default-src 'none'; style-src {styles}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"


@cache
def environment() -> Environment:
    """The templates. All text is escaped but what a template marks as ours."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FOLDER / "templates" / "console"
    return Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def error_html(status: int, message: str, *, fragment: bool, scopes: Sequence[str] = (), key_id: str = "") -> str:
    """What went wrong, as a sentence into a page (`fragment`) or as a page of its own."""
    values: dict[str, Any] = {"message": sentence(message), "kind": "error", "status": status}
    if not fragment:
        values |= {"pages": visible(scopes), "current": "", "key_id": key_id}
    return environment().get_template("message.html" if fragment else "error.html").render(values)
