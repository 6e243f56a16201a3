"""Log in, log out, the home page, the vendored files, and errors as sentences."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from server import errors
from server.console import experiments, playground, runs, teachers, traffic
from server.console.address import FOLDER, HEADERS, HOME, LOGIN, by_tls, cookie_name, for_a_reader, visible
from server.console.page import caller_of, console_router, form_of, piece, refusal
from server.keys import KeyRing
from store import StoreError

router = console_router()


@router.get("/")
async def get_home(request: Request) -> Response:
    """The first page that the caller's key opens."""
    pages = visible(caller_of(request).scopes)
    if not pages:
        raise HTTPException(403, "this key opens no page; it needs one of the scopes instruct, metrics, experiments, admin")
    if pages[0].name == "Playground":
        return await playground.get_playground(request)
    return RedirectResponse(pages[0].path, 303)


@router.get("/ui/login")
async def get_login(request: Request) -> Response:
    """Asks for a key."""
    if request.app.state.keys is None:
        return RedirectResponse(HOME, 303)
    return piece("login.html", pages=(), current="", key_id="", message="", kind="")


@router.post("/ui/login")
async def post_login(request: Request) -> Response:
    """Opens a session: a cookie that no script reads and no other site's request carries, until the browser is closed, hours at most."""
    keys: KeyRing | None = request.app.state.keys
    given = (await form_of(request)).get("key", "").strip()
    if keys is None:
        return RedirectResponse(HOME, 303)
    session = keys.open_session(given)
    if session is None:
        message = "No key of this server, or one that has expired or was revoked."
        return piece("login.html", status=401, pages=(), current="", key_id="", message=message, kind="error")
    gone = RedirectResponse(HOME, 303, HEADERS)
    gone.set_cookie(cookie_name(request.scope), session, httponly=True, samesite="strict", secure=by_tls(request.scope))
    return gone


@router.post("/ui/logout")
async def post_logout(request: Request) -> Response:
    """Has the browser forget the session."""
    gone = RedirectResponse(LOGIN, 303, HEADERS)
    gone.delete_cookie(cookie_name(request.scope), secure=by_tls(request.scope), httponly=True, samesite="strict")
    return gone


def install(app: FastAPI) -> None:
    """Put the console into the app. After the API, whose error handlers it keeps for the API's paths."""
    for part in (router, playground.router, traffic.router, teachers.router, experiments.router, runs.router):
        app.include_router(part)
    app.state.looks = {}
    app.mount("/ui/static", StaticFiles(directory=FOLDER / "static"), name="console-static")
    api_refuses, api_store = app.exception_handlers[HTTPException], app.exception_handlers[StoreError]

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not for_a_reader(request.scope["path"], request.headers):
            return await api_refuses(request, error)  # type: ignore[no-any-return, misc]
        return refusal(request, error.status_code, errors.OURS.get(error.detail, error.detail))

    async def store_fails(request: Request, error: Exception) -> Response:
        if not for_a_reader(request.scope["path"], request.headers):
            return await api_store(request, error)  # type: ignore[no-any-return, misc]
        return refusal(request, 503, "the event log does not take this now, nothing was kept; try again")

    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(StoreError, store_fails)
