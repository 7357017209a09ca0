"""Large folders: Ray Data's workers read and embed, on this machine or on those of a cluster.

The workers see the files and the model's directory under the same paths as this process. They
append what they have embedded to a folder beside the gallery, `my.gallery.ray/`, in blocks that Ray
Data's checkpoint marks as finished; a run that was killed goes on with the blocks that are not. At
the end this process, the only one that writes to the gallery, puts all of them in and removes the
folder. The extra `ray` (half a gigabyte) is needed for this alone.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import ray_cluster
from tipr_jax.gallery.adding import Embedded, photos_and_videos, put
from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.photos import Skipped
from tipr_jax.gallery.ray_worker import Worker, from_row, work_id
from tipr_jax.gallery.store import IN_MEMORY, Model
from tipr_jax.gallery.stores import beside
from tipr_jax.inference.embedder import ROWS

BLOCK = 2 * ROWS  # photos: what a worker does again when it is killed
FINISHED, CHECKPOINT, LOG = "finished", "checkpoint", "ray.log"
POLL_S = 1.0  # between two looks at what is finished, for the progress bar


class RayAdder:
    """Adds files to a gallery by Ray's workers; the cluster is the one that RAY_ADDRESS names.

    Args:
      store, record: the gallery and the model as it records it.
      directory: where the workers load the model from, see `models.open_model`.
      detect: how they find people, see `detect.make_detector`.
      facts: camera, time, tags and meta of the new items.
      place: what is being added. A killed run is continued by one with the same place.

    Raises:
      ModuleNotFoundError: the extra is not installed.
      ValueError: a gallery or a model without a file.
    """

    def __init__(
        self,
        store: GalleryStore,
        record: Model,
        directory: str,
        detect: str,
        facts: Mapping[str, Any],
        place: str,
    ):
        self.ray = ray_cluster.import_ray()
        if store.path == IN_MEMORY or not directory:
            raise ValueError(
                "engine='ray' works with files, but the gallery or its model is in this process's "
                "memory alone; give both as paths, or leave the engine out"
            )
        self.store, self.record = store, record
        kind, colon, file = detect.partition(":")
        self.detect = kind + colon + (os.path.abspath(file) if colon else "")
        language = str(record.facts.get("checkpoint_of_language", ""))
        self.worker = dict(
            directory=os.path.abspath(directory),
            language=language,
            fingerprint=record.fingerprint,
            detect=self.detect,
            facts=dict(facts),
        )
        job = "\0".join((place, record.fingerprint, self.detect))
        name = hashlib.sha256(os.fsencode(job)).hexdigest()[:12]
        self.folder = Path(os.path.abspath(f"{beside(store.path)}.ray")) / name

    def __call__(self, paths: Sequence[str]) -> list[Skipped]:
        """As `adding.Adder`.

        Raises:
          OSError: Ray cannot start, or its workers died; the same call goes on where it ended.
        """
        photos, videos = photos_and_videos(paths, self.detect != "none")
        left = {work_id(path): path for path in [*photos, *videos]}
        skipped: dict[str, Skipped] = {}
        alone = {work_id(path) for path in videos}  # each one a block: they are long
        while left:
            before = len(left)
            self._embed(blocks(left, alone))
            skipped |= self._put(left)
            shutil.rmtree(self.folder)
            if len(left) == before:
                raise OSError(f"Ray gave nothing back for {next(iter(left.values()))}; try again")
        with contextlib.suppress(OSError):  # of another place something may be unfinished
            self.folder.parent.rmdir()
        return [skipped[path] for path in [*photos, *videos] if path in skipped]

    def _embed(self, work: Sequence[Sequence[bytes]]) -> None:
        """Runs the workers until every block is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for mark in (self.folder / CHECKPOINT).glob("*.parquet"):
            if not _is_whole(mark):
                mark.unlink()
        log, ray = self.folder / LOG, self.ray
        with ray_cluster.chatter_to(log), ray_cluster.in_words(ray, log), ray_cluster.cluster(ray):
            with ray.data.DataContext.current(self._settings()):
                write = self._job(work)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                try:
                    self._watch(pool.submit(write), sum(map(len, work)))
                except BaseException:
                    ray.shutdown()  # ends the thread, which the pool waits for
                    raise

    def _settings(self) -> Any:
        """Ray Data's settings for this job; those of its other users stay as they are."""
        context = self.ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.raise_original_map_exception = True
        checkpoint = importlib.import_module("ray.data.checkpoint").CheckpointConfig
        # Kept on success: the gallery has nothing of it yet, and this process may be killed.
        context.checkpoint_config = checkpoint(
            "id", str(self.folder / CHECKPOINT), delete_checkpoint_on_success=False
        )
        return context

    def _job(self, work: Sequence[Sequence[bytes]]) -> Callable[[], None]:
        """Reads, embeds and writes all blocks but those that are marked as finished."""
        data = self.ray.data
        count, each = ray_cluster.workers(self.ray)
        few = data.TaskPoolStrategy(size=count)  # each is a process, which takes a second to start
        embedded = data.read_datasource(_source(self.ray, work), num_cpus=0, compute=few)
        embedded = embedded.map_batches(
            Worker,
            batch_size=None,
            fn_constructor_kwargs=self.worker,
            compute=data.ActorPoolStrategy(min_size=1, max_size=count),
            **each,
        )
        return functools.partial(
            embedded.write_parquet,
            str(self.folder / FINISHED),
            ray_remote_args={"num_cpus": 0},
            concurrency=count,
        )

    def _watch(self, job: concurrent.futures.Future, total: int) -> None:
        """Waits for the job, with a progress bar on a terminal; raises what it raised."""
        counts: dict[Path, int] = {}
        with tqdm(total=total, desc="add", unit="file", leave=False, disable=None) as bar:
            while concurrent.futures.wait([job], POLL_S).not_done:
                for file in (self.folder / CHECKPOINT).glob("*.parquet"):
                    if file not in counts and ".pending" not in file.suffixes:
                        counts[file] = _parquet().read_metadata(file).num_rows
                bar.update(sum(counts.values()) - bar.n)
        job.result()

    def _put(self, left: dict[bytes, str]) -> dict[str, Skipped]:
        """Puts finished files into the gallery, in order, and takes them out of `left`.

        Returns those that could not be read, by path.

        Of a file that has changed since it was embedded, or was embedded twice, there are rows that
        are not in `left`.
        """
        parquet, place = _parquet(), {key: n for n, key in enumerate(left)}
        first: dict[Path, int] = {}
        for file in filter(_is_whole, (self.folder / FINISHED).glob("*.parquet")):
            ids = parquet.read_table(file, columns=["id"])["id"].to_pylist()
            first[file] = min(place.get(key, len(place)) for key in ids)
        skipped: dict[str, Skipped] = {}
        for file in sorted(first, key=first.__getitem__):
            rows = parquet.read_table(file).to_pylist()
            found = [from_row(row) for row in rows if left.pop(row["id"], None) is not None]
            items = [item for part, _ in found for item in part.items]
            vectors = [part.vectors for part, _ in found if part.items]
            files = {path: state for part, _ in found for path, state in part.files.items()}
            whole = np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)
            put(self.store, self.record, Embedded(items, whole, files))
            skipped |= {item.path: item for _, item in found if item}
        return skipped


