"""Texts for all questions that every user tries before they train anything: the controls `static:cot` and `static:cot_format`, and the
candidates among which the best text for all questions is searched.
"""

from __future__ import annotations

from tasks.answer_type import AnswerType
from tasks.lab_language import all_advice

COT = "Let's think step by step."
"""Kojima et al., arXiv 2205.11916."""
FORM: dict[AnswerType, str] = {
    "number": "End with a line `#### ` followed by the final number only.",
    "math": "Put the final answer in \\boxed{}.",
    "choice": "End with a line `Answer: ` followed by the letter of the right option only.",
    "yes_no": "End with a line `Answer: ` followed by yes or no.",
    "roles": "End with one line for each person, `NAME: knight` or `NAME: knave`.",
    "text": "End with a line `Answer: ` followed by the final answer only.",
}


def chain_of_thought(answer_type: AnswerType | None) -> dict[str, str]:
    """Name of the arm -> text; without a form of answer there is only the first."""
    texts = {"static:cot": COT}
    if answer_type is not None:
        texts["static:cot_format"] = f"{COT} {FORM[answer_type]}"
    return texts


def lab_sentences(*, every_wording: bool) -> list[str]:
    """The lab language's instructions: every one, or one wording of each procedure (wording never changes what the student does)."""
    return [a.text for a in all_advice() if every_wording or a.op_phrase == a.order_phrase == a.frame == 0]
