"""--engine=ray gives what the plain engine gives, byte by byte."""

import json
import pathlib
import pickle
import sys

import pytest

from data_pipelines.ldat import export, ray_engine, stages
from data_pipelines.ldat.ray_worker import Worker
from data_pipelines.ldat.work import Work
from tipr_jax.gallery import ray_cluster

STAGES = {"translate": stages.translate, "score": stages.score, "rewrite": stages.rewrite}
FIELDS = {"grammar.noise": 0.3, "batch_size": 50}


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, for all tests of this file."""
    ray = pytest.importorskip("ray", reason="needs the extra ray, half a gigabyte")
    ray_cluster.import_ray()
    with ray_cluster.cluster(ray):
        yield ray


def with_ray(work: Work, folder: pathlib.Path) -> Work:
    """The same job by Ray's workers, into a folder of its own."""
    config = work.config.copy_and_resolve_references()
    config.workdir, config.output = str(folder), str(folder)
    return Work(config, engine="ray")


def test_a_worker_answers_what_stands_at_a_place_of_the_spool(new_work, tmp_path):
    """Ray itself is not needed for this."""
    work = new_work(**FIELDS)
    captions = list(work.source)[:5]
    batches = [[(f"key {n}", caption)] for n, caption in enumerate(captions)]
    places = ray_engine.write_spool(tmp_path / "spool", batches)
    worker = Worker(work.config.to_dict(), "translate", str(tmp_path / "spool"), ".")
    found = worker({"place": [places[3], places[1]]})
    assert found["place"] == [places[3], places[1]]
    expected = work.translator.translate([captions[3], captions[1]])
    assert [pickle.loads(answer) for answer in found["answers"]] == [[x] for x in expected]


def test_workers_together_ask_a_server_as_often_as_one_would(new_work):
    config = new_work(
        **{"openai.concurrency": 16, "openai.requests_per_minute": 60}
    ).config.to_dict()
    shared = ray_engine.share(config, 5)["openai"]
    assert (shared["concurrency"], shared["requests_per_minute"]) == (3, 12)
    assert ray_engine.share(config, 40)["openai"]["concurrency"] == 1
    assert config["openai"]["concurrency"] == 16


def test_a_worker_for_each_gpu_or_core():
    assert ray_engine.workers({"CPU": 9.0}, on_gpus=True) == (8, {"num_cpus": 1})
    assert ray_engine.workers({"CPU": 9.0, "GPU": 2.0}, on_gpus=False) == (8, {"num_cpus": 1})
    both = {"num_gpus": 1, "num_cpus": 1}
    assert ray_engine.workers({"CPU": 9.0, "GPU": 2.0}, on_gpus=True) == (2, both)
    assert ray_engine.workers({"CPU": 1.0}, on_gpus=False)[0] == 1


def test_without_the_extra_the_error_says_what_to_install(new_work, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tipr_jax\[ray\]'"):
        stages.translate(Work(new_work().config, engine="ray"))


def test_another_engine_is_named(new_work):
    with pytest.raises(ValueError, match="--engine=spark: expected ray"):
        Work(new_work().config, engine="spark")


@pytest.mark.slow
def test_journals_and_export_are_those_of_the_plain_engine(ray, root, new_work, tmp_path):
    plain = new_work(**FIELDS)
    folder = tmp_path / "by_ray"
    for name, stage in STAGES.items():
        assert stage(with_ray(plain, folder)).done == stage(plain).done > 0
        assert not list(folder.glob("*.ray"))
        ours, theirs = (place / f"{name}.jsonl" for place in (plain.folder, folder))
        assert ours.read_bytes() == theirs.read_bytes()
    export.export(plain)
    export.export(with_ray(plain, folder))
    for path in root.glob("CUHK-PEDES/*_reid_ch.json"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert stages.translate(with_ray(plain, folder)).before == 208  # Ray is not even asked


@pytest.mark.slow
def test_a_killed_run_goes_on_and_failures_are_recorded(ray, new_work, tmp_path):
    """As after a kill: half of the journal is there, and a spool."""
    ready = tmp_path / "ready.jsonl"
    sources = [caption.text for caption in new_work().source]
    rows = [{"source": text, "translation": f"第{n}句"} for n, text in enumerate(sources)]
    ready.write_text("\n".join(json.dumps(row) for row in rows if "backpack" not in row["source"]))
    plain = new_work(translator="file", **{"file.path": str(ready), "batch_size": 20})
    done = stages.translate(plain)
    assert done.failed > 5
    folder = tmp_path / "by_ray"
    (folder / "translate.ray").mkdir(parents=True)
    (folder / "translate.ray" / "batches").write_text("what a killed run left")
    lines = plain.journal("translate").read_bytes().splitlines(keepends=True)
    (folder / "translate.jsonl").write_bytes(b"".join(lines[:40]))
    found = stages.translate(with_ray(plain, folder))
    assert (found.before, found.done, found.failed) == (40, done.done - 40, done.failed)
    assert (folder / "translate.jsonl").read_bytes() == b"".join(lines)
    reasons = (folder / "translate.failures.jsonl").read_text()
    assert reasons == plain.journal("translate").with_suffix(".failures.jsonl").read_text()


@pytest.mark.slow
def test_a_mistake_of_a_worker_comes_back_in_one_line(ray, new_work, tmp_path):
    work = new_work(splits="val", scorer="command", **{"command.run": "/nowhere/score"})
    stages.translate(work)
    with pytest.raises(ValueError, match="--config.command.run=/nowhere/score: cannot be st") as e:
        stages.score(Work(work.config, engine="ray"))
    assert "\n" not in str(e.value)
