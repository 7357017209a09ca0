"""A small data set to translate: what the generator writes, without its images."""

import contextlib
import http.server
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configs import ldat as ldat_config
from data_pipelines.datasets.multilingual import file_name
from data_pipelines.ldat.work import Work
from data_pipelines.synth_pedes.people import people, photographs

MANIFEST = {
    **{"generator": "synth_pedes", "version": 1, "layout": "cuhk_pedes"},
    **{"ids": {"train": 20, "val": 2, "test": 4}, "images_per_id": 4, "height": 48, "seed": 0},
}


def generated_entries(split: str, language: str, manifest: dict = MANIFEST) -> list[dict[str, Any]]:
    return [
        {"file_path": photo.path, "id": person.person_id, "captions": photo.captions}
        for person in people(manifest)
        if person.split == split
        for photo in photographs(manifest, person, language)[1]
    ]


@contextlib.contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler], **state: Any
) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on this machine; its handler finds `lock`, `requests` and the state on it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.__dict__.update(lock=threading.Lock(), requests=[], **state)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A data root whose CUHK-PEDES has English captions: 160 train, 16 val, 32 test."""
    directory = tmp_path / "CUHK-PEDES"
    (directory / "imgs").mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    for split in ("train", "val", "test"):
        entries = generated_entries(split, "en")
        (directory / file_name(split, "en")).write_text(json.dumps(entries))
    return tmp_path


@pytest.fixture
def new_work(root: pathlib.Path) -> Callable[..., Work]:
    """new_work(**{"grammar.noise": 0.2}) -> a job on `root` with the generator's captions."""

    def make(**fields: Any) -> Work:
        config = ldat_config.get_config()
        config.data.root = str(root)
        config.translator, config.rewriter, config.batch_size = "grammar", "keep", 10
        for name, value in fields.items():
            config.update_from_flattened_dict({name: value})
        return Work(config)

    return make
