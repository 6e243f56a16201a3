"""The kinds of answer that can be graded, by name."""

from __future__ import annotations

from typing import Literal

AnswerType = Literal["number", "math", "choice", "yes_no", "roles", "text"]
"""number: one plain number; math: any mathematical answer in LaTeX; choice: a letter; yes_no; roles: who is a knight and who a knave;
text: the same words."""
