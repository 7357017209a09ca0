"""Google Cloud Storage as far as a run needs it, on this machine and in memory.

It speaks the JSON interface of https://cloud.google.com/storage/docs/json_api/v1, which the three
clients of a run use: gcsfs (files), TensorStore (arrays) and google-cloud-storage (Orbax asks it
about the bucket). Three buckets are always there or not: "bucket" takes everything, "forbidden" is
somebody else's, and every other name is of no bucket. Writes honour `ifGenerationMatch`, as Google
does; requests come in parallel.

`GcsServer.fail_writes` makes the uploads of what has this text in its name fail with 403.
"""

import contextlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

NAME = r"/(?:upload/|download/)?storage/v1/b/(?P<bucket>[^/]+)"
ROUTES = {
    "bucket": re.compile(NAME),
    "objects": re.compile(NAME + "/o"),
    "move": re.compile(NAME + "/o/(?P<name>[^/]+)/moveTo/o/(?P<target>[^/]+)"),
    "copy": re.compile(NAME + "/o/(?P<name>[^/]+)/rewriteTo/b/[^/]+/o/(?P<target>[^/]+)"),
    "object": re.compile(NAME + "/o/(?P<name>[^/]+)"),
}


class Object(NamedTuple):
    data: bytes
    generation: int
    time: float


class Refused(Exception):
    """An answer with an error. The arguments: HTTP status, message."""


class GcsServer(http.server.ThreadingHTTPServer):
    """The server; `objects` is what the bucket holds, by name."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}  # resumable: id -> (name, data so far)
        self.fail_writes = ""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, data: bytes, expected: str | None) -> dict[str, Any]:
        """expected: generation that the object must have, "0" for one that must not be there."""
        if self.fail_writes and self.fail_writes in name:
            raise Refused(403, "no storage.objects.create access")
        with self.lock:
            now = self.objects.get(name)
            if expected is not None and int(expected) != (now.generation if now else 0):
                raise Refused(412, "conditionNotMet")
            self.objects[name] = Object(data, time.time_ns(), time.time())
        return self.resource(name)

    def resource(self, name: str) -> dict[str, Any]:
        found = self.objects.get(name)
        if found is None:
            raise Refused(404, f"No such object: {name}")
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.time))
        facts = {"generation": str(found.generation), "size": str(len(found.data))}
        times = {"timeCreated": when, "updated": when}
        return {"kind": "storage#object", "name": name, "bucket": "bucket"} | facts | times

    def list(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            below = name[len(prefix) :]
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if (end := query.get("endOffset")) and name >= end:
                continue
            if delimiter and delimiter in below:
                prefixes.add(prefix + below.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.resource(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GcsServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def _answer(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers = 200, {}
        try:
            answer = self._route(address.path, query, body, headers)
        except Refused as refused:
            status, answer = refused.args[0], {"error": {"message": refused.args[1]}}
        if isinstance(answer, dict):
            answer = json.dumps(answer).encode()
        if "Content-Range" in headers:
            status = 206
        self.send_response(headers.pop("status", status))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _route(
        self, path: str, query: dict[str, str], body: bytes, headers: dict
    ) -> dict[str, Any] | bytes:
        matches = {name: found for name, r in ROUTES.items() if (found := r.fullmatch(path))}
        if not matches:
            raise Refused(501, f"{self.command} {path}")
        kind, match = next(iter(matches.items()))
        part = {key: urllib.parse.unquote(text) for key, text in match.groupdict().items()}
        if part["bucket"] == "forbidden":
            raise Refused(403, "Anonymous caller does not have storage.objects.list access.")
        if part["bucket"] != "bucket":
            raise Refused(404, "The specified bucket does not exist.")
        if kind == "bucket":
            return {"kind": "storage#bucket", "name": "bucket", "location": "EU"}
        if kind == "objects":
            listed = self.command == "GET"
            return self.server.list(query) if listed else self._write(query, body, headers)
        server, name = self.server, part["name"]
        server.resource(name)
        if kind in ("move", "copy"):
            resource = server.put(part["target"], server.objects[name].data, None)
            if kind == "move":
                del server.objects[name]
                return resource
            return {"done": True, "resource": resource}
        if self.command == "DELETE":
            del server.objects[name]
            return b""
        whole = query.get("alt") == "media" or path.startswith("/download")
        return self._read(name, headers) if whole else server.resource(name)

    def _read(self, name: str, headers: dict) -> bytes:
        found = self.server.objects[name]
        headers["x-goog-generation"] = str(found.generation)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return found.data
        first, end = int(wanted[1]), len(found.data)
        if first >= end:
            raise Refused(416, "Requested range not satisfiable")
        end = min(end, int(wanted[2]) + 1) if wanted[2] else end
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(found.data)}"
        return found.data[first:end]

    def _write(self, query: dict[str, str], body: bytes, headers: dict) -> dict[str, Any] | bytes:
        server, expected = self.server, query.get("ifGenerationMatch")
        if upload := query.get("upload_id"):
            name, before = server.uploads[upload]
            server.uploads[upload] = (name, before + body)
            if self.headers["Content-Range"].endswith("/*"):
                headers |= {"status": 308, "Range": f"bytes=0-{len(before + body) - 1}"}
                return b""
            return server.put(name, before + body, expected)
        if query["uploadType"] == "resumable":
            upload = str(time.time_ns())
            server.uploads[upload] = (query["name"], b"")
            headers["Location"] = f"{server.url}{self.path}&upload_id={upload}"
            return b""
        if query["uploadType"] == "media":
            return server.put(query["name"], body, expected)
        # Two parts, as gcsfs writes them: head, empty line, facts; head, empty line, data.
        _, facts, data = body.split(b"\n\n", 2)
        name = json.loads(facts.partition(b"\n--")[0])["name"]
        return server.put(name, data[: data.rindex(b"\n--")], expected)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # gcsfs asks twice and drops the later answer
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has
        """The tests are quiet."""


@contextlib.contextmanager
def serving() -> Iterator[GcsServer]:
    """The server, in a thread of this process."""
    with GcsServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def environment(server: GcsServer) -> dict[str, str]:
    """Of processes whose clients talk to the server."""
    return {
        "STORAGE_EMULATOR_HOST": server.url,
        "TENSORSTORE_GCS_HTTP_URL": server.url,
        # Otherwise the clients look for a machine of Google's, with the account that it runs under.
        "FSSPEC_GCS_TOKEN": "anon",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        "GOOGLE_CLOUD_PROJECT": "nothing",
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # It asks Google itself about the bucket.
    }
