"""The worker: batches, a bounded queue, no compilation after the warm-up, an orderly end."""

import threading

import jax
import numpy as np
import pytest
from serving.conftest import noise
from starlette.exceptions import HTTPException

from tipr_jax.gallery import Retriever
from tipr_jax.gallery.index import BLOCK
from tipr_jax.inference.model import TrainedModel
from tipr_jax.serving import compilations
from tipr_jax.serving.pictures import NoSuchItemError, Upload
from tipr_jax.serving.searching import Search, warm_up
from tipr_jax.serving.worker import Call


def held(running) -> tuple[threading.Event, list]:
    """Keeps the worker busy until the event is set; what it waits with is done last."""
    gate, entered = threading.Event(), threading.Event()
    job = Call(lambda retriever: (entered.set(), gate.wait(60)))
    thread = threading.Thread(target=running.at_once, args=(job,))
    thread.start()
    assert entered.wait(60)
    return gate, [thread]


def background(running, *jobs) -> tuple[threading.Thread, list]:
    """Puts jobs into the queue together, and returns once all of them are there."""
    results: list = []
    thread = threading.Thread(target=lambda: results.extend(running.at_once(*jobs)))
    thread.start()
    while running.worker._jobs.qsize() < len(jobs):
        assert thread.is_alive()
    return thread, results


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many sentences each call of the text encoder has."""
    sizes: list[int] = []
    embed = TrainedModel.embed_texts

    def counting(self, texts, language=""):
        sizes.append(len(texts))
        return embed(self, texts, language)

    monkeypatch.setattr(TrainedModel, "embed_texts", counting)
    return sizes


def test_searches_that_wait_are_one_call_and_one_pass(running, model, calls, monkeypatch):
    passes: list[int] = []
    rank = Retriever.rank
    monkeypatch.setattr(
        Retriever,
        "rank",
        lambda self, q, *a, **kw: [passes.append(len(q)), rank(self, q, *a, **kw)][1],
    )
    jobs = [
        Search(f"a man in {colour}", k=3 + i) for i, colour in enumerate("red blue grey".split())
    ]
    gate, threads = held(running)
    thread, together = background(running, *jobs)
    gate.set()
    thread.join()
    assert calls == [3] and passes == [3]
    alone = Retriever.open(running.gallery, model)
    for job, found in zip(jobs, together, strict=True):
        want = alone.search(job.sentence, job.k)
        assert [m.item.id for m in found.matches] == [m.item.id for m in want]
    threads[0].join()


def test_a_mistake_in_a_batch_is_its_own(running):
    jobs = [
        Search("red"),
        Search("?!"),
        Search("red", where={"colour": "x"}),
        Search("blue", where={"camera": "gate"}),
        Search(like=999),
        Search("red", language="tlh"),
        Search(),
    ]
    gate, _ = held(running)
    thread, results = background(running, *jobs)
    gate.set()
    thread.join()
    kinds = [type(result).__name__ for result in results]
    error = "ValueError"
    assert kinds == ["Found", error, error, "Found", "NoSuchItemError", error, error]
    assert isinstance(results[4], NoSuchItemError)
    assert results[0].among == 30 and results[3].among == 3


def upload(seed, model):
    return Upload(noise(seed).tobytes(), model.read_image(np.asarray(noise(seed))), {})


def test_uploads_that_wait_are_one_transaction(running, model, monkeypatch):
    # Pixels stand for files here; `_keep` needs the first bytes of a real one.
    monkeypatch.setattr("tipr_jax.serving.pictures.ENDINGS", _AnyEnding())
    jobs = [upload(200, model), upload(201, model), upload(200, model)]
    gate, _ = held(running)
    thread, results = background(running, *jobs)
    gate.set()
    thread.join()
    assert [r.new for r in results] == [True, True, False] and results[0].id == results[2].id
    monkeypatch.setattr(Retriever, "put", _full_disk)
    (failed,) = running.at_once(upload(202, model))
    assert isinstance(failed, OSError)
    assert len(list((running.gallery.parent / "my.gallery.pictures").iterdir())) == 2


class _AnyEnding(dict):
    def __missing__(self, key):
        return ".png"


def _full_disk(*_):
    raise OSError("the disk is full")


def test_a_full_queue_says_when_to_come_back(start):
    running = start(size=3)
    running.worker.wait_until_ready()
    gate, _ = held(running)
    thread, results = background(running, *[Search("red")] * 3)
    answer = running.client.post("/api/search", json={"sentence": "red"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert "3 requests wait" in answer.json()["detail"]
    gate.set()
    thread.join()
    assert [type(r).__name__ for r in results] == ["Found"] * 3
    assert running.client.post("/api/search", json={"sentence": "red"}).status_code == 200


def test_before_the_warm_up_is_over(start):
    gate = threading.Event()
    running = start(warm_up=lambda retriever: gate.wait(60))
    assert running.client.get("/healthz").status_code == 200
    assert running.client.get("/readyz").status_code == 503
    answer = running.client.get("/?q=red", headers={"accept": "text/html"})
    assert answer.status_code == 503 and answer.headers["refresh"] == "1"
    gate.set()
    running.worker.wait_until_ready()
    assert running.client.get("/readyz").status_code == 200
    assert running.client.get("/?q=red").status_code == 200


def test_a_warm_up_that_fails_is_told(start):
    running = start(warm_up=lambda retriever: _full_disk())
    running.worker.wait_until_ready()
    answer = running.client.get("/readyz")
    assert answer.status_code == 503 and "the disk is full" in answer.text


def test_compilations_are_counted():
    before = compilations.count()
    jax.jit(lambda x: x * 3 + before)(np.ones(7)).block_until_ready()
    assert compilations.count() > before


def test_nothing_is_compiled_after_the_warm_up(start):
    running = start(warm_up=warm_up)
    running.worker.wait_until_ready()
    for number in (1, 2, 4, 5, 16, 17, 60):
        gate, _ = held(running)
        searches = [Search(f"a man, {i}", k=1 + i, offset=10 * i % 100) for i in range(number)]
        thread, results = background(running, *searches)
        gate.set()
        thread.join()
        assert all(type(r).__name__ == "Found" for r in results)
    for offset in (0, 127, 128, 2000, 5000, BLOCK, 10 * BLOCK):
        (found,) = running.at_once(Search("red", k=100, offset=offset))
        assert len(found.matches) == max(0, 30 - offset)
    running.client.get("/api/items/1/words", params={"sentence": "red " * 120})
    running.client.get("/items/1", params={"q": "a man in a red coat"})
    running.client.delete("/api/items/1")
    assert running.measures.compilations_after_ready == 0
    text = running.client.get("/metrics").text
    assert (
        "tipr_compilations_after_ready 0.0" in text
        and 'tipr_batch_jobs_count{kind="Search"}' in text
    )


def test_what_waits_is_done_before_the_end(start):
    running = start()
    running.worker.wait_until_ready()
    gate, _ = held(running)
    thread, results = background(running, *[Search("red")] * 5)
    stopping = threading.Thread(target=running.worker.stop, args=(60,))
    stopping.start()
    gate.set()
    stopping.join()
    thread.join()
    assert [type(r).__name__ for r in results] == ["Found"] * 5
    (late,) = running.at_once(Search("red"))
    assert isinstance(late, HTTPException) and late.status_code == 503


def test_a_gallery_that_cannot_be_opened_is_told_at_once(start, gallery):
    gallery.write_bytes(b"not a gallery at all")
    with pytest.raises(ValueError, match="not a gallery"):
        start()
