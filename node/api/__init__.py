"""The HTTP API: a plain ASGI function for commands, Starlette for the rest, problems for errors."""
