"""What the gallery's commands do, one function each; `__main__` describes their options."""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tipr_jax import command_line
from tipr_jax.gallery import filters
from tipr_jax.gallery.photos import told
from tipr_jax.gallery.store import Item
from tipr_jax.gallery.stores import exists, gallery_place, open_store
from tipr_jax.paths import local_path, model_path, no_such_path

if TYPE_CHECKING:  # these import JAX: `list`, `delete` and `stats` do without it
    from tipr_jax.gallery.calibrate import Line
    from tipr_jax.gallery.retriever import Added, Match, Retriever

Words = Mapping[int, Sequence[tuple[str, float]]]  # item id -> words with their shares


def add(options: argparse.Namespace) -> None:
    from tipr_jax.gallery.models import keep
    from tipr_jax.gallery.retriever import Added

    gallery = gallery_place(options.gallery, "--gallery")
    places = [local_path(place, "PLACE") for place in options.places]
    for place in places:
        if not place.exists():
            raise FileNotFoundError(no_such_path(place, "folder or photo"))
    facts = {"camera": options.camera, "time": options.time, "tags": options.tag}
    meta = _own_fields(options.meta)
    retriever = _create_or_open(gallery, options.model, options.language)
    how = {"detect": options.detect, "engine": options.engine}
    done = [retriever.add(place, **facts, meta=meta, **how) for place in places]
    total = Added(
        sum(d.new for d in done),
        sum(d.changed for d in done),
        sum(d.same for d in done),
        sum(d.vanished for d in done),
        [item for d in done for item in d.skipped],
    )
    keep(retriever.model)
    items = len(retriever.index)
    if options.json:
        skipped = [item._asdict() for item in total.skipped]
        _print_json(total._asdict() | {"skipped": skipped, "items": items})
        return
    for line in told(total.skipped):
        print(line)
    print(f"{gallery}: {_added_in_words(total)}; it holds {_number(items, 'item')}")


def _create_or_open(gallery: str | Path, model: str, language: str) -> "Retriever":
    from tipr_jax.gallery.retriever import Retriever

    directory = _model_directory(model) if model else None
    command_line.check_devices()
    if exists(gallery):
        return Retriever.open(gallery, directory)
    if directory is None:
        raise ValueError(
            f"{gallery} is new, so say which model embeds the photos: --model=RUN, a run or model "
            "directory"
        )
    return Retriever.create(gallery, directory, language)


def _added_in_words(added: "Added") -> str:
    parts = [
        f"{_number(count, 'file')} {what}"
        for count, what in (
            (added.new, "added"),
            (added.changed, "changed and embedded again"),
            (added.vanished, "vanished and removed"),
        )
        if count
    ]
    same = f"{_number(added.same, 'file')} unchanged" if added.same else ""
    if not parts:
        return f"nothing to do, {same}" if same else "nothing added"
    return ", ".join([*parts, *filter(None, [same])])


def search(options: argparse.Namespace) -> None:
    """Checks everything that is cheap to check, then ranks, prints and draws."""
    from tipr_jax.gallery import calibrate
    from tipr_jax.gallery.explain import explain
    from tipr_jax.gallery.retriever import Retriever, check_query
    from tipr_jax.gallery.sheet import draw, picture_path

    gallery = gallery_place(options.gallery, "--gallery")
    if options.sentence or not options.like:
        check_query(options.sentence)
    like = _photo(options.like)
    picture = None
    if options.picture is not None or not options.json:
        picture = picture_path(options.picture or "search.png")
    where = filters.parse(options.where)
    command_line.check_devices()
    retriever = Retriever.open(gallery, _model_directory(options.model) if options.model else None)
    retriever.model.language_index(options.language)
    notes = retriever.model.doubts(options.sentence, options.language) if options.sentence else []
    offset = (options.page - 1) * options.top
    ask = functools.partial(
        retriever.search,
        options.sentence,
        options.top,
        offset=offset,
        image=like,
        where=where,
        language=options.language,
        rerank=options.rerank,
    )
    matches = ask(approximate=options.approximate)
    if options.approximate:
        notes.append(_recall(matches, ask()))
    kind, line = "match" if options.rerank else "cosine", None
    if not like:
        line = calibrate.line(retriever.store, retriever.model, kind, options.language)
    among = len(retriever.store.select(where)) if where else len(retriever.index)
    words: Words = {}
    if options.explain and options.sentence:
        words = explain(retriever, options.sentence, matches, options.language)
    title = options.sentence or f"like {options.like}"
    if options.json:
        rows = [
            {"rank": rank, "score": m.score, **_plain(m.item), "words": words.get(m.item.id)}
            for rank, m in enumerate(matches, offset + 1)
        ]
        drawn = line and line._asdict()
        _print_json({"among": among, "notes": notes, "line": drawn, "matches": rows})
    else:
        print(*notes, f'"{title}" among {_number(among, "item")}:', sep="\n")
        _print_ranking(matches, offset, line, words)
        if not matches:
            print("  none on this page" if among else "  no item passes the filter")
    if picture is not None and matches:
        draw(title, matches, picture)
        if not options.json:
            print(f"picture: {picture}")


