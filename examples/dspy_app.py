"""A DSPy module that asks `/instruct` and puts the instruction into its own signature (pip install dspy).

The module keeps its answer where the service is away: an instruction is an input that may be empty.

    python examples/dspy_app.py http://localhost:8000 student "Ruth has 8 stamps but needs 47. How many stamps are missing?"
"""

import json
import sys
import urllib.request

import dspy
from dspy.utils.exceptions import AdapterParseError


class Instructed(dspy.Module):
    """Asks the service for an instruction, then the student."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service
        self.answer = dspy.Predict("advice, question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(advice=self.instruction(question), question=question)

    def instruction(self, question: str) -> str:
        request = urllib.request.Request(
            f"{self.service}/instruct", json.dumps({"query": question}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=3) as reply:
                return str(json.load(reply)["instruction"])
        except OSError:  # fail open: no advice
            return ""


if __name__ == "__main__":
    service, model, question = sys.argv[1:]
    dspy.configure(lm=dspy.LM(f"openai/{model}", api_base=f"{service}/v1", max_tokens=60, extra_headers={"WST-Instruct": "off"}))
    module = Instructed(service)
    print("instruction:", module.instruction(question))
    try:
        print("answer:", module(question=question).answer)
    except AdapterParseError:  # DSPy wants its fields back, which a tiny student does not give; a real one does
        print("answer: (not in DSPy's form)")
