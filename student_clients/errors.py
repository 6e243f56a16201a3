"""What can go wrong with a student, as one tree. Each adapter translates foreign exceptions into it once, at its boundary.

    StudentError
    ├── StudentUnreachable       no connection, or it broke off                    retryable
    │   └── StudentNotConnected  the request never reached the server              retryable
    ├── StudentTimeout           no whole answer within `timeout_s`                retryable
    ├── StudentRateLimited       429; `retry_after_s` if the server said when      retryable
    ├── StudentServerError       5xx                                               retryable
    ├── StudentBadResponse       half JSON, wrong content type, no choices         retryable
    ├── StudentAuthError         401, 403: the key is missing, wrong or not allowed
    ├── StudentQuotaExhausted    429 of an account without credit: waiting does not help
    ├── StudentUnknownModel      404: no such model, or no such path
    ├── StudentBadRequest        any other 4xx; a prompt that does not fit the context
    └── StudentContentFiltered   the provider's filter withheld the answer

The text of an error is one line that says what to do. It never holds an API key: adapters strike the key out of what servers say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from student_clients.forwarding import RefusedReply
    from student_clients.usage import Usage


class StudentError(Exception):
    """A student gave no answer. `retryable`: the same request may succeed later."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.reply: RefusedReply | None = None
        """What the server itself said to a forwarded request; None = nothing, or the request was ours."""
        self.usage = usage
        """Tokens of a reply that held no answer and is billed all the same; None = unknown, or nothing was generated."""
        self.retry_after_s = retry_after_s
        """Seconds that the server asked us to wait; None = it did not say."""


class StudentUnreachable(StudentError):
    retryable = True


class StudentNotConnected(StudentUnreachable):
    pass


class StudentTimeout(StudentError):
    retryable = True


class StudentRateLimited(StudentError):
    retryable = True


class StudentServerError(StudentError):
    retryable = True


class StudentBadResponse(StudentError):
    retryable = True


class StudentAuthError(StudentError):
    pass


class StudentQuotaExhausted(StudentError):
    pass


class StudentUnknownModel(StudentError):
    pass


class StudentBadRequest(StudentError):
    pass


class StudentContentFiltered(StudentError):
    pass
