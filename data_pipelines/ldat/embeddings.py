"""Quality as the cosine of sentence vectors, of a server or of a model from a folder.

Both languages must share the space: LaBSE, multilingual E5, BGE-M3, multilingual MiniLM do. The
cosine hardly moves for a single wrong colour; it finds translations of something else. Negative
cosines count as 0.
"""

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.ldat import answers, batching, local_folder
from data_pipelines.ldat.connection import Connection, Server
from data_pipelines.ldat.interfaces import Failure, Translation

_OPTION = "--config.local.embeddings"


def quality(source: Any, translation: Any) -> float | Failure:
    """The cosine of two vectors [C], 0..1, rounded to 4 digits; a `Failure` where there is none."""
    try:
        here, there = (np.asarray(vector, np.float64) for vector in (source, translation))
    except (TypeError, ValueError):
        return Failure("an embedding is no list of numbers")
    if here.ndim != 1 or here.shape != there.shape:
        return Failure(f"embeddings of the shapes {here.shape} and {there.shape} have no cosine")
    length = np.linalg.norm(here) * np.linalg.norm(there)
    cosine = float(here @ there / length) if length else math.nan
    if not math.isfinite(cosine):
        return Failure("an embedding is zero or not finite")
    return round(min(max(cosine, 0.0), 1.0), 4)


class OpenAIScorer:
    """A `QualityScorer` by an OpenAI-compatible /v1/embeddings; one pair per request."""

    def __init__(self, server: Server):
        self._connection = Connection(server, "--config.openai.embedding_model")
        self.settings: Mapping[str, Any] = {"model": server.model}

    def score(self, translations: Sequence[Translation]) -> list[float | Failure]:
        """Raises ValueError as `Connection.answers`."""
        return self._connection.answers(self._ask, translations)

    async def _ask(self, translation: Translation) -> float | Failure:
        fields = {
            "model": self._connection.server.model,
            "input": [translation.caption.text, translation.text],
            "encoding_format": "float",  # the client's own choice, base64, is not known everywhere
        }
        try:
            reply = await self._connection.call(lambda client: client.embeddings.create(**fields))
        except answers.BadAnswer as error:
            return Failure(str(error))
        if isinstance(reply, Failure):
            return reply
        try:
            vectors = {one.index: one.embedding for one in reply.data}
        except (AttributeError, TypeError):
            return Failure("the reply holds no embeddings")
        if set(vectors) != {0, 1}:
            return Failure(f"the reply holds {len(vectors)} embeddings, expected 2")
        return quality(vectors[0], vectors[1])


class LocalScorer:
    """A `QualityScorer` by an encoder from a folder: the mean of its last states over all tokens.

    Texts are cut at what the model reads.

    Raises:
      ValueError: no model's folder; at the first call: as `local_folder.load`.
    """

    def __init__(self, folder: Path | None, batch: int, device: str):
        self._folder = local_folder.checked(folder, _OPTION)
        self._batch, self._device = batch, device
        self.settings: Mapping[str, Any] = {"model": local_folder.digest(self._folder)}

    def score(self, translations: Sequence[Translation]) -> list[float | Failure]:
        """Cosines; a `Failure` where a vector is not finite."""
        texts = [t.caption.text for t in translations] + [t.text for t in translations]
        vectors = batching.longest_first(texts, self._batch, self._embed)
        pairs = zip(vectors[: len(translations)], vectors[len(translations) :], strict=True)
        return [quality(*pair) for pair in pairs]

    def _embed(self, texts: list[str]) -> list[Any]:
        """Texts -> vectors [C], float32."""
        tokenizer, model = self._loaded
        tokens = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        tokens = tokens.to(model.device)
        with importlib.import_module("torch").inference_mode():
            states = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None]
        return list(((states * mask).sum(1) / mask.sum(1)).cpu().numpy())

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return local_folder.load(self._folder, "AutoModel", self._device, _OPTION)
