"""One page or piece of a page, one form: what the console's routes have in common."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from server.console.address import HEADERS, KEPT, environment, error_html, visible
from server.console.wording import sentence
from server.keys import Caller
from server.routes_experiments import no_foreign_page

MOST_FIELDS = 200


async def own_page(request: Request) -> None:
    """Only a page of this server may act: the cookie is SameSite=Strict, and a server without keys has none. Raises HTTPException."""
    if request.method not in ("GET", "HEAD"):
        await no_foreign_page(request)


def console_router() -> APIRouter:
    """A router of pages: no part of the API's schema, closed to other sites."""
    return APIRouter(include_in_schema=False, dependencies=[Depends(own_page)])


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def may(request: Request, scope: str) -> bool:
    """Whether the page's caller has a scope."""
    scopes = caller_of(request).scopes
    return scope in scopes or "admin" in scopes


def page(request: Request, template: str, current: str, **values: Any) -> Response:
    """A whole page; `current` is its entry in the menu."""
    caller = caller_of(request)
    return piece(template, pages=visible(caller.scopes), current=current, key_id=caller.id, **values)


def piece(template: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """A piece of a page, for htmx to put in its place."""
    return HTMLResponse(environment().get_template(template).render(values), status, {**HEADERS, **(headers or {})})


def said(message: str, kind: str = "done", **more: Any) -> Response:
    """What became of an action, as a sentence."""
    return piece("message.html", message=sentence(message), kind=kind, **more)


def gone_to(path: str) -> Response:
    """Have htmx open another page."""
    return Response(status_code=204, headers={**HEADERS, "HX-Redirect": path})


def refusal(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error for a reader: into the page where htmx asked, else as a page."""
    caller: Caller | None = request.scope["state"].get("caller")
    fragment = request.headers.get("hx-request") == "true"
    about: dict[str, Any] = {"scopes": caller.scopes, "key_id": caller.id} if caller is not None else {}
    if fragment and request.method == "GET":
        headers = {**(headers or {}), **KEPT}
    return HTMLResponse(error_html(status, message, fragment=fragment, **about), status, {**(headers or {}), **HEADERS})


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that were filled in; of a name that comes twice the last. Raises HTTPException."""
    try:
        pairs = parse_qsl((await request.body()).decode(), max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise HTTPException(400, "the form came broken; load the page again") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def json_field(form: dict[str, str], name: str) -> Any:
    """A field that a page of ours filled with JSON. Raises HTTPException."""
    try:
        return json.loads(form[name])
    except (KeyError, ValueError, RecursionError):
        raise HTTPException(400, "the form came broken; load the page again") from None
