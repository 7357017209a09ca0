"""Exact search: the inner products of a query with every row, and the best of them, on the mesh.

The rows lie in blocks of one size, cut over the devices, so adding a row writes one block and
compiles nothing. A block holds vectors as columns: a CPU then multiplies it with one query in three
quarters of the time. Removed rows and rows that a filter leaves out are masked before the ranking,
and equal scores stay in item order. Removed rows keep their room until they are many; then the
others move together, in blocks of the same size.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tipr_jax import sharding

BLOCK = 16384  # rows; 32 MiB of 512 float32 numbers
QUERIES = (1, 4, 16, 64)  # a batch of queries is padded to one of these, so few programs compile
RECALL = 0.95  # asked of an approximate search
DEAD = 0.1  # the share of removed rows above which the others move together


class Index:
    """Vectors of items in ascending order of their ids.

    Args:
      width: numbers in a vector.
      mesh: the devices; default: all of this machine.
      block: rows of a block.
    """

    def __init__(self, width: int, mesh: Mesh | None = None, block: int = BLOCK):
        mesh = mesh or sharding.make_mesh()
        rules = sharding.RULES["data_parallel"]
        shards = sharding.batch_shards(mesh, rules)
        self.width, self.block = width, -(-block // shards) * shards
        self._whole = sharding.replicated(mesh)
        self._cut = sharding.batch_sharding(mesh, rules)  # of what has an entry per row
        self._cut_block = NamedSharding(mesh, PartitionSpec(None, *self._cut.spec))
        self.ids = np.zeros(0, np.int64)
        self._live = np.zeros(0, bool)
        self._masks: dict[int, jax.Array | None] = {}  # of `_live`, by block
        # float32 [width,block], zero after the last row.
        self._blocks: list[np.ndarray | jax.Array] = []

    def __len__(self) -> int:
        return int(self._live.sum())

    @property
    def live_ids(self) -> np.ndarray:
        """The ids that searches find, ascending."""
        return self.ids[self._live]

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Rows with larger ids than all before. ids int [N], vectors float [N,width].

        Raises:
          ValueError: ids that do not ascend.
        """
        if len(ids) and (np.any(np.diff(ids) <= 0) or (len(self.ids) and ids[0] <= self.ids[-1])):
            raise ValueError("ids must be larger than all before, in ascending order")
        row = len(self.ids)
        self._masks.clear()
        self.ids = np.concatenate([self.ids, np.asarray(ids, np.int64)])
        self._live = np.concatenate([self._live, np.ones(len(ids), bool)])
        done = 0
        while done < len(ids):
            number, offset = divmod(row + done, self.block)
            count = min(self.block - offset, len(ids) - done)
            if offset:
                block = np.array(self._blocks.pop())
            else:
                block = np.zeros((self.width, self.block), np.float32)
            block[:, offset : offset + count] = vectors[done : done + count].T
            self._blocks.append(block)
            done += count
        self._compact_if_worth_it()

    def remove(self, ids: Sequence[int] | np.ndarray) -> None:
        """Rows that searches no longer find."""
        self._live[np.isin(self.ids, ids)] = False
        self._masks.clear()
        self._compact_if_worth_it()

    def _compact_if_worth_it(self) -> None:
        """Moves the living rows together where many are dead and that frees a block or more."""
        live = len(self)
        crowded = len(self.ids) - live > DEAD * len(self.ids)
        if not crowded or -(-live // self.block) == len(self._blocks):
            return
        blocks, ids, alive = self._blocks, self.ids, self._live
        self._blocks, self.ids, self._live = [], ids[:0], alive[:0]
        for number in range(len(blocks)):
            part = slice(number * self.block, (number + 1) * self.block)
            keep = alive[part]
            vectors = np.asarray(blocks[number])[:, : len(keep)].T[keep]
            blocks[number] = np.zeros(0)  # at no time are there two copies of all rows
            self.add(ids[part][keep], vectors)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Which of the rows have one of these ids: bool [rows], until rows come or go."""
        return np.isin(self.ids, ids)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        offset: int = 0,
        allowed: np.ndarray | None = None,
        *,
        approximate: bool = False,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per query (ids int64 [n], scores float32 [n]), best first, n at most k.

        Args:
          queries: float32 [Q,width].
          k, offset: how many rows, after how many; the pages of a ranking do not overlap.
          allowed: bool [rows], see `rows`; default: every row that is not removed.
          approximate: let the device choose candidates by `lax.approx_max_k`, faster on a TPU.
        """
        live = self._live if allowed is None else self._live & allowed
        want = offset + k
        queries = np.asarray(queries, np.float32)
        out: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(queries), QUERIES[-1]):
            part = queries[start : start + QUERIES[-1]]
            out += self._ranked(part, live, want, approximate)
        return [(self.ids[rows[offset:]], scores[offset:]) for rows, scores in out]

    def _ranked(
        self, queries: np.ndarray, live: np.ndarray, want: int, approximate: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per query the best `want` live rows: (rows, scores)."""
        per_block = min(self.block, max(16, 1 << (want - 1).bit_length()))
        size = next(size for size in QUERIES if size >= len(queries))
        padded = np.zeros((size, self.width), np.float32)
        padded[: len(queries)] = queries
        q = jax.device_put(padded, self._whole)
        found = []
        for number in range(len(self._blocks)):
            mask = self._mask(number, live)
            if mask is not None:
                best = _compiled(self._whole)(q, self._block(number), mask, per_block, approximate)
                found.append((number * self.block, best))
        rows = [np.asarray(best[1])[: len(queries)] + first for first, best in found]
        scores = [np.asarray(best[0])[: len(queries)] for _, best in found]
        if not found:
            return [(np.zeros(0, int), np.zeros(0, np.float32))] * len(queries)
        merged = []
        for r, s in zip(np.concatenate(rows, 1), np.concatenate(scores, 1), strict=True):
            order = np.argsort(-s, kind="stable")[:want]
            order = order[np.isfinite(s[order])]
            merged.append((r[order], s[order]))
        return merged

    def _block(self, number: int) -> jax.Array:
        """A block on the devices; it stays there until rows are added to it."""
        block = self._blocks[number]
        if isinstance(block, np.ndarray):
            self._blocks[number] = block = jax.device_put(block, self._cut_block)
        return block

    def _mask(self, number: int, live: np.ndarray) -> jax.Array | None:
        """Which rows of a block to rank, on the devices; None if it has none."""
        if live is not self._live:
            return self._put_mask(number, live)
        if number not in self._masks:
            self._masks[number] = self._put_mask(number, live)
        return self._masks[number]

    def _put_mask(self, number: int, live: np.ndarray) -> jax.Array | None:
        mask = live[number * self.block : (number + 1) * self.block]
        if not mask.any():
            return None
        return jax.device_put(np.pad(mask, (0, self.block - len(mask))), self._cut)


def _best(queries, block, mask, k, approximate):  # noqa: ANN001, ANN202
    """(queries [Q,C], block [C,N], mask bool [N], k, approximate) -> (scores, rows) [Q,k]."""
    scores = jnp.matmul(queries, block, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(mask, scores, -jnp.inf)
    if approximate:
        return jax.lax.approx_max_k(scores, k, recall_target=RECALL)
    return jax.lax.top_k(scores, k)


@functools.cache
def _compiled(whole: NamedSharding):  # noqa: ANN202
    """`_best` with results that every device holds; one program for all indexes of a mesh."""
    return jax.jit(_best, static_argnums=(3, 4), out_shardings=whole)