def blocks(keys: Mapping[bytes, str], alone: set[bytes]) -> list[list[bytes]]:
    """The ids in order, in blocks of `BLOCK`, or of one where it is `alone`."""
    together = [key for key in keys if key not in alone]
    starts = range(0, len(together), BLOCK)
    return [together[n : n + BLOCK] for n in starts] + [[key] for key in keys if key in alone]


def _parquet() -> Any:
    return importlib.import_module("pyarrow.parquet")


def _is_whole(file: Path) -> bool:
    """A file that the power failed for may have a name and no content."""
    try:
        _parquet().read_metadata(file)
    except (ValueError, OSError):  # ArrowInvalid is a ValueError
        return False
    return True


def _source(ray: Any, work: Sequence[Sequence[bytes]]) -> Any:
    """A source of Ray Data's (its checkpoint filters no other kind of input): a task a block."""
    arrow = importlib.import_module("pyarrow")
    metadata = importlib.import_module("ray.data.block").BlockMetadata

    class Files(ray.data.Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return sum(len(key) for block in work for key in block)

        def get_read_tasks(self, *_: object, **__: object) -> list:
            return [self.task(block) for block in work]

        @staticmethod
        def task(block: Sequence[bytes]) -> Any:
            table = arrow.table({"id": arrow.array(block, arrow.binary())})
            about = metadata(
                num_rows=len(block), size_bytes=table.nbytes, input_files=None, exec_stats=None
            )
            return ray.data.ReadTask(lambda: [table], about)

    return Files()
