"""The way to an OpenAI-compatible server: many requests at a time, at a rate, with patience.

The client is the package `openai` (extra `llm`), which waits and asks again after 408, 409, 429
and 5xx, lost connections and time-outs, as long as Retry-After says or ever longer. The key is read
from $OPENAI_API_KEY; local servers need none.
"""

import asyncio
import dataclasses
import functools
import importlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from data_pipelines.ldat.answers import BadAnswer
from data_pipelines.ldat.interfaces import Failure
from data_pipelines.ldat.patience import Patience

Question = TypeVar("Question")
Answer = TypeVar("Answer")
_REFUSALS = (400, 401, 403, 404, 405, 422)  # another request of the kind would be refused, too


@dataclasses.dataclass(frozen=True)
class Server:
    """Where and how to ask; see `configs/ldat.py`."""

    base_url: str
    model: str
    concurrency: int
    requests_per_minute: float
    timeout: float  # seconds for one request
    retries: int  # of the client, per request, for what the server cannot answer now
    attempts: int  # for answers that are no translation
    temperature: float
    max_tokens: int


class Connection:
    """Asks a server many questions at a time.

    option: the config field that names the model, for messages.

    Raises ValueError without a model's name.
    """

    def __init__(self, server: Server, option: str = "--config.openai.model"):
        if not server.model:
            raise ValueError(
                f"{option} is empty; give the name under which the server at "
                f"{server.base_url} offers its model"
            )
        self.server, self._option = server, option
        self._runner: asyncio.Runner | None = None
        self._next_start = 0.0  # of a request, in time.monotonic()
        self._patience = Patience(server.base_url)

    def answers(
        self,
        ask: Callable[[Question], Awaitable[Answer | Failure]],
        questions: Sequence[Question | Failure],
    ) -> list[Answer | Failure]:
        """What `ask` says to each question; a `Failure` among them is its own answer.

        Raises:
          ValueError: the server refuses requests of this kind: address, key, model or fields; or
            the last 100 answers were failures.
        """
        self._patience.check()
        if self._runner is None:  # one event loop for all calls: connections belong to it
            self._runner = asyncio.Runner()
        found = self._runner.run(self._all(ask, questions))
        self._patience.count(found)
        return found

    async def _all(self, ask: Any, questions: Sequence[Any]) -> list[Any]:
        slots = asyncio.Semaphore(self.server.concurrency)

        async def in_turn(question: Any) -> Any:
            if isinstance(question, Failure):
                return question
            async with slots:
                return await ask(question)

        return await asyncio.gather(*map(in_turn, questions))

    async def call(self, request: Callable[[Any], Awaitable[Any]]) -> Any:
        """The reply to request(client), or a `Failure` where asking again would not help.

        Raises:
          BadAnswer: the reply is no JSON.
          ValueError: the server refuses.
        """
        await self._wait_for_rate()
        try:
            return await request(self._client)
        except json.JSONDecodeError as error:
            raise BadAnswer(f"malformed JSON: {error}") from None
        except self._package.APIStatusError as error:
            if error.status_code in _REFUSALS:
                raise ValueError(self._refusal(error)) from None
            return Failure(f"HTTP {error.status_code} after {self.server.retries} retries")
        except self._package.APIError as error:  # time-outs and lost connections
            return Failure(f"{type(error).__name__} after {self.server.retries} retries")

    async def _wait_for_rate(self) -> None:
        """Holds back until the next request may start."""
        if rate := self.server.requests_per_minute:
            start = max(self._next_start, time.monotonic())
            self._next_start = start + 60 / rate
            await asyncio.sleep(start - time.monotonic())

    def _refusal(self, error: Any) -> str:
        said = " ".join(str(error.message).split())[:200]
        return (
            f"{self.server.base_url} refuses requests for the model {self.server.model!r}: "
            f"{said}; correct --config.openai.base_url, {self._option} or $OPENAI_API_KEY"
        )

    @functools.cached_property
    def _package(self) -> Any:
        try:
            return importlib.import_module("openai")
        except ModuleNotFoundError:
            raise ValueError(
                "an endpoint needs the package openai; pip install 'tipr_jax[llm]'"
            ) from None

    @functools.cached_property
    def _client(self) -> Any:
        return self._package.AsyncOpenAI(
            base_url=self.server.base_url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=self.server.timeout,
            max_retries=self.server.retries,
        )
