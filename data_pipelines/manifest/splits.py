"""Which people are trained on and which are searched for: as the manifest says, or drawn by lot."""

import hashlib
import os
from collections.abc import Sequence

from data_pipelines.manifest.findings import Findings
from data_pipelines.manifest.rows import Picture

SHARES = {"val": 0.2, "test": 0.2}  # of the people, where they are drawn; the others train
LEAST_PEOPLE = 3  # one for each split


def assign_splits(pictures: Sequence[Picture], where: str, root: str, findings: Findings) -> None:
    """Gives every picture a split, in place.

    Where no picture has one, people are drawn by a hash of their ids (without ids, of the paths
    below `root`): the same people are drawn alike whatever the order of the rows, the machine and
    the time. One note says so.
    """
    lacking = [picture for picture in pictures if not picture.split]
    if len(lacking) == len(pictures):
        _draw(pictures, where, root, findings)
        return
    for picture in lacking:
        findings.problems["picture without a split"].append(
            f"{where} {picture.place}: has no split, but others have; write train, val or test, "
            "or leave the column out to have people drawn"
        )
    first: dict[str, Picture] = {}
    for picture in pictures:
        if picture.person and picture.split:
            known = first.setdefault(picture.person, picture)
            if known.split != picture.split:
                findings.problems["person in two splits"].append(
                    f"{where} {picture.place}: person {picture.person!r} is in {picture.split}, "
                    f"but in {known.split} at {known.place}; use one split, or two ids if these "
                    "are two people"
                )


def _draw(pictures: Sequence[Picture], where: str, root: str, findings: Findings) -> None:
    names = [picture.person or _own_name(picture, root) for picture in pictures]
    people = sorted(set(names), key=_lot)
    if len(people) < LEAST_PEOPLE:
        told = "; give them ids, or none" if pictures[0].person else ""
        findings.problems["too few people"].append(
            f"{where} {pictures[0].place}: {len(people)} of the {LEAST_PEOPLE} people that a draw "
            f"into train, val and test needs{told}; add people, or a column split"
        )
        return
    split_of = dict.fromkeys(people, "train")
    end, told = len(people), []
    for split, share in SHARES.items():
        count = max(1, round(share * len(people)))
        split_of |= dict.fromkeys(people[end - count : end], split)
        end -= count
        told.append(f"{count} to {split}")
    for picture, name in zip(pictures, names, strict=True):
        picture.split = split_of[name]
    findings.notes["no column split: people are drawn, by a hash of their names"].append(
        f"{end} of {len(people)} people to train, {', '.join(told)}; the same each time"
    )


def _own_name(picture: Picture, root: str) -> str:
    """The name of somebody without an id."""
    path = picture.path.removeprefix(root.rstrip(os.sep) + os.sep)
    return f"{path} {picture.box}"


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
