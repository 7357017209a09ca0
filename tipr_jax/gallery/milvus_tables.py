"""The collections of a gallery on a Milvus server: its address, their columns, errors in words.

An address names the server and the gallery on it: http://host:19530/name or https://host/name, with
the server's token in the environment variable MILVUS_TOKEN where it wants one. For trials,
milvus:FILE.db/name is a file of milvus-lite, which serves one process at a time.
"""

import contextlib
import difflib
import importlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.paths import no_such_path

TOKEN = "MILVUS_TOKEN"
TIMEOUT_S = 10.0  # of one call
LOAD_S = 300.0  # a server that was started anew reads a collection from its disks
PART = 1000  # values that one filter names, rows that one call writes
PAGE = 4096  # rows that one call reads
MOST = 16_384  # as many as it may
TEXT = 65_535  # bytes, the longest text that Milvus takes
SETTING, FILE, ITEM = "setting", "file", "item"

# Per collection its columns, the key first; the number is the longest text, in bytes. A gallery is
# there when its settings are, so they are made last.
COLUMNS: Mapping[str, Mapping[str, int | None]] = {
    ITEM: {
        **{"id": None, "content": 64, "region": 1024, "path": TEXT},
        **{"facts": TEXT, "revision": None},
    },
    FILE: {"path": TEXT, "content": 64, "facts": TEXT},
    SETTING: {"key": 1024, "name": 1024, "value": TEXT},
}
_WITHOUT_VECTOR = {"unused": [0.0, 0.0]}  # Milvus has no collection without a vector
# pymilvus pings every 10 s; milvus-lite hangs up on whoever does so more often than every 5 min.
_PINGS = {"grpc.keepalive_time_ms": 301_000}

Row = dict[str, Any]


class Address(NamedTuple):
    """server: as pymilvus takes it, http(s)://host:port or a file of milvus-lite."""

    server: str
    name: str


def is_address(place: object) -> bool:
    return str(place).startswith(("http://", "https://", "milvus:"))


def parse(address: str) -> Address:
    """Raises ValueError for what is no address of a gallery."""
    host = r"https?://(?:[^/@]+@)?(?:[^/:@]+|\[[^/]+\])(?::\d+)?"
    match = re.fullmatch(rf"({host}|milvus:.+\.db)/(.*)", address)
    if not match:
        raise ValueError(
            f"{address}: expected server and gallery, as in http://host:19530/people, or for a "
            "trial milvus:FILE.db/people"
        )
    server, name = match[1].removeprefix("milvus:"), match[2]
    if "@" in server and not server.endswith(".db"):
        raise ValueError(
            f"an address with a password in it is shown in messages; set {TOKEN}=USER:PASSWORD "
            "instead and give http://host:19530/name"
        )
    if not re.fullmatch(r"[A-Za-z_]\w{0,99}", name, re.ASCII):
        raise ValueError(
            f"{address}: Milvus does not allow the name {name!r}; use letters, digits and _, a "
            "letter first, at most 100"
        )
    return Address(server, name)


