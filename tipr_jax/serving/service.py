"""What people and programs can do with a gallery; every deed is written to the audit log.

The handlers of `api` and `page` call these. What changes the gallery is recorded before it is done,
and what only looks before it is answered, so nothing happens while the log cannot be written.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from tipr_jax.gallery.explain import explain
from tipr_jax.gallery.retriever import Match, Retriever
from tipr_jax.gallery.store import Item
from tipr_jax.preprocess.image import ImageTooLargeError
from tipr_jax.serving import pictures, reranking
from tipr_jax.serving.answers import later
from tipr_jax.serving.audit import AuditLog
from tipr_jax.serving.limits import Room
from tipr_jax.serving.pictures import NoSuchItemError, Stored, Upload
from tipr_jax.serving.query_pictures import Look, NoSuchPictureError, QueryPicture, QueryPictures
from tipr_jax.serving.reranking import Pairs
from tipr_jax.serving.searching import Found, Search
from tipr_jax.serving.worker import Call, Worker

DECODERS = 2  # pictures that are decoded at a time; a large one takes 300 MB
PICTURES = 256  # pictures that may wait for it
RERANKINGS = 16  # that may wait: each is worth 64 photos and 64 pairs
THUMBNAILS = 1024  # kept in memory, 5 to 15 kB each


class Overview(NamedTuple):
    """What the page's forms offer."""

    items: int
    can_rerank: bool
    languages: tuple[str, ...]
    cameras: list[str]
    tags: list[str]


