"""The client side: instructions for an app that calls its model itself, and never a reason for the app to fail.

from sdk import Teacher, wrap

client = wrap(OpenAI(), "http://teacher:8000", key="wst_…")     every user turn goes out with an instruction
teacher = Teacher("http://teacher:8000", key="wst_…")           or by hand:
advice = teacher.instruct("A bag holds 12 apples …", unit="user-7")
answer = client.chat.completions.create(model="…", messages=advice.messages)
teacher.outcome(advice.request_id, "resolved", True)

Whatever happens to the service, the raw messages come back within the deadline. Needs httpx2, which the openai client brings along.
"""

from __future__ import annotations

from sdk.openai_hook import wrap
from sdk.teacher import Advice, AsyncTeacher, Teacher

__all__ = ["Advice", "AsyncTeacher", "Teacher", "wrap"]
