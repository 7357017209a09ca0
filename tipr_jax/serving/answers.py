"""How a request is refused, in one line as JSON or as a page; the headers of every answer."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tipr_jax.serving.page.rendering import render

# Nothing from another host, no script or style in the page itself, in nobody's frame. The sentence
# of a search stands in the address, so other sites are not told where a visitor came from.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Problem(BaseModel):
    """Why a request was refused, and what to change."""

    detail: str


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may be refused with these statuses."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses
    }


def later(status: int, detail: str, seconds: int = 1) -> HTTPException:
    """An error whose cause passes: try again in so many seconds."""
    return HTTPException(status, detail, {"Retry-After": str(seconds)})


def refusal(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """What a refused request gets: a page for browsers, JSON below /api and for programs."""
    headers, detail = dict(headers or {}), " ".join(detail.split())
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api"):
        return JSONResponse({"detail": detail}, status, headers)
    again = headers.get("Retry-After", "")
    if again and request.method == "GET":
        headers["Refresh"] = again
    context = {"title": HTTPStatus(status).phrase, "lines": [detail]}
    return render(request, "message.html", context, status, headers)


class Headers:
    """Middleware that gives every answer `HEADERS`, unless its handler chose otherwise."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