class Service:
    """A gallery behind its worker, with the audit log.

    All methods raise HTTPException with one line: 400 for a mistake in what was asked, 404 for an
    item or a picture that is not there, 413 and 415 for a picture that cannot be taken, 429 and 503
    as `Worker.do`, 503 also when the disk is full.
    """

    def __init__(self, worker: Worker, audit: AuditLog):
        self.worker, self.audit = worker, audit
        self._decoders = concurrent.futures.ThreadPoolExecutor(DECODERS, "picture")
        self._decoding = Room(PICTURES, "pictures")
        self._reranking = Room(RERANKINGS, "re-rankings")
        self._query_pictures = QueryPictures()
        self._thumbnails: collections.OrderedDict[int, bytes] = collections.OrderedDict()

    def close(self) -> None:
        """Finishes what was begun."""
        self.worker.stop()
        self._decoders.shutdown()
        self.audit.close()

    async def search(self, who: str, search: Search, picture: str = "") -> Found:
        """picture: the word that `look` gave, to search by that picture."""
        kept = self.query_picture(picture) if picture else None
        if kept:
            search = dataclasses.replace(search, looks=kept.vector)
        found = await self._do(search)
        if search.rerank:
            found = await self._reranked(search, found)
        ids = [match.item.id for match in found.matches]
        asked = {"sentence": search.sentence, "like": search.like or None, "where": search.where}
        asked |= {"picture": kept and kept.content, "language": search.language or None}
        await self._note(who, "search", **asked, offset=search.offset, ids=ids)
        return found

    async def _reranked(self, search: Search, found: Found) -> Found:
        """The page with its candidates in the order of the matching head.

        Candidates whose picture cannot be read follow the others, by cosine.
        """
        with self._reranking.taken():
            read = functools.partial(reranking.read, self.worker.model, found.candidates)
            pixels = await self._decode(read)
            there = [(m, p) for m, p in zip(found.candidates, pixels, strict=True) if p is not None]
            gone = [m for m, p in zip(found.candidates, pixels, strict=True) if p is None]
            scores = []
            if there:
                scores = await self._do(Pairs(search.sentence, [p for _, p in there]))
        head = reranking.by_score([m for m, _ in there], scores)
        first, end = search.offset, search.offset + search.k
        above = found.line.above([m.score for m in head]) if found.line else 0
        matches = [*[*head, *gone][first:end], *found.matches]
        matched = min(max(0, len(head) - first), search.k)
        return found._replace(matches=matches, matched=matched, above=above, candidates=())

    async def look(self, who: str, name: str, data: bytes) -> str:
        """A picture to search by: the word that `search` takes for it. Errors as `add`."""
        pixels, small = await self._read(pictures.read, name, data)
        vector = await self._do(Look(pixels))
        picture = QueryPicture(hashlib.sha256(data).hexdigest(), vector, small)
        await self._note(who, "look", picture=picture.content)
        return self._query_pictures.keep(picture)

    def query_picture(self, word: str) -> QueryPicture:
        with _mistakes_as_answers():
            return self._query_pictures.get(word)

    async def item(self, who: str, number: int) -> Item:
        item = await self._item(number)
        await self._note(who, "view", ids=[number])
        return item

    async def explain(
        self, who: str, number: int, sentence: str, language: str
    ) -> tuple[float, list[tuple[str, float]]]:
        """The item's score for a sentence, and what each word adds to it."""
        explained = await self._do(Call(functools.partial(_explained, number, sentence, language)))
        await self._note(who, "explain", sentence=sentence, ids=[number])
        return explained

    async def add(self, who: str, name: str, data: bytes, facts: dict[str, Any]) -> Stored:
        """The item of an uploaded picture; name: what the sender calls it, for messages."""
        read = lambda model, data, name: model.read_image(data, name)  # noqa: E731
        pixels = await self._read(read, name, data)
        upload = Upload(data, pixels, facts)
        await self._note(who, "add", picture=upload.content)
        stored = await self._do(upload)
        await self._note(who, "added", picture=upload.content, ids=[stored.id], new=stored.new)
        return stored

    async def delete(self, who: str, number: int) -> None:
        await self._item(number)
        await self._note(who, "delete", ids=[number])
        await self._do(Call(functools.partial(pictures.delete, number=number)))
        self._thumbnails.pop(number, None)

    async def thumbnail(self, number: int) -> bytes:
        """The person of an item as a small JPEG."""
        item = await self._item(number)  # also when it is at hand: the item may have been deleted
        if number not in self._thumbnails:
            self._thumbnails[number] = await self._picture(pictures.thumbnail, item)
            if len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return self._thumbnails[number]

    async def frame(self, who: str, number: int) -> bytes:
        """All of the picture that an item is in, as a JPEG, with the person's box."""
        item = await self._item(number)
        await self._note(who, "frame", ids=[number])
        return await self._picture(pictures.frame, item)

    async def overview(self) -> Overview:
        return await self._do(Call(_overview))

    async def _item(self, number: int) -> Item:
        return await self._do(Call(functools.partial(pictures.item_of, number=number)))

    async def _do(self, job: Any) -> Any:
        with _mistakes_as_answers():
            return await self.worker.do(job)

    async def _picture(self, draw: Callable[[Item], bytes], item: Item) -> bytes:
        try:
            return await self._decode(functools.partial(draw, item))
        except (ValueError, OSError):
            detail = f"the picture of item {item.id} is gone or damaged; its vector still answers"
            raise HTTPException(HTTPStatus.NOT_FOUND, detail) from None
        except ModuleNotFoundError as error:  # what reads videos is an extra
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None

    async def _read(self, read: Callable[..., Any], name: str, data: bytes) -> Any:
        """read(model, data, name) of a picture that somebody sent."""
        if self.worker.problem:
            raise later(503, self.worker.problem)
        name = name[:100] or "picture"
        try:
            return await self._decode(functools.partial(read, self.worker.model, data, name))
        except ImageTooLargeError as error:
            raise HTTPException(413, str(error)) from None
        except ValueError as error:
            raise HTTPException(415, str(error)) from None

    async def _decode(self, function: Callable[[], Any]) -> Any:
        with self._decoding.taken():
            return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def _note(self, who: str, action: str, **facts: Any) -> None:
        with _mistakes_as_answers():
            await self.audit.write(who, action, **facts)


@contextlib.contextmanager
def _mistakes_as_answers() -> Iterator[None]:
    try:
        yield
    except (NoSuchItemError, NoSuchPictureError) as error:
        raise HTTPException(404, str(error)) from None
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    except OSError as error:
        raise later(503, str(error), 10) from None


def _explained(
    number: int, sentence: str, language: str, retriever: Retriever
) -> tuple[float, list[tuple[str, float]]]:
    found = Search.together(retriever, [Search(sentence, language=language, where={"id": number})])
    if isinstance(found[0], Exception):
        raise found[0]
    match = next(iter(found[0].matches), None) or Match(pictures.item_of(retriever, number), 0.0)
    return match.score, explain(retriever, sentence, [match], language)[number]


def _overview(retriever: Retriever) -> Overview:
    cameras, tags = retriever.store.cameras_and_tags()
    model = retriever.model
    return Overview(len(retriever.index), model.can_match, model.languages, cameras, tags)
