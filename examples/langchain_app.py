"""A LangChain chain through the proxy (pip install langchain-openai).

python examples/langchain_app.py http://localhost:8000/v1 student "Ruth has 8 stamps but needs 47. How many stamps are missing?"
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

base_url, model, question = sys.argv[1:]
llm = ChatOpenAI(model=model, base_url=base_url, max_tokens=40, temperature=0, default_headers={"WST-Unit": "user-17"})
chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | llm | StrOutputParser()
print("answer:", chain.invoke({"question": question}))
