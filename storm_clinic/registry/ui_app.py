"""MLflow's server as `serve_ui` runs it: without the assistant, which runs commands on the host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

# It may be asked by anybody on this machine, may be pointed at any language model, has a shell and
# writes files; MLflow has no setting that switches it off.
_CLOSED = "/mlflow/assistant"


def make_app() -> App:
    """MLflow's own application behind a door; found by the entry point in pyproject.toml."""
    from mlflow.server.fastapi_app import app

    return behind_door(app)


def behind_door(app: App) -> App:
    """An application that answers as another does, but 404 where the assistant is."""

    async def answer(
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or _CLOSED not in scope["path"]:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return answer
