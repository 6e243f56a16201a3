"""Every error leaves as `{"error": {"type", "message", "request_id"}}`. Messages name fields and limits, never what the caller sent."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evaluation.experiment import Arm, Experiment, Guardrail, Metric
from server.wire import ErrorDetail, ErrorReply, InstructBatchRequest, InstructRequest, OutcomeBatchRequest, OutcomeRequest
from store import StoreError

log = logging.getLogger("wst.server")

TYPES = {
    400: "not_json",
    401: "no_key",
    403: "not_allowed",
    429: "quota",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    422: "invalid_field",
    431: "too_large",
    500: "internal",
    502: "student_unreachable",
    503: "capacity",
    504: "student_timeout",
}
MODELS = (InstructRequest, InstructBatchRequest, OutcomeRequest, OutcomeBatchRequest, Experiment, Arm, Metric, Guardrail)
FIELDS = tuple(name for model in MODELS for name in model.model_fields)
NOT_JSON = "the body must be a JSON object, sent with Content-Type: application/json"

OURS = {
    "There was an error parsing the body": NOT_JSON,  # not UTF-8, nested too deeply, a number of thousands of digits
    "Not Found": "no such route",
    "Method Not Allowed": "this route does not take this method; the header Allow names those it takes",
}
"""FastAPI's and Starlette's texts, said so that they help."""


class InvalidField(HTTPException):
    """A field that the schema allows and this server's settings or sense do not."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(422, f"{field}: {message}")


class Conflict(HTTPException):
    """What is asked for contradicts what stands."""

    def __init__(self, message: str) -> None:
        super().__init__(409, message)


class Unknown(HTTPException):
    """What is asked for does not exist, or belongs to another tenant; the two are not told apart."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class Unavailable(HTTPException):
    """Not now; the caller sends it again."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, {"Retry-After": "1"})


class BrokenOffError(ConnectionError):
    """An answer that had begun has no end. Leaves the app, so that the web server closes the connection and the caller sees it."""


def error_response(status: int, message: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response that says `error_reply`."""
    return JSONResponse(error_reply(status, message, request_id).model_dump(), status, headers)


def error_reply(status: int, message: str, request_id: str) -> ErrorReply:
    """The one shape of an error. `message` may hold lone surrogates from a caller's field name; JSON over UTF-8 cannot."""
    kind = TYPES.get(status, "error")
    return ErrorReply(error=ErrorDetail(type=kind, message=message.encode("utf-8", "replace").decode(), request_id=request_id))


def install(app: FastAPI) -> None:
    """Let the app answer refused requests, unknown routes and wrong methods in our shape."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(StoreError, _store_error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers is not None else None
    return error_response(error.status_code, OURS.get(error.detail, error.detail), request.state.request_id, headers)


async def _store_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s: %s", request.state.request_id, error)
    return error_response(
        503, "the event log does not take this now, nothing was kept; try again", request.state.request_id, {"Retry-After": "1"}
    )


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Not JSON, no body at all, or bytes that FastAPI did not take for JSON by their content type.
    if first["type"] == "json_invalid" or (first["type"] == "missing" and len(first["loc"]) == 1) or isinstance(error.body, bytes):
        return error_response(400, NOT_JSON, request.state.request_id)
    return error_response(422, _explain(error.errors()), request.state.request_id)


def _explain(errors: Sequence[dict[str, Any]]) -> str:
    """The first problem in one line; an unknown field goes before what it leaves missing."""
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"][1:]] or ["body"]
    # A field name is the caller's text: kept short, and printable for the logs of whoever prints the message.
    where = ascii(".".join(path)[:200])[1:-1]
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1][:200], FIELDS, n=1, cutoff=0.6)
        return f"{where}: no such field" + (f"; did you mean {near[0]}?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}"
