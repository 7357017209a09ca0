"""The audit log: on the disk before an answer, or there is no answer; never a torn line left."""

import asyncio
import json
import os
import signal
import threading

import httpx2
import machine
import pytest
from serving.process import served
from serving.test_api import search, upload

from tipr_jax.serving.audit import AuditLog


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    yield log
    log.close()


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_line_is_on_the_disk_before_write_returns(log, tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def noting(file):
        fsync(file)
        seen.append(len(lines(tmp_path / "audit.jsonl")))

    monkeypatch.setattr("os.fsync", noting)
    for number in (1, 2, 3):
        asyncio.run(log.write("me", "search", ids=[number]))
        assert seen[-1] == number == len(seen)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_lines_that_wait_share_a_turn_of_the_disk(log, tmp_path, monkeypatch):
    gate, turns, fsync = threading.Event(), [], os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (gate.wait(60), turns.append(1), fsync(file)))

    async def many():
        writing = [asyncio.create_task(log.write("me", "search", ids=[i])) for i in range(100)]
        await asyncio.sleep(0)  # each has put its line down
        gate.set()
        await asyncio.gather(*writing)

    asyncio.run(many())
    assert len(lines(tmp_path / "audit.jsonl")) == 100 and len(turns) < 10


@pytest.mark.parametrize("part", [0, 1, 20])
def test_a_line_that_was_cut_off_spoils_no_other(log, tmp_path, monkeypatch, part):
    calls, write = [], os.write

    def filling_up(file, data):
        calls.append(1)
        return write(file, data[:part]) if part and len(calls) == 1 else full_disk()

    monkeypatch.setattr("os.write", filling_up)
    with pytest.raises(OSError, match=r"audit.jsonl: the audit log cannot be written: No space"):
        asyncio.run(log.write("me", "search", ids=[1]))
    monkeypatch.undo()
    asyncio.run(log.write("me", "search", ids=[2]))
    written = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(written[-1])["ids"] == [2] and len(written) == 1 + (part > 0)


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text('{"ids": [1]}\n{"ids": [')
    log = AuditLog(path)
    asyncio.run(log.write("me", "search", ids=[2]))
    log.close()
    assert [line["ids"] for line in whole_lines(path)] == [[1], [2]]


def test_a_log_that_was_moved_away_is_begun_anew(log, tmp_path):
    path, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    asyncio.run(log.write("me", "search", ids=[1]))
    path.rename(moved)
    asyncio.run(log.write("me", "search", ids=[2]))
    assert [line["ids"] for line in lines(moved) + lines(path)] == [[1], [2]]


DEEDS = {
    "search": lambda running: running.client.post("/api/search", json={"sentence": "red"}),
    "page": lambda running: running.client.get("/?q=red"),
    "view": lambda running: running.client.get("/api/items/1"),
    "frame": lambda running: running.client.get("/api/items/1/frame"),
    "words": lambda running: running.client.get("/api/items/1/words?sentence=red"),
    "look": lambda running: running.client.post("/api/pictures", files={"picture": PNG}),
    "add": lambda running: upload(running, PNG),
    "delete": lambda running: running.client.delete("/api/items/1"),
    "delete on the page": lambda running: running.client.post("/items/1/delete"),
}
PNG = bytes.fromhex(  # one grey pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63680000008200817764db870000000049454e44ae426082"
)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("fault", ["full disk", "no fsync", "a folder in its place"])
def test_nothing_is_done_or_answered_unrecorded(running, monkeypatch, deed, fault):
    path = running.gallery.parent / "my.gallery.audit.jsonl"
    if fault == "a folder in its place":
        path.unlink()
        path.mkdir()
    monkeypatch.setattr("os.write" if fault == "full disk" else "os.fsync", full_disk)
    answer = DEEDS[deed](running)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert "the audit log cannot be written" in answer.json()["detail"]
    monkeypatch.undo()
    if path.is_dir():
        path.rmdir()
    assert search(running, sentence="red", k=100)["among"] == 30, "nothing was changed"
    assert lines(path)[-1]["action"] == "search"


def test_a_log_that_cannot_be_opened(gallery, model_directory, tmp_path):
    (tmp_path / "my.gallery.audit.jsonl").mkdir()
    with served(f"--gallery={gallery}", f"--model={model_directory}") as service:
        code, said = service.end()
    assert code != 0 and "audit.jsonl" in said and "Traceback" not in said


@pytest.mark.slow
def test_killed_at_any_moment_it_has_recorded_every_answer(gallery, model_directory, tmp_path):
    for kill in range(4):
        with served(f"--gallery={gallery}", f"--model={model_directory}") as service:
            answered = asyncio.run(ask_until_killed(service, f"kill {kill}", 15 + 20 * kill))
        recorded = {
            line.get("sentence") for line in whole_lines(tmp_path / "my.gallery.audit.jsonl")
        }
        assert len(answered) >= 15 + 20 * kill and answered <= recorded


async def ask_until_killed(service, what: str, enough: int) -> set[str]:
    """The sentences that were answered by a service that is killed after so many answers."""
    answered: set[str] = set()

    async def visitor(number: int) -> None:
        for turn in range(10_000):
            sentence = f"a man in red, {what}, visitor {number}, turn {turn}"
            try:
                answer = await client.post("/api/search", json={"sentence": sentence})
            except httpx2.HTTPError:  # it was killed
                return
            assert answer.status_code == 200, answer.text
            answered.add(sentence)
            if len(answered) == enough:
                service.process.send_signal(signal.SIGKILL)

    async with httpx2.AsyncClient(base_url=service.address, timeout=machine.HANGS) as client:
        await asyncio.gather(*map(visitor, range(8)))
    return answered


def whole_lines(path) -> list[dict]:
    """Every line but one that a kill cut off, which is the last before a restart's first."""
    out = []
    for line in path.read_text().splitlines():
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return out
