"""Translating and rewriting through HTTP, against a server on this machine that misbehaves."""

import base64
import http.server
import json
import re
import time

import pytest

from configs import ldat as ldat_config
from data_pipelines.ldat import export, prompt, report, stages
from data_pipelines.ldat.work import Work
from tests.data_pipelines.ldat.conftest import generated_entries, serving

pytest.importorskip("openai", reason="needs the extra llm")

TRUE = {
    caption: translated
    for split in ("train", "val", "test")
    for a, b in zip(generated_entries(split, "en"), generated_entries(split, "zh"), strict=True)
    for caption, translated in zip(a["captions"], b["captions"], strict=True)
}


def completion(text, reason="stop"):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps(whole | {"choices": [choice]}, ensure_ascii=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a caption with the next step of its script, the last one for ever."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        words = content if isinstance(content, str) else content[-1]["text"]
        caption = words.rstrip().splitlines()[-1].strip('"')
        server = self.server
        with server.lock:
            server.requests.append((time.monotonic(), caption, body))
            server.now += 1
            server.most = max(server.most, server.now)
            script = server.scripts.get(caption, [])
            step = script.pop(0) if len(script) > 1 else (script or [None])[0]
        try:
            self.answer(step, caption)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.now -= 1

    def answer(self, step, caption):
        status, headers, text = 200, {}, completion(TRUE[caption])
        if isinstance(step, str):
            text = step
        elif isinstance(step, tuple):
            status, headers, text = step
        elif isinstance(step, float):
            time.sleep(step)
        data = text.encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data))} | headers
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if int(sent["Content-Length"]) > len(data):
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with serving(Handler, scripts={}, now=0, most=0) as server:
        yield server


@pytest.fixture
def new_job(root, server):
    def make(splits="val", **openai):
        config = ldat_config.get_config()
        config.data.root, config.splits, config.rewriter = str(root), splits, "keep"
        config.openai.base_url = f"http://127.0.0.1:{server.server_port}/v1"
        config.openai.model, config.openai.retries, config.openai.timeout = "m", 1, 10.0
        for name, value in openai.items():
            config.openai[name] = value
        return Work(config)

    return make


def captions(work):
    return list(dict.fromkeys(caption.text for caption in work.source))


def written(work):
    lines = work.journal("translate").read_text().splitlines()
    return {record["source"]: record["text"] for record in map(json.loads, lines)}


def failures(work):
    path = work.journal("translate").with_suffix(".failures.jsonl")
    return {r["source"]: r["reason"] for r in map(json.loads, path.read_text().splitlines())}


def test_a_good_server_translates_everything(new_job, server):
    work = new_job(concurrency=3)
    assert stages.translate(work).done == 16
    assert written(work) == {caption: TRUE[caption] for caption in captions(work)}
    assert 1 <= server.most <= 3
    _, _, body = server.requests[0]
    assert body["model"] == "m" and body["temperature"] == 0 and body["max_tokens"] == 400
    words = body["messages"][0]["content"]
    assert "Chinese" in words and "$" not in words and "Examples:" in words


BUSY = (429, {"Retry-After": "1"}, '{"error": {"message": "slow down"}}')
BROKEN = (500, {}, '{"error": {"message": "oops"}}')
SHORT = (200, {"Content-Length": "5000"}, completion("一"))


def test_what_passes_is_asked_again(new_job, server):
    work = new_job()
    steps = [BUSY, BROKEN, SHORT, (503, {}, "<html>"), (408, {}, "")]
    server.scripts = {c: [step, None] for c, step in zip(captions(work), steps, strict=False)}
    troubled = list(server.scripts)
    assert stages.translate(work).failed == 0
    assert written(work) == {caption: TRUE[caption] for caption in captions(work)}
    times = [[t for t, caption, _ in server.requests if caption == c] for c in troubled]
    assert [len(of_one) for of_one in times] == [2] * len(steps)
    assert times[0][1] - times[0][0] >= 1.0  # as Retry-After says


