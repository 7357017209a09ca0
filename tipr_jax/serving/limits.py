"""How much a request may send, and which values: what is refused before anything works on it."""

import contextlib
import datetime
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tipr_jax.preprocess.image import MAX_BYTES
from tipr_jax.serving.answers import later, refusal

SENTENCE_CHARACTERS = 600  # text encoders read the first 77 tokens or so
NAME_CHARACTERS = 200
PAGE_ITEMS = 100
BODY_BYTES = 64 * 2**10
UPLOAD_BYTES = MAX_BYTES + BODY_BYTES  # one picture and the fields beside it
UPLOADS = ("/api/items", "/items", "/api/pictures", "/search")  # where pictures are sent to


def _iso(text: str) -> str:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a time, as in 2026-11-29T14:30") from None
    return text


# JSON can write a NUL, which no sentence and no name has.
NO_NUL = r"^[^\x00]*$"
Sentence = Annotated[str, StringConstraints(max_length=SENTENCE_CHARACTERS, pattern=NO_NUL)]
Name = Annotated[str, StringConstraints(max_length=NAME_CHARACTERS, pattern=NO_NUL)]
Time = Annotated[str, StringConstraints(max_length=40), AfterValidator(_iso)]
Word = Annotated[str, StringConstraints(max_length=40, pattern=r"^[A-Za-z0-9_-]*$")]
ItemId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Offset = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=PAGE_ITEMS)]


class Room:
    """For so many requests at a time; what: they are, as in "pictures"."""

    def __init__(self, size: int, what: str):
        self._size, self._what, self._taken = size, what, 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Raises HTTPException, 429, when there is none left."""
        if self._taken >= self._size:
            raise later(429, f"{self._size} {self._what} wait already; try again")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class BodyLimit:
    """Middleware that refuses a body above its cap, by its declared size or when it passes it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cap = UPLOAD_BYTES if scope["path"] in UPLOADS else BODY_BYTES
        request, seen = Request(scope), 0
        problem = f"the request has more than {cap:,} bytes; send less"
        if (declared := request.headers.get("content-length", "0")).isdecimal():
            if int(declared[:20]) > cap:
                await refusal(request, 413, problem)(scope, receive, send)
                return

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > cap:
                raise HTTPException(413, problem)
            return message

        await self._app(scope, counting, send)
