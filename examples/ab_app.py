"""An app in an A/B test: each user asks one question, the service gives the user an arm, and whether the answer was right is reported.

python examples/ab_app.py http://localhost:8000 student first 200

The questions are the lab's, so that the app knows the right answers; yours would report what your users do. The experiment is started here,
raw against the teacher that serves, unless one of that name is there (from the console, say).
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx2
from openai import OpenAI

from tasks.lab_arithmetic import load

service, model, experiment, users = sys.argv[1:]
key = os.environ.get("WST_KEY", "none")  # a key of the service, where it has keys
api = httpx2.Client(base_url=service, headers={"Authorization": f"Bearer {key}"}, timeout=60)
student = OpenAI(base_url=f"{service}/v1", api_key=key)

if api.get(f"/experiments/{experiment}").status_code == 404:
    teacher = api.get("/readyz").json()["teacher"]["sha256"]
    arms = [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "teacher", "teacher": teacher, "weight": 0.5}]
    definition = {"id": experiment, "arms": arms, "control": "raw", "metric": {"name": "resolved", "kind": "binary"}, "planned_n": 400}
    api.post("/experiments", json=definition).raise_for_status()


def serve(number: int) -> None:
    """One user: a question, an answer, what became of it."""
    question = questions[number]
    reply = student.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": question.query}],
        max_tokens=60,
        temperature=0,
        extra_headers={"WST-Experiment": experiment, "WST-Unit": f"user-{number}"},
    )
    right = (reply.parse().choices[0].message.content or "").rpartition("####")[2].strip() == question.gold
    outcome = {"unit": f"user-{number}", "experiment": experiment, "metric": "resolved", "value": right}
    api.post("/outcomes", json=outcome).raise_for_status()


questions = load("test", limit=int(users))
with ThreadPoolExecutor(4) as pool:
    list(pool.map(serve, range(len(questions))))
print(api.get(f"/experiments/{experiment}/report").json()["verdict"])
