"""Any OpenAI-compatible server (vLLM, Ollama, llama.cpp, a provider) as translator and rewriter.

The client is the package `openai` (extra `llm`), which waits and asks again after 408, 409, 429
and 5xx, lost connections and time-outs, as long as Retry-After says or ever longer. What comes
back is checked here (`answers.py`), asked for again, and recorded as a failure in the end. The key
is read from $OPENAI_API_KEY; local servers need none.
"""

import asyncio
import base64
import dataclasses
import functools
import importlib
import json
import mimetypes
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat import answers, prompt
from data_pipelines.ldat.interfaces import Caption, Failure, Translation
from data_pipelines.ldat.journal import content_key

# Messages, and a check that returns "" for a good answer, else what is wrong with it.
Question = tuple[list[Any], Callable[[str], str]]
_STOP_AFTER = 100  # failures in a row: the server is out of order, and goes on later
_REFUSALS = (400, 401, 403, 404, 405, 422)  # another request of the kind would be refused, too


@dataclasses.dataclass(frozen=True)
class Server:
    """Where and how to ask; see `configs/ldat.py`."""

    base_url: str
    model: str
    concurrency: int
    requests_per_minute: int
    timeout: float  # seconds for one request
    retries: int  # of the client, per request, for what the server cannot answer now
    attempts: int  # for answers that are no translation
    temperature: float
    max_tokens: int


class Endpoint:
    """Asks a server for many texts at a time. Raises ValueError without a model's name."""

    def __init__(self, server: Server):
        if not server.model:
            raise ValueError(
                "--config.openai.model is empty; give the name under which the server at "
                f"{server.base_url} offers its model"
            )
        self._server = server
        self._runner: asyncio.Runner | None = None
        self._next_start = 0.0  # of a request, in time.monotonic()
        self._in_a_row, self._last_reason = 0, ""  # failures

    def ask_all(self, questions: Sequence[Question | Failure]) -> list[str | Failure]:
        """A text or a `Failure` per question; a `Failure` among them is its own answer.

        Raises:
          ValueError: the server refuses requests of this kind: address, key, model or fields; or
            the last 100 answers were failures.
        """
        if self._in_a_row >= _STOP_AFTER:
            raise ValueError(
                f"{self._server.base_url}: the last {self._in_a_row} captions failed, the last one "
                f"because {self._last_reason}; what is done is kept: look after the server, and "
                "call again"
            )
        if self._runner is None:  # one event loop for all calls: connections belong to it
            self._runner = asyncio.Runner()
        found = self._runner.run(self._ask_all(questions))
        for answer in found:
            if isinstance(answer, Failure):
                self._in_a_row, self._last_reason = self._in_a_row + 1, answer.reason
            else:
                self._in_a_row = 0
        return found

    async def _ask_all(self, questions: Sequence[Question | Failure]) -> list[str | Failure]:
        slots = asyncio.Semaphore(self._server.concurrency)

        async def in_turn(question: Question | Failure) -> str | Failure:
            if isinstance(question, Failure):
                return question
            async with slots:
                return await self._ask(*question)

        return await asyncio.gather(*map(in_turn, questions))

    async def _ask(self, messages: list[Any], check: Callable[[str], str]) -> str | Failure:
        problem = ""
        for attempt in range(self._server.attempts):
            await self._wait_for_rate()
            try:
                # The first answer is the most likely one; after a bad one a dice helps.
                warmer = self._server.temperature + 0.3 * attempt
                reply = await self._create(messages=messages, temperature=warmer)
                text = answers.text_of(reply)
                problem = check(text)
            except answers.BadAnswer as error:
                problem = str(error)
            except json.JSONDecodeError as error:
                problem = f"malformed JSON: {error}"
            except self._package.APIStatusError as error:
                if error.status_code in _REFUSALS:
                    raise ValueError(self._refusal(error)) from None
                return Failure(f"HTTP {error.status_code} after {self._server.retries} retries")
            except self._package.APIError as error:  # time-outs and lost connections
                return Failure(f"{type(error).__name__} after {self._server.retries} retries")
            else:
                if not problem:
                    return text
        return Failure(problem)

    async def _wait_for_rate(self) -> None:
        """Holds back until the next request may start."""
        if rate := self._server.requests_per_minute:
            start = max(self._next_start, time.monotonic())
            self._next_start = start + 60 / rate
            await asyncio.sleep(start - time.monotonic())

    def _refusal(self, error: Any) -> str:
        said = " ".join(str(error.message).split())[:200]
        return (
            f"{self._server.base_url} refuses requests for the model {self._server.model!r}: "
            f"{said}; correct --config.openai.base_url, --config.openai.model or $OPENAI_API_KEY"
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
    def _create(self) -> Callable[..., Awaitable[Any]]:
        server = self._server
        client = self._package.AsyncOpenAI(
            base_url=server.base_url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=server.timeout,
            max_retries=server.retries,
        )
        return functools.partial(
            client.chat.completions.create, model=server.model, max_tokens=server.max_tokens
        )


class _Asker:
    """What both roles share: a server, a prompt, and what decides their answers."""

    def __init__(self, server: Server, used: prompt.Prompt):
        self._endpoint, self._prompt = Endpoint(server), used
        self.settings: Mapping[str, Any] = {
            "model": server.model,
            "temperature": server.temperature,
            "prompt": content_key(used.content),
        }

    def _check(self, source: str) -> Callable[[str], str]:
        return lambda text: answers.problem(source, text, self._prompt.source, self._prompt.target)


class OpenAITranslator(_Asker):
    """A `Translator`: one caption per request, with glossary and examples in the prompt."""

    def translate(self, captions: Sequence[Caption]) -> list[str | Failure]:
        """Raises ValueError as `Endpoint.ask_all`."""
        return self._endpoint.ask_all([self._question(caption.text) for caption in captions])

    def _question(self, text: str) -> Question:
        return [{"role": "user", "content": self._prompt.text(text)}], self._check(text)


class OpenAIRewriter(_Asker):
    """A `Rewriter`: the source caption with the image, which a model for images must read.

    The noisy translation is not shown, as in the paper.
    """

    def __init__(self, server: Server, used: prompt.Prompt, images: Path):
        super().__init__(server, used)
        self._images = images

    def rewrite(self, translations: Sequence[Translation]) -> list[str | Failure]:
        """Raises ValueError as `Endpoint.ask_all`; an unreadable image is a `Failure`."""
        return self._endpoint.ask_all([self._question(t.caption) for t in translations])

    def _question(self, caption: Caption) -> Question | Failure:
        path = self._images / caption.image
        try:
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            return Failure(f"the image cannot be read: {error}")
        kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
        image = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        words = {"type": "text", "text": self._prompt.text(caption.text)}
        return [{"role": "user", "content": [image, words]}], self._check(caption.text)
