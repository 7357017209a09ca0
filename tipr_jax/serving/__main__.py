"""Serves a gallery: a page to search, add and delete in a browser, and JSON for programs.

  python -m tipr_jax.serving --gallery=my.gallery

The page is for this machine alone, unless a token says who may ask. Uploaded pictures are kept in
my.gallery.pictures, and my.gallery.audit.jsonl records who searched for what.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tipr_jax import command_line
from tipr_jax.gallery.stores import beside, exists, gallery_place
from tipr_jax.paths import model_path, no_such_path

if TYPE_CHECKING:
    from tipr_jax.gallery.retriever import Retriever

PROGRAM = "python -m tipr_jax.serving"
DRAIN_S = 6  # for requests that are being answered when the service is told to stop


def make_parser() -> command_line.Parser:
    example = f"{PROGRAM} --gallery=my.gallery"
    parser = command_line.Parser(prog=PROGRAM, description=__doc__, example=example)
    parser.add_argument("--gallery", required=True, help="its file, or its address on Milvus")
    parser.add_argument(
        "--model",
        default="",
        help="run or model directory: for a new gallery, or where a gallery's own is now",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="0 for any free one (8000)")
    parser.add_argument(
        "--token",
        default=os.environ.get("TIPR_TOKEN", ""),
        help="the secret that whoever asks must know (default: $TIPR_TOKEN)",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def serve(options: argparse.Namespace) -> None:
    """Opens gallery and port, then answers until the process is told to stop."""
    try:
        import uvicorn

        from tipr_jax.serving.access import Keys, check_exposure
        from tipr_jax.serving.app import make_app
        from tipr_jax.serving.audit import AuditLog
        from tipr_jax.serving.measures import Measures
        from tipr_jax.serving.worker import Worker
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install the service: pip install 'tipr_jax[serve]'") from None
    check_exposure(options.host, options.token)
    gallery = gallery_place(options.gallery, "--gallery")
    model = model_path(options.model, "--model") if options.model else None
    if model is not None and not model.is_dir():
        raise FileNotFoundError(no_such_path(model, "run or model directory"))
    listening = _listen(options.host, options.port)
    command_line.check_devices()
    measures = Measures()
    address = _address(listening)
    worker = Worker(
        functools.partial(_open, gallery, model), functools.partial(_prepare, address), measures
    )
    worker.start()
    audit = AuditLog(f"{beside(gallery)}.audit.jsonl")
    app = make_app(worker, measures, Keys(options.token), audit)
    config = uvicorn.Config(
        app,
        http="h11",  # limits the size of a request's head
        loop="asyncio",
        log_config=None,  # its access log would show sentences
        log_level="error",  # it warns of every request that is no HTTP
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
    )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # as it does of bad forms
    # uvicorn finishes what it answers, then passes the signal on to this handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listening])


def _open(gallery: str | Path, model: Path | None) -> "Retriever":
    from tipr_jax.gallery.retriever import Retriever

    if model is not None and not exists(gallery):
        return Retriever.create(gallery, model)
    return Retriever.open(gallery, model)


def _prepare(address: str, retriever: "Retriever") -> None:
    from tipr_jax.serving import pictures, searching

    print(f"{retriever.store.path}: {len(retriever.index):,} items; warming up", flush=True)
    pictures.sweep(retriever)
    searching.warm_up(retriever)
    print(f"{address} is ready; Ctrl-C stops it", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OSError(
            f"--host={host} --port={port}: {error.strerror}; choose another, as in --port=8001"
        ) from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    command_line.setup_process()
    with command_line.mistakes_in_one_line():
        serve(options)


if __name__ == "__main__":
    main(sys.argv[1:])
