"""The service over a gallery on Milvus: what it answers, and what it keeps on its own machine."""

import functools
import io

import pytest
from starlette.testclient import TestClient

from tests.serving.conftest import HERE, PHOTOS, noise
from tipr_jax.gallery import Retriever
from tipr_jax.gallery.stores import beside
from tipr_jax.serving.access import Keys
from tipr_jax.serving.app import make_app
from tipr_jax.serving.audit import AuditLog
from tipr_jax.serving.measures import Measures
from tipr_jax.serving.worker import Worker


@pytest.fixture
def address(model, photos, tmp_path, monkeypatch):
    for module in ("pymilvus", "milvus_lite"):
        pytest.importorskip(module, reason="needs the extra `milvus`")
    monkeypatch.chdir(tmp_path)
    address = f"milvus:{tmp_path}/trial.db/people"
    retriever = Retriever.create(address, model)
    names = sorted(photos.iterdir())
    retriever.add(names[:3], camera="gate")
    retriever.add(names[3:])
    retriever.store.close()
    return address


def test_search_add_and_delete(address, model, tmp_path):
    measures = Measures()
    worker = Worker(
        functools.partial(Retriever.open, address, model),
        warm_up=lambda retriever: None,
        measures=measures,
    )
    worker.start()
    app = make_app(worker, measures, Keys(""), AuditLog(f"{beside(address)}.audit.jsonl"))
    with TestClient(app, HERE) as client:
        worker.wait_until_ready()
        asked = {"sentence": "a man", "k": 5, "where": {"camera": "gate"}}
        assert client.post("/api/search", json=asked).json()["among"] == 3
        data = io.BytesIO()
        noise(99).save(data, "PNG")
        added = client.post("/api/items", files={"picture": ("new.png", data.getvalue())})
        number = added.json()["id"]
        assert added.status_code == 201 and number == PHOTOS + 1
        found = client.post("/api/search", json={"like": number, "k": 1}).json()
        assert found["among"] == PHOTOS + 1 and found["matches"][0]["id"] == number
        assert client.get(f"/api/items/{number}/thumbnail").status_code == 200
        assert [p.suffix for p in (tmp_path / "people.pictures").iterdir()] == [".png"]
        assert client.delete(f"/api/items/{number}").status_code == 204
        assert client.get(f"/api/items/{number}").status_code == 404
        assert client.get("/api/gallery").json()["items"] == PHOTOS
        assert not list((tmp_path / "people.pictures").iterdir())
    assert "a man" in (tmp_path / "people.audit.jsonl").read_text()
