"""Teachers: who serves, what was measured of it, another one in its place, and back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from exchange.settings import SettingError
from server.console.inside import Reply, call
from server.console.page import console_router, form_of, page, piece
from server.console.run_files import all_runs, headline_of
from server.console.wording import sentence
from server.reload import Reloads
from server.teachers import DEFAULT, Desk, folder_of
from teacher.folder import read_manifest
from teacher.run_directory import runs_dir

router = console_router()


@router.get("/ui/teachers")
async def get_teachers(request: Request) -> Response:
    """The page."""
    return page(request, "teachers.html", "Teachers", **await _values(request))


@router.post("/ui/teachers/{name}/load")
async def post_load(name: str, request: Request) -> Response:
    """Put the teacher of a run in its place."""
    run = (await form_of(request)).get("run") or None
    return await _done(request, name, f"/teachers/{name}/reload", {"run": run})


@router.post("/ui/teachers/{name}/rollback")
async def post_rollback(name: str, request: Request) -> Response:
    """Put back the one before."""
    return await _done(request, name, f"/teachers/{name}/rollback", None)


async def _done(request: Request, name: str, path: str, body: Any) -> Response:
    """The list after an action, with what became of it."""
    before = request.app.state.teachers.get(name)
    try:
        reply: Reply = await call(request, "POST", path, body)
    except HTTPException as error:
        if before is None:
            raise
        values = await _values(request, sentence(error.detail), "error")
        return piece("teachers_list.html", status=error.status_code, **values)
    same = before is not None and before.teacher.sha256 == reply.json["sha256"]
    said = "is the one that serves already" if same else "serves now"
    return piece("teachers_list.html", **await _values(request, f"{name}: {reply.json['id']} {said}.", "done"))


async def _values(request: Request, message: str = "", kind: str = "") -> dict[str, Any]:
    teachers = request.app.state.teachers
    shown = [_shown(request, name, teachers.get(name)) for name in teachers.names()]
    runs = [run for run in await asyncio.to_thread(all_runs) if run.loadable]
    return {"teachers": shown, "runs": runs, "message": message, "kind": kind}


def _shown(request: Request, name: str, desk: Desk) -> dict[str, Any]:
    reloads: Reloads = request.app.state.reloads
    teacher, folder = desk.teacher, folder_of(desk.teacher)
    manifest: dict[str, Any] = {}
    if folder is not None:
        with suppress(SettingError):  # removed since it was loaded: what serves is in memory
            manifest = read_manifest(folder)
    beside = folder.parent if folder is not None and folder.absolute().parent.parent == runs_dir().absolute() else None
    return {
        "name": name, "id": teacher.id, "sha256": teacher.sha256, "task": teacher.task, "folder": folder, "manifest": manifest,
        "headline": headline_of(beside) if beside is not None else None, "run": beside.name if beside is not None else None,
        "previous": reloads.previous(name), "by_config": name == DEFAULT or name in request.app.state.settings.teachers,
    }  # fmt: skip
