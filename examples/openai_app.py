"""An app on OpenAI's library: with the proxy it changes its base_url and nothing else.

python examples/openai_app.py http://localhost:8000/v1 student "Ruth has 8 stamps but needs 47. How many stamps are missing?"
"""

import sys

from openai import OpenAI

base_url, model, question = sys.argv[1:]
client = OpenAI(base_url=base_url)  # the key from OPENAI_API_KEY: the service's where it has keys, the provider's stays on the server

reply = client.chat.completions.with_raw_response.create(
    model=model, messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0
)
print("instruction from:", reply.headers["WST-Source"], reply.headers.get("WST-Degraded", ""))
print("answer:", reply.parse().choices[0].message.content)

# One request without an instruction, to compare.
raw = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0, extra_headers={"WST-Instruct": "off"}
)
print("raw answer:", raw.choices[0].message.content)
