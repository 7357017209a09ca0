"""The JSON interface, for programs; `/openapi.json` describes it."""

import dataclasses
import os
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tipr_jax.gallery.store import Item
from tipr_jax.serving.answers import described
from tipr_jax.serving.limits import Count, ItemId, Name, Offset, Sentence, Time, Word
from tipr_jax.serving.searching import Search
from tipr_jax.serving.service import Service

router = APIRouter(prefix="/api", responses=described(400, 401, 403, 413, 422, 429, 503))
Number = Annotated[float, Field(allow_inf_nan=False)]
Value = Number | Name | Annotated[list[Number | Name], Field(min_length=1, max_length=50)]
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


def service_of(request: Request) -> Service:
    return request.app.state.service


def who_of(request: Request) -> str:
    return request.state.who


TheService = Annotated[Service, Depends(service_of)]
Who = Annotated[str, Depends(who_of)]
Id = Annotated[ItemId, Path()]
Picture = Annotated[UploadFile, File(description="JPEG, PNG, BMP or WebP of one person")]


class SearchRequest(BaseModel):
    """A sentence, the looks of an item or of a sent picture, or words and looks; a page of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sentence: Sentence = ""
    like: ItemId | None = Field(None, description="an item that the person looks like")
    picture: Word = Field("", description="what POST /api/pictures answered, instead of like")
    k: Count = 10
    offset: Offset = 0
    where: Annotated[dict[Name, Value], Field(max_length=16)] = Field(
        {}, description="as in {'camera': ['gate', 'hall'], 'time>=': '2026-11-29', 'tag': 'vip'}"
    )
    language: Name = Field("", description="of the sentence, one of the gallery's")
    rerank: bool = Field(False, description="the matching head orders the best 64 anew; slower")

    @field_validator("where")
    @classmethod
    def _no_paths(cls, where: dict[str, Any]) -> dict[str, Any]:
        if any(field.strip(" <>=") == "path" for field in where):
            raise ValueError("the service shows no paths; filter by camera, time, tag or id")
        return where

    @model_validator(mode="after")
    def _one_looks(self) -> Self:
        if self.like and self.picture:
            raise ValueError("like and picture are two people; give one of them")
        return self


class ItemAnswer(BaseModel):
    """A person of the gallery. file: the name without its folder; frame_time: seconds."""

    id: int
    file: str
    box: dict[str, int] | None
    frame_time: float | None
    track: int | None
    camera: str | None
    time: str | None
    tags: list[str]
    meta: dict[str, Any]
    added: str


class MatchAnswer(ItemAnswer):
    """An item with its score: the cosine similarity, or the matching head's logit."""

    score: float
    by: Literal["cosine", "match"]


class LineAnswer(BaseModel):
    """The calibrated line; it hides nothing. above: how many matches, up to this page's end.

    false_alarms, misses: shares of the searches on `photos` photos of `data`.
    """

    score: float
    above: int
    false_alarms: float
    misses: float
    auc: float
    reliable: bool
    photos: int
    data: str


class SearchAnswer(BaseModel):
    """A page of a ranking among so many items, and what to know of the sentence."""

    among: int
    notes: list[str]
    line: LineAnswer | None
    matches: list[MatchAnswer]


class PictureAnswer(BaseModel):
    """The word for a picture to search by."""

    picture: str


class WordAnswer(BaseModel):
    """How much lower the score is without the word."""

    word: str
    share: float


class Explanation(BaseModel):
    """An item's score for a sentence, and each word's share."""

    score: float
    words: list[WordAnswer]


class GalleryAnswer(BaseModel):
    """How many items there are, and what searches can ask for; languages: [] for a single one."""

    items: int
    can_rerank: bool
    languages: list[str]
    cameras: list[str]
    tags: list[str]


class AddAnswer(BaseModel):
    """The item of a picture; new: it was not there before."""

    id: int
    new: bool


@router.get("/gallery")
async def gallery(service: TheService) -> GalleryAnswer:
    """What the gallery holds."""
    return GalleryAnswer.model_validate((await service.overview())._asdict())


@router.post("/search", responses=described(404))
async def search(body: SearchRequest, service: TheService, who: Who) -> SearchAnswer:
    """The best items for a sentence, best first, or the ones that look like somebody."""
    asked = Search(
        body.sentence,
        body.like or 0,
        k=body.k,
        offset=body.offset,
        where=body.where,
        language=body.language,
        rerank=body.rerank,
    )
    found = await service.search(who, asked, body.picture)
    matches = [
        MatchAnswer(
            score=match.score,
            by="match" if number < found.matched else "cosine",
            **_facts(match.item),
        )
        for number, match in enumerate(found.matches)
    ]
    line = LineAnswer(above=found.above, **found.line._asdict()) if found.line else None
    return SearchAnswer(among=found.among, notes=found.notes, line=line, matches=matches)


@router.post("/pictures", status_code=201, responses=described(415))
async def picture(service: TheService, who: Who, picture: Picture) -> PictureAnswer:
    """A picture to search by. It is kept in memory for an hour and becomes no item."""
    word = await service.look(who, picture.filename or "", await picture.read())
    return PictureAnswer(picture=word)


@router.post("/items", status_code=201, responses=described(415))
async def add(
    service: TheService,
    who: Who,
    picture: Picture,
    camera: Annotated[Name | None, Form()] = None,
    time: Annotated[Time | None, Form()] = None,
    tag: Annotated[list[Name], Form(max_length=50)] = [],  # noqa: B006  # FastAPI copies it
) -> AddAnswer:
    """Adds a picture; one that is there already keeps its id and its facts."""
    facts = {"camera": camera or None, "time": time, "tags": tuple(filter(None, tag))}
    data = await picture.read()
    return AddAnswer.model_validate(
        (await service.add(who, picture.filename or "", data, facts))._asdict()
    )


@router.get("/items/{number}", responses=described(404))
async def item(number: Id, service: TheService, who: Who) -> ItemAnswer:
    """What is known of an item."""
    return ItemAnswer(**_facts(await service.item(who, number)))


@router.delete("/items/{number}", status_code=204, responses=described(404))
async def delete(number: Id, service: TheService, who: Who) -> None:
    """Removes an item, and its picture if it was uploaded."""
    await service.delete(who, number)


@router.get("/items/{number}/thumbnail", response_class=Response, responses=JPEG | described(404))
async def thumbnail(number: Id, service: TheService) -> Response:
    """The person, small."""
    return jpeg(await service.thumbnail(number))


@router.get("/items/{number}/frame", response_class=Response, responses=JPEG | described(404))
async def frame(number: Id, service: TheService, who: Who) -> Response:
    """The whole picture that the person is in, with the person's box."""
    return jpeg(await service.frame(who, number))


@router.get("/items/{number}/words", responses=described(404))
async def words(
    number: Id,
    service: TheService,
    who: Who,
    sentence: Annotated[Sentence, Query()],
    language: Annotated[Name, Query()] = "",
) -> Explanation:
    """Which words of a sentence speak for an item, and which against it."""
    score, shares = await service.explain(who, number, sentence, language)
    return Explanation(score=score, words=[WordAnswer(word=w, share=s) for w, s in shares])


def _facts(item: Item) -> dict[str, Any]:
    box = item.box and item.box._asdict()
    facts = dataclasses.asdict(item) | {"box": box, "file": os.path.basename(item.path)}
    return {name: facts[name] for name in ItemAnswer.model_fields}


def jpeg(data: bytes) -> Response:
    """A picture as an answer."""
    # An id is never used twice and its picture never changes, so a browser may keep it.
    return Response(
        data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"}
    )