LASTING = {
    "busy": (BUSY, "HTTP 429 after 1 retries"),
    "broken": (BROKEN, "HTTP 500 after 1 retries"),
    "cut body": (SHORT, "APIConnectionError"),
    "malformed": ("{not json", "malformed JSON"),
    "half of a reply": (completion("一" * 20)[:-30], "malformed JSON"),
    "page": ((200, {"Content-Type": "text/html"}, "<html>login</html>"), "no chat completion"),
    "no choices": ('{"choices": []}', "no chat completion"),
    "null": ("null", "no chat completion"),
    "list": ("[]", "no chat completion"),
    "error as 200": ('{"error": {"message": "overloaded"}}', "no chat completion"),
    "empty": (completion(""), "empty"),
    "blank": (completion(" \n"), "empty"),
    "quotes": (completion('""'), "in another language|characters"),
    "no text": (completion(None), "empty"),
    "parts": (completion([{"type": "text", "text": "一"}]), "empty"),
    "cut off": (completion("一名男子穿着红色" * 3, "length"), "cut off.*length"),
    "filtered": (completion("一名男子穿着红色" * 3, "content_filter"), "content_filter"),
    "stopped early": (completion("一名男"), "has 3 characters"),
    "loop": (completion("红色" * 500), "has 1000 characters"),
    "French": (completion("Un homme porte une veste rouge avec un sac et des bottes"), "French"),
    "Japanese": (
        completion("赤いコートを着て黒いかばんを持っている男性が歩いています"),
        "Japanese",
    ),
    "refusal": (completion("I'm sorry, but I cannot describe people in images."), "not in Chinese"),
}


def test_what_lasts_is_a_failure_and_never_a_translation(new_job, server):
    work = new_job(attempts=2, splits="train")
    echo = {"echo": str.strip, "loud echo": str.upper, "quoted echo": lambda c: f"“{c}”"}
    bad = dict(zip(captions(work), [*LASTING, *echo], strict=False))
    for caption, name in bad.items():
        step = completion(echo[name](caption)) if name in echo else LASTING[name][0]
        server.scripts[caption] = [step]
    tally = stages.translate(work)
    assert tally.failed == len(bad) == len(LASTING) + 3
    assert written(work) == {c: TRUE[c] for c in captions(work) if c not in bad}
    told = failures(work)
    for caption, name in bad.items():
        reason = "repeats the source" if name in echo else LASTING[name][1]
        assert re.search(reason, told[caption]), (name, told[caption])
    assert {sum(c == caption for _, c, _ in server.requests) for caption in bad} == {2}
    server.scripts.clear()
    assert stages.translate(work).done == len(bad)
    assert written(work) == {caption: TRUE[caption] for caption in captions(work)}


def test_a_bad_answer_is_asked_for_again_with_more_variety(new_job, server):
    work = new_job(attempts=3)
    first = captions(work)[0]
    server.scripts[first] = [completion(""), completion(first), completion(f' "{TRUE[first]}"\n')]
    assert stages.translate(work).failed == 0
    assert written(work)[first] == TRUE[first]  # without quotation marks
    asked = [body["temperature"] for _, caption, body in server.requests if caption == first]
    assert asked == [0, 0.3, 0.6]


def test_a_server_that_does_not_answer_in_time(new_job, server):
    work = new_job(timeout=0.4, retries=0)
    first = captions(work)[0]
    server.scripts[first] = [2.0]
    tally = stages.translate(work)
    assert first not in written(work) and tally.failed >= 1
    assert "APITimeoutError" in failures(work)[first]


def test_no_server_is_a_failure_of_every_caption(new_job, server):
    fields = {"base_url": "http://127.0.0.1:9/v1", "retries": 0}
    work = new_job(**fields)
    assert stages.translate(work).failed == 16
    assert set(failures(work).values()) == {"APIConnectionError after 0 retries"}
    work = new_job(splits="train", **fields)
    with pytest.raises(ValueError, match="the last 128 captions failed.*APIConnectionError"):
        stages.translate(work)
    assert len(failures(work)) == 16 + 128  # the third batch of 64 is not tried


