"""The addresses of the page: search, one person, upload, delete, sign in."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from tipr_jax.serving.access import COOKIE, SESSION_S, Keys
from tipr_jax.serving.api import TheService, Who, jpeg
from tipr_jax.serving.limits import ItemId, Name, Time, Word
from tipr_jax.serving.page.address import ITEMS, Address, TheAddress, file_name
from tipr_jax.serving.page.rendering import render

router = APIRouter()
Id = Annotated[ItemId, Path()]


@router.get("/")
async def search(request: Request, address: TheAddress, service: TheService, who: Who) -> Response:
    """The search box and, where something is asked, a page of the ranking."""
    found, problem = None, ""
    overview = await service.overview()
    if address.asks:
        try:
            found = await service.search(who, address.search(), address.picture)
        except HTTPException as error:
            if error.status_code not in (400, 404):
                raise
            problem = str(error.detail)
    pages = max(1, -(-found.among // ITEMS)) if found else 0
    context = {"address": address, "overview": overview, "found": found, "problem": problem}
    context |= {"pages": pages, "first": (address.page - 1) * ITEMS + 1, "name": file_name}
    # htmx shows this address, without the fields that the form left empty.
    return render(
        request, "search.html", context, 400 if problem else 200, {"HX-Push-Url": address.url()}
    )


class Asked(Address):
    """What the form sends: an address, and perhaps a file with a picture to search by."""

    file: UploadFile | None = None


@router.post("/search")
async def ask(
    asked: Annotated[Asked, Form(media_type="multipart/form-data")], service: TheService, who: Who
) -> Response:
    """Takes what the form says, with a picture or without one, to the address of the answer."""
    address = Address.model_validate(asked.model_dump(exclude={"file"}))
    changes = {}
    if asked.file and asked.file.filename:
        word = await service.look(who, asked.file.filename, await asked.file.read())
        changes = {"picture": word, "like": None}
    return RedirectResponse(address.url(**changes), 303)


@router.get("/pictures/{word}")
async def picture(word: Annotated[Word, Path()], service: TheService) -> Response:
    """The small form of a picture to search by."""
    return jpeg(service.query_picture(word).thumbnail)


@router.get("/items/{number}")
async def item(
    request: Request, number: Id, address: TheAddress, service: TheService, who: Who
) -> Response:
    """One person: the whole picture, the words that made it match, what is known, what to do."""
    found, score, words = await service.item(who, number), None, []
    if address.q.strip():
        score, words = await service.explain(who, number, address.q.strip(), address.language)
    largest = max([abs(share) for _, share in words], default=0) or 1.0
    context = {"address": address, "item": found, "score": score, "words": words}
    context |= {"largest": largest, "name": file_name(found.path)}
    return render(request, "item.html", context)


@router.post("/items")
async def add(
    request: Request,
    service: TheService,
    who: Who,
    picture: Annotated[UploadFile, File()],
    camera: Annotated[Name, Form()] = "",
    time: Annotated[Time | None, Form()] = None,
    tags: Annotated[Name, Form()] = "",
) -> Response:
    """Adds an uploaded picture and shows what became of it."""
    split = tuple(filter(None, (tag.strip() for tag in tags.split(","))))
    facts = {"camera": camera or None, "time": time, "tags": split}
    stored = await service.add(who, picture.filename or "", await picture.read(), facts)
    line = "The picture was added." if stored.new else "The gallery has this picture already."
    context = {"title": "Upload", "lines": [line], "number": stored.id, "address": Address()}
    return render(request, "message.html", context)


@router.post("/items/{number}/delete")
async def delete(
    number: Id, address: Annotated[Address, Form()], service: TheService, who: Who
) -> Response:
    """Removes an item and goes back to the results."""
    await service.delete(who, number)
    like = None if address.like == number else address.like
    return RedirectResponse(address.url(like=like), 303)


@router.get("/login")
async def login_form(request: Request) -> Response:
    return render(request, "login.html", {"problem": ""})


@router.post("/login")
async def login(request: Request, token: Annotated[str, Form(max_length=1000)] = "") -> Response:
    """Gives a browser the cookie of the page for the token."""
    keys: Keys = request.app.state.keys
    if not keys.fits(token.strip()):
        return render(request, "login.html", {"problem": "This is not the token."}, 403)
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        COOKIE, keys.session(), SESSION_S, httponly=True, samesite="strict", secure=secure
    )
    return answer


@router.post("/logout")
async def logout() -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
