"""Scoring by the embeddings of a server on this machine that misbehaves."""

import http.server
import json

import pytest

from data_pipelines.ldat import stages
from data_pipelines.ldat.work import Work
from tests.data_pipelines.ldat.conftest import serving

pytest.importorskip("openai", reason="needs the extra llm")


def reply(*vectors, indices=None):
    indices = indices or range(len(vectors))
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in zip(indices, vectors, strict=True)
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return 200, json.dumps({"object": "list", "data": data, "model": "e", "usage": usage})


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the next requests with the server's steps, the last one for ever."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body))
            steps = self.server.steps
            status, text = steps.pop(0) if len(steps) > 1 else steps[0]
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with serving(Handler, steps=[]) as server:
        yield server


@pytest.fixture
def translated(new_work, server):
    """A job whose 16 translations are there."""

    def make(**fields) -> Work:
        openai = {"embedding_model": "e", "retries": 0, "concurrency": 1, **fields}
        openai = {f"openai.{name}": value for name, value in openai.items()}
        url = f"http://127.0.0.1:{server.server_port}/v1"
        openai = {"openai.embedding_url": url, **openai}
        work = new_work(splits="val", scorer="openai", **openai)
        stages.translate(work)
        return work

    return make


def test_the_cosine_of_what_the_server_says_is_the_quality(translated, server):
    work = translated()
    server.steps = [reply([1, 0], [1, 1]), reply([0, 2], [0, 5]), reply([1, 0], [-1, 0])]
    assert stages.score(work).done == 16
    lines = work.journal("score").read_text().splitlines()
    assert [json.loads(line)["quality"] for line in lines] == [0.7071, 1.0, *[0.0] * 14]
    path, body = server.requests[0]
    first = next(iter(work.source))
    assert path == "/v1/embeddings" and body["model"] == "e"
    assert body["input"] == [first.text, work.translator.truth(first)]


def test_embeddings_are_told_apart_by_their_index(translated, server):
    work = translated()
    server.steps = [reply([9, 9], [1, 0], indices=[1, 0])]
    stages.score(work)
    assert json.loads(work.journal("score").read_text().splitlines()[0])["quality"] == 0.7071


BAD = {
    "busy": ((503, "{}"), "HTTP 503 after 0 retries"),
    "no JSON": ((200, "{"), "malformed JSON"),
    "another reply": ((200, '{"error": "overloaded"}'), "no embeddings"),
    "null": ((200, "null"), "no embeddings"),
    "one": (reply([1, 2]), "holds 1 embeddings, expected 2"),
    "three": (reply([1], [1], [1]), "holds 3 embeddings"),
    "other sizes": (reply([1, 2], [1]), "have no cosine"),
    "zeros": (reply([0, 0], [1, 0]), "zero or not finite"),
    "words": (reply(["a"], ["b"]), "no list of numbers"),
    "none": (reply(None, None), "no cosine|not finite|no list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_embedding_is_a_failure_and_never_a_score(translated, server, name):
    work = translated()
    server.steps = [BAD[name][0], reply([1, 0], [1, 0])]
    tally = stages.score(work)
    assert (tally.done, tally.failed) == (15, 1)
    failures = work.journal("score").with_suffix(".failures.jsonl").read_text()
    reason = json.loads(failures)["reason"]
    assert any(part in reason for part in BAD[name][1].split("|")), reason
    assert stages.score(work).done == 1


def test_a_refusal_ends_the_run_with_one_line(translated, server):
    work = translated()
    server.steps = [(404, '{"error": {"message": "no such model"}}')]
    with pytest.raises(ValueError, match=r"refuses .*no such model.*openai\.embedding_model"):
        stages.score(work)


def test_no_model_is_named(translated):
    with pytest.raises(ValueError, match=r"openai\.embedding_model is empty"):
        _ = translated(embedding_model="").scorer
    assert Work(translated(embedding_url="").config).scorer is not None  # that of base_url
