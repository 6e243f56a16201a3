"""What goes over the wire: requests, replies, errors. Unknown fields are refused at every depth."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StringConstraints

from evaluation.ab_log import LARGEST_VALUE
from evaluation.experiment import Experiment, Identifier
from evaluation.experiment import Name as ArmName
from evaluation.online import ArmStop, Status
from exchange.records import Message, PublicExample, Record, Source


def _encodable(text: str) -> str:
    """JSON's \\ud800 becomes a lone surrogate that Python carries on and that every tokenizer and every reply would choke on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return text


def _encodable_message(message: Message) -> Message:
    _encodable(message.content)
    return message


Text = Annotated[str, AfterValidator(_encodable)]
Turn = Annotated[Message, AfterValidator(_encodable_message)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MOST_OUTCOMES = 1000
"""Outcomes of one batch."""


class InstructRequest(Record):
    """A query for which an instruction is wanted."""

    query: Text = Field(description="The user's text; must not be blank.")
    system: Text | None = Field(
        default=None, description="The app's system prompt. The student gets it as it is; the teacher does not see it."
    )
    history: tuple[Turn, ...] | None = Field(default=None, description="Earlier turns, oldest first.")
    task: Name | None = Field(default=None, description="The kind of question; none = the task the teacher was trained on.")
    student: Name | None = Field(default=None, description="The model that will answer, for the caller's own records.")
    unit: Name | None = Field(default=None, description="Who asks, so that an experiment gives one user one arm.")
    experiment: Name | None = Field(
        default=None, description="The experiment to take part in; where none of that name runs, the reply's is null."
    )
    covariate: float | None = Field(
        default=None,
        ge=-LARGEST_VALUE,
        le=LARGEST_VALUE,
        description="Something known of the unit before, such as its earlier mean; it makes an experiment's interval narrower.",
    )
    force_arm: ArmName | None = Field(
        default=None, description="Puts this request into an arm of the experiment for a look by hand; no analysis counts it."
    )

    def example(self, request_id: str, task: str) -> PublicExample:
        """The request as the line's record; `task` where the request names none."""
        return PublicExample(
            id=request_id, task=self.task or task, split="served", query=self.query, system=self.system, history=self.history or ()
        )


class InstructBatchRequest(Record):
    """Several queries at once; they share the teacher's batches with everybody else's."""

    items: tuple[InstructRequest, ...] = Field(min_length=1)


class TeacherName(Record):
    """Which teacher: its id and the sum over its files."""

    id: str
    sha256: str


class Assignment(Record):
    """The experiment and the arm that a request fell into."""

    id: str
    arm: str


class InstructReply(Record):
    """The instruction, and the conversation to send to the student."""

    instruction: str
    messages: tuple[Message, ...]
    source: Source
    teacher: TeacherName | None = Field(description="Who wrote the instruction or chose silence; null for a passthrough.")
    request_id: str
    experiment: Assignment | None
    degraded: str | None = Field(description="Why this is a passthrough (also the header WST-Degraded); null otherwise.")
    timings_ms: dict[str, float] = Field(description="total; queue: until the teacher began; teacher: its `generate`.")


class ErrorDetail(Record):
    """What went wrong, for programs (`type`) and for people (`message`)."""

    type: str
    message: str
    request_id: str


class ErrorReply(Record):
    """The one shape of every error."""

    error: ErrorDetail


class InstructBatchReply(Record):
    """One reply an item, in order; each has its own request id. One that failed is an error in its place, where the key has
    `on_failure: error`."""

    items: tuple[InstructReply | ErrorReply, ...]
    request_id: str


class OutcomeRequest(Record):
    """What became of a request or a unit. One value a request (or unit) and metric, unless each has its own idempotency key."""

    request_id: Name | None = Field(default=None, description="The reply's `request_id`.")
    unit: Name | None = Field(default=None, description="With `experiment` in place of `request_id`.")
    experiment: Identifier | None = None
    metric: ArmName
    value: StrictBool | StrictInt | StrictFloat = Field(description="true and false count as 1 and 0.")
    idempotency_key: Name | None = Field(
        default=None, description="Also as the header Idempotency-Key. The same key again is the same outcome, or a conflict."
    )
    time: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="When it happened, seconds since 1970; none = now. Attribution windows go by it.",
    )


class OutcomeBatchRequest(Record):
    """Several outcomes at once; where all have the right shape, each is taken or refused by itself."""

    items: tuple[OutcomeRequest, ...] = Field(min_length=1, max_length=MOST_OUTCOMES)


class OutcomeReply(Record):
    """The outcome is on the disk."""

    request_id: str | None
    experiment: Assignment | None
    metric: str
    value: float
    duplicate: bool = Field(description="Whether it had been reported before.")


class OutcomeItem(Record):
    """What became of one outcome of several."""

    status: int = Field(description="As of a request of its own: 200, 404, 409, 422 or 503 (send it again).")
    outcome: OutcomeReply | None
    error: ErrorDetail | None


class OutcomeBatchReply(Record):
    """One item an outcome, in order. Those of status 200 are on the disk."""

    items: tuple[OutcomeItem, ...]


class ErasedReply(Record):
    """What was kept of a unit is gone."""

    erased: int = Field(description="Events of the unit that this replica had.")


class RampRequest(Record):
    """How many units take part from now on."""

    enrolled: float = Field(ge=0.0, le=1.0, description="Share of the units; not less than before.")


class StopRequest(Record):
    """Why an experiment is stopped."""

    reason: Annotated[Text, StringConstraints(max_length=500)] = "by hand"


class ExperimentReply(Record):
    """An experiment as it stands."""

    id: str
    status: Status
    stop_reason: str | None
    enrolled: float
    stopped_arms: dict[str, ArmStop]
    definition: Experiment


class ExperimentsReply(Record):
    """All of the caller's experiments, oldest first."""

    experiments: tuple[ExperimentReply, ...]
