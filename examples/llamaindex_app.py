"""LlamaIndex through the proxy (pip install llama-index-llms-openai-like).

python examples/llamaindex_app.py http://localhost:8000/v1 student "Ruth has 8 stamps but needs 47. How many stamps are missing?"
"""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base_url, model, question = sys.argv[1:]
llm = OpenAILike(
    model=model, api_base=base_url, is_chat_model=True, context_window=8192, max_tokens=40, temperature=0,
    default_headers={"WST-Unit": "user-17"},
)  # fmt: skip
print("answer:", llm.chat([ChatMessage(role="user", content=question)]).message.content)
