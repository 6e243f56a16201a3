"""Playground: a query as an app would send it, and what becomes of it on the line."""

from __future__ import annotations

import json
from time import perf_counter

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from server.console.inside import call
from server.console.page import console_router, form_of, json_field, may, page, piece
from server.console.run_files import at, number
from server.openai_body import OWN_FIELD

router = console_router()

EXAMPLE = "Ruth has 8 stamps but needs 47. How many stamps are missing?"
REASONS = {
    "timeout": "The teacher did not write in time (WST_DEADLINE_MS).",
    "overloaded": "Too many requests wait for the teacher.",
    "teacher_failed": "The teacher failed; the server's log says how.",
    "teacher_down": "The teacher failed several times in a row and is left alone for a while.",
    "teacher_not_loaded": "The experiment's arm names a teacher that this server has not loaded.",
    "query_too_long": "The query is longer than the teacher reads.",
    "over_budget": "The budget of this key for today (UTC) is spent.",
    "budget_unknown": "The budget of this key cannot be asked now.",
    "mode_off": "The mode of this key is off (see Traffic).",
    "mode_shadow": "The mode of this key is shadow: the teacher writes for the log alone (see Traffic).",
    "canary": "The mode of this key is canary, and this request is not among those that are instructed.",
    **{
        f"refused_{reason}": f"The guard refused the instruction: it {why}."
        for reason, why in {
            "too_long": "is too long",
            "chat_marker": "holds the marks of a chat template",
            "role_line": "poses as another speaker",
            "tool_call": "calls a tool",
            "markup": "holds markup",
            "address": "holds an address",
            "encoded": "holds encoded text",
            "injected": "orders to disregard the rules or to give secrets away",
            "system_text": "repeats the app's system prompt",
            "query_text": "repeats the query",
        }.items()
    },
}
"""Why the messages went out raw."""


@router.get("/ui/playground")
async def get_playground(request: Request) -> Response:
    """The form."""
    state = request.app.state
    students = list(state.students) if may(request, "proxy") else []
    example = EXAMPLE if state.teachers.default.teacher.task.startswith("lab_") else ""
    return page(request, "playground.html", "Playground", students=students, teachers=state.teachers.names(), example=example)


@router.post("/ui/playground")
async def post_playground(request: Request) -> Response:
    """The instruction and the messages; the answers are fetched by the page, each as soon as it is there."""
    form = await form_of(request)
    body = {"query": form.get("query", ""), **({"system": form["system"]} if form.get("system") else {})}
    reply = (await call(request, "POST", "/instruct", body, {"wst-teacher": form.get("teacher") or "default"})).json
    student = form.get("student", "")
    answers = []
    if student:
        raw = [{"role": "system", "content": form["system"]}] if form.get("system") else []
        raw.append({"role": "user", "content": body["query"]})
        if reply["instruction"]:
            answers.append({"title": "Instructed", "sent": {"student": student, "messages": json.dumps(reply["messages"])}})
        answers.append({"title": "Raw", "sent": {"student": student, "messages": json.dumps(raw)}})
    reason = REASONS.get(reply["degraded"] or "", "The server gave no instruction.")
    return piece("instructed.html", reply=reply, reason=reason, student=student, answers=answers)


@router.post("/ui/playground/answer")
async def post_answer(request: Request) -> Response:
    """One answer of the student to messages that are ready: through the proxy, which is told to leave them as they are."""
    form = await form_of(request)
    body = {"model": form.get("student", ""), "messages": json_field(form, "messages"), OWN_FIELD: {"instruct": False}}
    began = perf_counter()
    reply = await call(request, "POST", "/v1/chat/completions", body)
    ms = 1000 * (perf_counter() - began)
    try:
        choice = reply.json["choices"][0]
        text, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise HTTPException(502, "the student's answer cannot be read: it is no chat completion") from None
    usage = [number(at(reply.json, "usage", name)) for name in ("prompt_tokens", "completion_tokens")]
    return piece("answer.html", text=text or "(no text)", ms=ms, usage=usage, finish=finish)