class Tables:
    """The collections of one gallery. Whoever reads sees all that was acknowledged to anybody.

    create: a milvus-lite file that is not there is made.

    Raises:
      ValueError: the address, or pymilvus is not installed.
      FileNotFoundError: there is no such milvus-lite file.
      OSError: of every method: the server cannot be reached, or refuses.
    """

    def __init__(self, address: str, *, create: bool = False):
        self.address = address
        self._server, self.name = parse(address)
        self._pymilvus = _pymilvus(address)
        if self._server.endswith(".db"):
            self._server = os.path.expanduser(self._server)
            folder = os.path.dirname(os.path.abspath(self._server))
            if create:
                os.makedirs(folder, exist_ok=True)
            elif not os.path.exists(self._server):
                raise FileNotFoundError(no_such_path(self._server, "milvus-lite file"))
        token = os.environ.get(TOKEN, "")
        with self._named():
            self._client = self._pymilvus.MilvusClient(
                self._server, token=token, timeout=TIMEOUT_S, grpc_options=_PINGS
            )

    def close(self) -> None:
        self._client.close()

    def exists(self, table: str) -> bool:
        with self._named():
            return self._client.has_collection(self._full(table), timeout=TIMEOUT_S)

    def others(self) -> list[str]:
        """The names of the galleries on the server, the nearest to this one's first."""
        with self._named():
            found = self._client.list_collections(timeout=TIMEOUT_S)
        names = [name.removesuffix(f"_{SETTING}") for name in found if name.endswith(SETTING)]
        return difflib.get_close_matches(self.name, sorted(names), n=5, cutoff=0)

    def create(self, table: str, vector_size: int = 0) -> None:
        """A collection of `COLUMNS`, or of ids and vectors; one that is there stays as it is."""
        if self.exists(table):
            return
        kind = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for number, (name, longest) in enumerate(COLUMNS.get(table, {"id": None}).items()):
            if longest is None:
                schema.add_field(name, kind.INT64, is_primary=not number)
            else:
                schema.add_field(name, kind.VARCHAR, is_primary=not number, max_length=longest)
        vector = "vector" if vector_size else "unused"
        schema.add_field(vector, kind.FLOAT_VECTOR, dim=vector_size or 2)
        indexes = self._client.prepare_index_params()
        indexes.add_index(vector, index_type="FLAT", metric_type="IP")
        if "content" in COLUMNS.get(table, {}):
            indexes.add_index("content", index_type="INVERTED")
        full = self._full(table)
        with self._named():
            self._client.create_collection(
                full, schema=schema, consistency_level="Strong", num_shards=1, timeout=TIMEOUT_S
            )
            self._client.create_index(full, indexes, timeout=TIMEOUT_S, sync=False)
        self.load(table)

    def load(self, table: str) -> None:
        """Milvus answers of collections that are loaded; one that is loaded stays so."""
        with self._named():
            self._client.load_collection(self._full(table), timeout=LOAD_S)

    def destroy(self, table: str) -> None:
        with self._named():
            self._client.drop_collection(self._full(table), timeout=TIMEOUT_S)

    def count(self, table: str) -> int:
        with self._named():
            rows = self._client.query(
                self._full(table), output_fields=["count(*)"], timeout=TIMEOUT_S
            )
        return int(rows[0]["count(*)"])

    def rows(
        self, table: str, column: str, values: Collection[Any], fields: Sequence[str] = ()
    ) -> list[Row]:
        """The rows whose column has one of these values; fields: default all of `COLUMNS`."""
        found: list[Row] = []
        for part in parts(list(values)):
            with self._named():
                found += self._client.query(
                    self._full(table),
                    filter=_one_of(column, part),
                    output_fields=list(fields or COLUMNS[table]),
                    timeout=TIMEOUT_S,
                )
        return found

    def walk(
        self, table: str, fields: Sequence[str] = (), condition: str = "", page: int = PAGE
    ) -> Iterator[list[Row]]:
        """All rows that fulfil a condition, in the order of their keys, page by page."""
        with self._named():
            pages = self._client.query_iterator(
                self._full(table),
                batch_size=page,
                filter=condition,
                output_fields=list(fields or COLUMNS[table]),
                timeout=TIMEOUT_S,
            )
        with contextlib.closing(pages):
            while True:
                with self._named():
                    rows = list(pages.next())
                if not rows:
                    return
                yield rows

    def ids(self, table: str, after: int = 0) -> np.ndarray:
        """The numbers that are a collection's keys and larger, ascending, int64 [N]."""
        pages = self.walk(table, ("id",), f"id > {int(after)}", MOST)
        return np.sort(np.fromiter((row["id"] for page in pages for row in page), np.int64))

    def present(self, table: str, ids: Collection[int]) -> set[int]:
        """Those numbers that are keys of a collection."""
        return {row["id"] for row in self.rows(table, "id", ids, ("id",))}

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Rows in one call, at most `PART`; a row of the same key is replaced."""
        unused = _WITHOUT_VECTOR if table in COLUMNS else {}
        with self._named():
            self._client.upsert(
                self._full(table), [row | unused for row in rows], timeout=TIMEOUT_S
            )

    def drop(self, table: str, keys: Sequence[Any]) -> None:
        """Removes the rows of these keys in one call, at most `PART`."""
        key = next(iter(COLUMNS.get(table, {"id": None})))
        with self._named():
            self._client.delete(self._full(table), filter=_one_of(key, keys), timeout=TIMEOUT_S)

    def _full(self, table: str) -> str:
        return f"{self.name}_{table}"

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turns Milvus' errors into an OSError that names the gallery and says what to do."""
        try:
            yield
        except self._pymilvus.MilvusException as error:
            raise OSError(f"{self.address}: {self._in_words(error)}") from error

    def _in_words(self, error: Any) -> str:
        text = (str(error.message).splitlines() or [type(error).__name__])[0]
        if text.startswith("Open local milvus failed"):
            return "another process has it open, and milvus-lite serves one; use a Milvus server"
        if not text.startswith("Fail connecting"):
            return text
        cause = error
        while cause is not None and not hasattr(cause, "details"):  # down to that of gRPC
            cause = cause.__context__  # pymilvus makes an error its own `__cause__`
        if cause is not None and cause.code().name in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return f"the server lets nobody in with this token; set {TOKEN} to the right one"
        reason = str(cause and cause.details()).rpartition(": ")[2]
        return f"no server answers there ({reason}); is Milvus running, and is it http or https?"


def parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As many at a time as one call to the server takes."""
    return (values[start : start + PART] for start in range(0, len(values), PART))


def _one_of(column: str, values: Sequence[Any]) -> str:
    """A condition; texts are ASCII without quotation marks and back-slashes, see `milvus_rows`."""
    return f"{column} in {json.dumps(list(values))}"


def _pymilvus(address: str) -> Any:
    try:
        module = importlib.import_module("pymilvus")
        if address.startswith("milvus:"):
            importlib.import_module("milvus_lite")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{address}: {error}; install it: pip install 'tipr_jax[milvus]'"
        ) from None
    for name in ("pymilvus", "milvus_lite"):  # they log what they raise, with its traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return module