def _recall(found: "Sequence[Match]", exact: "Sequence[Match]") -> str:
    """How much of the exact answer an approximate one has."""
    kept = len({match.item.id for match in found} & {match.item.id for match in exact})
    share = kept / len(exact) if exact else 1.0
    return f"approximate: {kept} of the exact answer's {len(exact)} matches, recall {share:.3f}"


def _print_ranking(
    matches: "Sequence[Match]", offset: int, line: "Line | None", words: Words
) -> None:
    """A line per match, with the calibrated line where the scores pass it."""
    above = True
    for rank, match in enumerate(matches, offset + 1):
        if line and above and match.score < line.score:
            print(f"---  {line.in_words()}")
            above = False
        print(f"{rank:3}  {match.score:.3f}  {_place(match.item)}")
        if match.item.id in words:
            print("     " + "  ".join(f"{w} {c:+.3f}" for w, c in words[match.item.id]))


def list(options: argparse.Namespace) -> None:
    with open_store(gallery_place(options.gallery, "--gallery")) as store:
        ids = store.select(filters.parse(options.where))
        first = (options.page - 1) * options.top
        items = store.items(ids[first : first + options.top])
    if options.json:
        _print_json({"items": [_plain(item) for item in items], "among": len(ids)})
        return
    for item in items:
        facts = [item.camera, item.time, *item.tags, *(f"{k}={v}" for k, v in item.meta.items())]
        print("  ".join([f"{item.id:6}", _place(item), *(str(f) for f in facts if f)]))
    pages = -(-len(ids) // options.top)
    print(f"{_number(len(ids), 'item')}, page {options.page} of {max(1, pages)}")


def delete(options: argparse.Namespace) -> None:
    ids = [_id(part) for given in options.id for part in given.split(",")]
    if not ids and not options.where:
        raise ValueError("say what to delete: --id=3,5 or --where camera=gate")
    with open_store(gallery_place(options.gallery, "--gallery")) as store:
        if options.where:
            passing = store.select(filters.parse(options.where)).tolist()
            ids = [i for i in ids if i in set(passing)] if ids else passing
        count = store.delete(ids)
        left = store.stats()["items"]
    if options.json:
        _print_json({"deleted": count, "items": left})
    else:
        print(f"{_number(count, 'item')} deleted, {left} left; the photos stay where they are")


def reindex(options: argparse.Namespace) -> None:
    from tipr_jax.gallery import reindex as reindexing
    from tipr_jax.gallery.models import keep, open_model

    directory = _model_directory(options.model)
    with open_store(gallery_place(options.gallery, "--gallery")) as store:
        command_line.check_devices()
        model = open_model(directory, options.language)
        done = reindexing.reindex(store, model, options.language)
        figures = store.stats()
    keep(model)
    if options.json:
        skipped = [s._asdict() for s in done.skipped]
        _print_json({"embedded": done.embedded, "skipped": skipped} | figures)
        return
    for line in told(done.skipped):
        print(line)
    print(f"{_number(done.embedded, 'item')} embedded; searches use {directory} now")


def calibrate(options: argparse.Namespace) -> None:
    from data_pipelines.datasets.annotations import load_dataset
    from tipr_jax.gallery import calibrate as calibrating
    from tipr_jax.gallery import calibration
    from tipr_jax.gallery.retriever import Retriever

    gallery = gallery_place(options.gallery, "--gallery")
    root = local_path(options.root, "--root")
    if not 0 <= options.false_alarms <= 1:
        raise ValueError(f"--false-alarms={options.false_alarms}: expected 0 to 1, as in 0.05")
    languages = (options.language,) if options.language else ()
    labelled = load_dataset(options.name, str(root), languages)[options.split]
    command_line.check_devices()
    retriever = Retriever.open(gallery, _model_directory(options.model) if options.model else None)
    model = retriever.model
    curves = calibrating.measure(model, labelled, options.language, options.rerank)
    data, photos = f"{options.name} {options.split}", len(labelled.image_path)
    calibrating.remember(
        retriever.store, model, curves, data, photos, options.false_alarms, options.language
    )
    if options.json:
        _print_json({name: curve.as_stored() for name, curve in curves.items()})
        return
    for name, curve in curves.items():
        verdict = "" if curve.reliable else ", not reliable: below 0.8 a score proves little"
        print(f"{name}, {photos:,} photos of {data}: AUC {curve.auc:.3f}{verdict}")
        print(*calibration.table(curve), sep="\n")


def stats(options: argparse.Namespace) -> None:
    with open_store(gallery_place(options.gallery, "--gallery")) as store:
        figures = store.stats()
    if options.json:
        _print_json(figures)
        return
    print(f"{figures['gallery']}: {_number(figures['items'], 'item')} of ", end="")
    print(f"{_number(figures['files'], 'file')}, {figures['bytes'] / 1e6:.1f} MB")
    for model in figures["models"]:
        use = "searched" if model["searched"] else "not searched, reindex was interrupted"
        print(
            f"model {model['directory']} ({model['fingerprint'][:8]}): "
            f"{_number(model['vectors'], 'vector')} of {model['vector_size']} numbers, {use}"
        )


def _model_directory(given: str) -> Path:
    directory = model_path(given, "--model")
    if not directory.is_dir():
        raise FileNotFoundError(no_such_path(directory, "run or model directory"))
    return directory


def _photo(given: str) -> str | None:
    if not given:
        return None
    path = local_path(given, "--like")
    if not path.is_file():
        raise FileNotFoundError(no_such_path(path, "photo"))
    return str(path)


def _own_fields(terms: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE of --meta. Raises ValueError for a term without "=" or a field of our own."""
    fields = {}
    for term in terms:
        name, equals, value = term.partition("=")
        if not equals or not name or set(name) & set("<>=\"'"):
            raise ValueError(f"--meta={term}: expected FIELD=VALUE, as in --meta floor=2")
        if name in filters.FIELDS:
            raise ValueError(f"--meta={term}: {name} has a meaning of its own; use another name")
        fields[name] = filters.plain(value)
    return fields


def _id(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"--id={text}: expected the numbers that `list` shows, as in --id=3,5")
    return int(text)


def _plain(item: Item) -> Mapping[str, Any]:
    """An item as JSON shows it."""
    return {
        "id": item.id,
        "path": item.path,
        "box": item.box and item.box._asdict(),
        "frame_time": item.frame_time,
        "track": item.track,
        "camera": item.camera,
        "time": item.time,
        "tags": [*item.tags],
        "meta": dict(item.meta),
        "added": item.added,
    }


def _place(item: Item) -> str:
    """Where an item is to be seen: the file, the second of a video, the box."""
    parts = [item.path]
    if item.frame_time is not None:
        parts.append(f"at {item.frame_time:.2f} s")
    if item.box is not None:
        parts.append("box {}+{} {}x{}".format(*item.box))
    return " ".join(parts)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
