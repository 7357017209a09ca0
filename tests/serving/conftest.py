"""A service of a small model of random weights, over photos of noise."""

import asyncio
import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tipr_jax import checkpoints
from tipr_jax.gallery import Retriever
from tipr_jax.inference.model import TrainedModel, load
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.precision import policy
from tipr_jax.serving.access import Keys
from tipr_jax.serving.app import make_app
from tipr_jax.serving.audit import AuditLog
from tipr_jax.serving.measures import Measures
from tipr_jax.serving.worker import Worker
from tipr_jax.text import save_tokenizer
from tipr_jax.text.clip_bpe import VOCAB_SIZE, ClipTokenizer
from tipr_jax.train_state import define_model

HERE = "http://127.0.0.1"
PHOTOS = 30  # more than a page of 24


def noise(seed: int, size: tuple[int, int] = (48, 20)) -> Image.Image:
    """A picture that no other seed gives."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8))


class Running(NamedTuple):
    """A service within the test's process."""

    client: TestClient
    worker: Worker
    gallery: Path
    measures: Measures

    def audited(self) -> str:
        return Path(f"{self.gallery}.audit.jsonl").read_text()

    def at_once(self, *jobs) -> list:
        """The results of jobs that are put into the queue together."""

        async def all_of_them() -> list:
            return await asyncio.gather(*map(self.worker.do, jobs), return_exceptions=True)

        return asyncio.run(all_of_them())


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> Path:
    """A model directory, as `convert` writes it."""
    directory = tmp_path_factory.mktemp("serving") / "model"
    config = Config.tiny(losses=(), vocab_size=VOCAB_SIZE)
    params = define_model(get_method("irra"), config, policy())[2](jax.random.key(0))
    facts = {"method": "irra", "model": dataclasses.asdict(config), "test_resize": "bilinear"}
    checkpoints.save_params(directory, jax.tree.map(np.asarray, params), facts)
    save_tokenizer(ClipTokenizer(), directory)
    return directory


@pytest.fixture(scope="session")
def model(model_directory):
    return load(model_directory)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), PHOTOS)


def write_photos(folder: Path, count: int) -> Path:
    for number in range(count):
        noise(number).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def gallery(model, photos, tmp_path) -> Path:
    return make_gallery(tmp_path / "my.gallery", model, photos)


def make_gallery(path: Path, model: TrainedModel, photos: Path) -> Path:
    """The photos: the first three by the gate, the others in the hall a day later."""
    retriever = Retriever.create(path, model)
    names = sorted(photos.iterdir())
    retriever.add(names[:3], camera="gate", time="2026-11-28T09:00", tags=["vip"])
    retriever.add(names[3:], camera="hall", time="2026-11-29T14:30:20")
    retriever.store.close()
    return path


@pytest.fixture
def start(model, gallery):
    """Starts a service, with what a test needs of `Worker` and `Keys`; without a warm-up."""
    clients = []

    def start(token: str = "", **worker_arguments) -> Running:
        measures = Measures()
        given = {"warm_up": lambda retriever: None, **worker_arguments}
        worker = Worker(
            functools.partial(Retriever.open, gallery, model), measures=measures, **given
        )
        worker.start()
        audit = AuditLog(f"{gallery}.audit.jsonl")
        app = make_app(worker, measures, Keys(token), audit)
        client = TestClient(app, HERE, raise_server_exceptions=True)
        clients.append(client.__enter__())
        return Running(client, worker, gallery, measures)

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def running(start) -> Running:
    service = start()
    service.worker.wait_until_ready()
    return service