def test_a_missing_image_is_a_failure(new_job):
    work = new_job()
    work.config.translator, work.config.rewriter, work.config.grammar.noise = (
        "grammar",
        "openai",
        1.0,
    )
    work = Work(work.config)
    stages.translate(work)
    stages.score(work)
    tally = stages.rewrite(work)
    assert tally.failed > 3 and tally.done == 0
    (count,) = export.export(work).values()
    assert count["kept"] == tally.failed


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_ends_the_run_with_one_line(new_job, server, status):
    work = new_job(concurrency=1)
    step = (status, {}, '{"error": {"message": "no\\nsuch model"}}')
    server.scripts = {caption: [step] for caption in captions(work)}
    with pytest.raises(ValueError, match=r"refuses .*no such model.*openai\.model") as error:
        stages.translate(work)
    assert "\n" not in str(error.value) and written(work) == {}
    assert len(server.requests) < 5


def test_the_rate_is_kept(new_job, server):
    work = new_job(requests_per_minute=600)
    stages.translate(work)
    times = sorted(moment for moment, _, _ in server.requests)
    assert times[-1] - times[0] >= 15 * 0.1 - 0.1


def test_rewriting_shows_the_image_and_not_the_noisy_text(root, server, new_job):
    work = new_job()
    config = work.config
    config.translator, config.rewriter, config.grammar.noise = "grammar", "openai", 0.4
    config.openai.rewrite_model = "eyes"
    work = Work(config)
    for entry in generated_entries("val", "en"):
        path = root / "CUHK-PEDES" / "imgs" / entry["file_path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"picture of " + entry["file_path"].encode())
    stages.translate(work)
    stages.score(work)
    noisy = [f for f in report.finals(work, 0.1) if f.noise is not None and f.noise > 0.1]
    work.config.theta = "0.1"
    server.scripts[noisy[0].caption.text] = [completion("")]
    tally = stages.rewrite(work)
    assert (tally.done, tally.failed) == (len(noisy) - 1, 1) and len(noisy) > 3
    for _, caption, body in server.requests:
        image, words = body["messages"][0]["content"]
        final = next(f for f in noisy if f.caption.text == caption)
        data = image["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
        assert base64.b64decode(data) == b"picture of " + final.caption.image.encode()
        assert body["model"] == "eyes" and "image shows" in words["text"]
        assert final.first == caption or final.first not in words["text"]
    (count,) = export.export(work).values()
    assert count["rewritten"] >= len(noisy) - 2 and count["kept"] >= 1


def test_another_model_or_prompt_is_work_of_its_own_and_another_address_is_not(new_job, tmp_path):
    first = new_job()
    caption = next(iter(first.source))
    key = first.translation_key(caption)
    same = new_job(base_url="http://other/v1", concurrency=2, timeout=3.0, retries=9)
    assert same.translation_key(caption) == key
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "translate.txt").write_text("$caption")
    others = [new_job(model="n"), new_job(temperature=0.5), new_job(prompts=str(folder))]
    assert len({key, *(work.translation_key(caption) for work in others)}) == 4


@pytest.mark.parametrize("target, word", [("zh", "灰色"), ("fr", "gris"), ("de", "grau")])
def test_a_prompt_holds_the_words_of_its_caption(target, word):
    text = prompt.Prompt(prompt.FOLDER, "translate", "en", target).text("A man in a grey coat, $5.")
    listed = next(line for line in text.splitlines() if line.startswith("Words of this field"))
    assert f"grey = {word}" in listed and "coat = " in listed and "red" not in listed
    assert text.splitlines()[-1] == '"A man in a grey coat, $5."'
    assert "Examples:" in text


@pytest.mark.parametrize("content", ["no field", "$caption $unknown"])
def test_a_wrong_prompt_is_named(tmp_path, content):
    (tmp_path / "translate.txt").write_text(content)
    with pytest.raises(ValueError, match=r"translate\.txt: has the fields"):
        prompt.Prompt(tmp_path, "translate", "en", "zh")
    with pytest.raises(ValueError, match=r"expected rewrite\.txt there"):
        prompt.Prompt(tmp_path, "rewrite", "en", "zh")
