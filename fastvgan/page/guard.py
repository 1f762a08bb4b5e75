"""What the page's server answers: its own routes and files only."""

import json
import os
import re
from collections.abc import Iterator

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastvgan.page.files import Files

MOST_UPLOAD = 10 * 2**20
"""Bytes of an uploaded picture."""
_MOST_BODY = 2**20  # bytes of any other request
_UPLOAD = "/gradio_api/upload"
_FILE = "/gradio_api/file="
# Gradio has many more: a proxy, a fetcher of other sites' files, editors of the page's source, monitoring.
_ROUTES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon)/?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(theme\.css|info/?|app_id/?|startup-events|upload|upload_progress|cancel|reset/?)"
    r"|/gradio_api/(queue/(join|data)|heartbeat/[\w-]+|run/\w+/?)"
)


class Guard:
    """ASGI middleware that refuses every request that the page does not make.

    Args:
        app: the application.
        files: the files that are served.
    """

    def __init__(self, app: ASGIApp, files: Files):
        self._app = app
        self._files = files
        self._folder = os.path.realpath(files.folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI defines it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket, which is closed by that
        path: str = scope["path"]
        if not (self._is_ours(path.removeprefix(_FILE)) if path.startswith(_FILE) else _ROUTES.fullmatch(path)):
            await _refuse(403, f"not allowed: {path}", scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            most = MOST_UPLOAD + _MOST_BODY if path == _UPLOAD else _MOST_BODY
            size = _length(scope)
            if size is None or size > most:
                await _refuse(413, f"send at most {most:,} bytes, with their number", scope, receive, send)
                return
            if path == _UPLOAD:
                await run_in_threadpool(self._files.sweep)  # the size of all uploads has a limit, too
            else:
                body = await _read(receive)
                if _names_url(body):
                    await _refuse(403, "not allowed: a file of another site", scope, receive, send)
                    return
                receive = _replay(body, receive)
        await self._app(scope, receive, send)

    def _is_ours(self, path: str) -> bool:
        if not os.path.isabs(path) or "\0" in path:
            return False
        real = os.path.realpath(path)
        return real.startswith(self._folder + os.sep) and os.path.isfile(real)


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(reason, status)(scope, receive, send)


def _length(scope: Scope) -> int | None:
    found = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(found[0]) if len(found) == 1 and found[0].isdigit() else None


async def _read(receive: Receive) -> bytes:
    """Read a whole body, which the server has bounded by the length in its header."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(waiting, None) or await receive()

    return receive_again


def _names_url(body: bytes) -> bool:
    """Return whether a JSON body names a file by a URL, which Gradio would download."""
    try:
        parts = [json.loads(body or b"null")]
    except (ValueError, RecursionError):
        return False  # Gradio refuses it
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "://" in str(part.get("path", "")):
                return True
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return False
