"""The service: `POST /instruct` writes an instruction for a query. `python -m server` starts it.

On the line it stands for everything up to `messages`: teacher, guard and composer are the ones that training used. Its promise is that
an app in front of it is never worse off than without it: whatever happens to the teacher, the raw messages come back with status 200
(`source: "passthrough"`). fastapi is imported only in this package.
"""
