"""What the page shows is what its address says, so that links, the back button and reload work."""

import os
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field

from tipr_jax.serving.limits import ItemId, Name, Sentence, Time, Word
from tipr_jax.serving.searching import Search

ITEMS = 24  # of a page: full rows of 2, 3, 4, 6 and 8

# A form sends a field that was left empty as an empty text.
_EMPTY = BeforeValidator(lambda value: None if value == "" else value)


class Address(BaseModel):
    """An address's query.

    q: the sentence; like: an item; picture: the word for a sent picture; since, until: times,
    included; rerank: by the matching head, where there is a sentence to match.
    """

    q: Sentence = ""
    like: Annotated[ItemId | None, _EMPTY] = None
    picture: Word = ""
    language: Name = ""
    rerank: bool = False
    camera: Name = ""
    tag: Name = ""
    since: Annotated[Time | None, _EMPTY] = None
    until: Annotated[Time | None, _EMPTY] = None
    page: Annotated[int, Field(ge=1, le=10**6)] = 1

    @property
    def asks(self) -> bool:
        """Whether there is something to search for."""
        return bool(self.q.strip() or self.like or self.picture)

    @property
    def filters(self) -> bool:
        return bool(self.camera or self.tag or self.since or self.until)

    def search(self) -> Search:
        """The job that finds what is shown."""
        until = self.until
        if until:  # times are compared as texts: a day or a minute ends with its last second
            until += "T23:59:59" if len(until) == 10 else ":59" if len(until) == 16 else ""
            until += "~"  # after any fraction of the second and any zone
        terms = {"camera": self.camera, "tag": self.tag, "time>=": self.since, "time<=": until}
        where = {field: value for field, value in terms.items() if value}
        sentence = self.q.strip()
        return Search(
            sentence,
            self.like or 0,
            k=ITEMS,
            offset=(self.page - 1) * ITEMS,
            where=where,
            language=self.language,
            rerank=self.rerank and bool(sentence),
        )

    def url(self, path: str = "/", /, **changes: Any) -> str:
        """The address with other values; fields that say nothing are left out."""
        values = self.model_dump() | changes
        said = {name: 1 if value is True else value for name, value in values.items() if value}
        if said.get("page") == 1:
            del said["page"]
        return f"{path}?{urlencode(said)}" if said else path

    def hidden(self) -> list[tuple[str, str]]:
        """The fields that a form takes along, to come back to this address."""
        return [(name, str(value)) for name, value in self.model_dump().items() if value]


TheAddress = Annotated[Address, Query()]


def file_name(path: str) -> str:
    """A name for people, as far as it can be shown."""
    return os.path.basename(path).encode(errors="replace").decode()
