"""The command: what it refuses, what it prints, and how it ends."""

import asyncio
import signal
import socket
import subprocess
import sys

import httpx2
import machine
import pytest
from serving.process import ROOT, served

from tipr_jax.serving.__main__ import main


def test_told_to_stop_it_finishes_what_it_answers(gallery, model_directory):
    with served(f"--gallery={gallery}", f"--model={model_directory}") as service:
        address = service.address

        async def ask() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(base_url=address, timeout=machine.HANGS) as client:
                sent = asyncio.Event()
                waiting = [asyncio.create_task(ask_once(client, sent, i)) for i in range(20)]
                await sent.wait()
                service.process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*waiting)

        async def ask_once(client, sent, number):
            async def body():
                yield b'{"sentence": '
                await asyncio.sleep(0.1)
                sent.set()  # the service has the head of this request, and waits for its end
                await asyncio.sleep(0.5)
                yield f'"a man in red {number}"}}'.encode()

            headers = {"content-type": "application/json"}
            return await client.post("/api/search", content=body(), headers=headers)

        answers = asyncio.run(ask())
        assert [a.status_code for a in answers] == [200] * 20
        code, output = service.end()
    assert code == 0 and "Traceback" not in output, output
    with pytest.raises(OSError):
        socket.create_connection((address.split("/")[2].split(":")[0], int(address.split(":")[2])))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_idle_it_ends_at_once(gallery, model_directory, number, code):
    with served(f"--gallery={gallery}", f"--model={model_directory}") as service:
        assert httpx2.get(f"{service.address}/readyz").text == "ready\n"
        service.process.send_signal(number)
        ended, output = service.end()
    assert ended == code and "Traceback" not in output, output


def test_a_new_gallery(tmp_path, model_directory):
    path = tmp_path / "new.gallery"
    with served(f"--gallery={path}", f"--model={model_directory}") as service:
        found = httpx2.get(f"{service.address}/api/gallery").json()
    assert found["items"] == 0 and path.exists()


CALLS = {
    "no gallery": ([], "--gallery"),
    "a file that is not there": (["--gallery={tmp}/x.gallery"], "no such gallery"),
    "no gallery file": (["--gallery={tmp}/text"], "is not a gallery"),
    "a model that is not there": (["--gallery={tmp}/x", "--model={tmp}/m"], "no such run"),
    "all the world": (["--gallery={gallery}", "--host=0.0.0.0"], "--token"),
    "a weak token": (["--gallery={gallery}", "--host=0.0.0.0", "--token=abc"], "at least 16"),
    "no port": (["--gallery={gallery}", "--port=http"], "not a port"),
    "port too large": (["--gallery={gallery}", "--port=65536"], "not a port"),
    "a port in use": (["--gallery={gallery}", "--port={port}"], "choose another"),
    "another machine's address": (
        ["--gallery={gallery}", "--host=192.0.2.1", "--token=" + "x" * 16],
        "--host",
    ),
    "an unknown option": (["--gallery={gallery}", "--prot=1"], "did you mean --port"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_cannot_be(name, gallery, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TIPR_TOKEN", raising=False)
    (tmp_path / "text").write_text("hello")
    options, reason = CALLS[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = [o.format(tmp=tmp_path, gallery=gallery, port=port) for o in options]
        given.insert(0, "--port=0")
        with pytest.raises(SystemExit) as ended:
            main(given)
    said = f"{ended.value.code}{capsys.readouterr().err}"
    assert reason in said and said.strip("02").count("\n") <= 1 and ended.value.code != 0


def test_help_loads_neither_models_nor_the_web_framework():
    code = (
        "import sys; import tipr_jax.serving.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print(*{n.split('.')[0] for n in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "argparse" in loaded and not loaded & {"jax", "flax", "fastapi", "uvicorn", "PIL"}
