"""The console at `/`: the service for people. Pages made by the server, a vendored htmx, no build step, nothing loaded from elsewhere.

What it shows and does it takes from the HTTP API, called in process as its caller (`inside.py`): the same checks, scopes, budgets and
sentences. Who has an API key logs in with it; without keys the console is as open to this machine as the other routes are.
"""
