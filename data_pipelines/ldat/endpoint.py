"""Any OpenAI-compatible server (vLLM, Ollama, llama.cpp, a provider) as translator and rewriter.

What comes back through the connection (`connection.py`) is checked here (`answers.py`), asked for
again, and recorded as a failure in the end.
"""

import base64
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat import answers, prompt
from data_pipelines.ldat.connection import Connection, Server
from data_pipelines.ldat.interfaces import Caption, Failure, Translation
from data_pipelines.ldat.journal import content_key

# Messages, and a check that returns "" for a good answer, else what is wrong with it.
Question = tuple[list[Any], Callable[[str], str]]


class Endpoint:
    """Asks a server for many texts at a time. Raises ValueError without a model's name."""

    def __init__(self, server: Server):
        self._connection = Connection(server)

    def ask_all(self, questions: Sequence[Question | Failure]) -> list[str | Failure]:
        """A text or a `Failure` per question. Raises ValueError as `Connection.answers`."""
        return self._connection.answers(self._ask, questions)

    async def _ask(self, question: Question) -> str | Failure:
        (messages, check), server, problem = question, self._connection.server, ""
        for attempt in range(server.attempts):
            # The first answer is the most likely one; after a bad one a dice helps.
            fields = {
                "model": server.model,
                "messages": messages,
                "max_tokens": server.max_tokens,
                "temperature": server.temperature + 0.3 * attempt,
            }
            try:
                reply = await self._connection.call(
                    lambda client, fields=fields: client.chat.completions.create(**fields)
                )
                if isinstance(reply, Failure):
                    return reply
                text = answers.text_of(reply)
            except answers.BadAnswer as error:
                problem = str(error)
            else:
                problem = check(text)
                if not problem:
                    return text
        return Failure(problem)


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
        """Raises ValueError as `Connection.answers`."""
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
        """Raises ValueError as `Connection.answers`; an unreadable image is a `Failure`."""
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
