"""--engine=ray: backends asked in the workers of Ray Data, here or on the machines of a cluster.

What there is to do goes into a spool beside the journals first. Workers take batches out of it and
ask backends of their own; answers come back in order, and this process alone writes the journals,
which therefore are those of the plain engine, byte by byte. Workers see the data set, the job's
folder and the models under the same paths as this process. A stop costs the batches that workers
have in hand.
"""

import contextlib
import importlib
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat.ray_worker import Worker
from data_pipelines.ldat.work import Work
from tipr_jax.gallery import ray_cluster

Batch = list[tuple[str, Any]]  # keys and tasks
_ON_GPUS = ("local", "command")  # backends that want a GPU where there is one
_ROLES = {"translate": "translator", "score": "scorer", "rewrite": "rewriter"}


@contextlib.contextmanager
def answered(
    work: Work, stage: str, batches: Iterable[Batch]
) -> Iterator[Iterable[tuple[Batch, Sequence[Any]]]]:
    """Every batch with its answers, in order.

    Raises:
      ModuleNotFoundError: the extra `ray` is not installed.
      ValueError: as the backend raises.
      OSError: Ray cannot start, or its workers died; the same call goes on where it ended.
    """
    ray = ray_cluster.import_ray()
    folder = Path(os.path.abspath(work.folder), f"{stage}.ray")
    folder.mkdir(parents=True, exist_ok=True)
    spool, log = folder / "batches", folder / "ray.log"
    places = write_spool(spool, batches)
    if places:
        with (
            ray_cluster.chatter_to(log),
            ray_cluster.in_words(ray, log),
            ray_cluster.cluster(ray),
        ):
            yield _ask(ray, work, stage, spool, places)
    else:
        yield ()
    shutil.rmtree(folder)


def write_spool(path: Path, batches: Iterable[Batch]) -> list[int]:
    """Writes batches to a file, one after the other; where each begins."""
    places = []
    with open(path, "wb") as spool:
        for batch in batches:
            places.append(spool.tell())
            pickle.dump(batch, spool)
    return places


def _ask(
    ray: Any, work: Work, stage: str, spool: Path, places: list[int]
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    backend = work.config[_ROLES[stage]]
    count, each = workers(ray.cluster_resources(), backend in _ON_GPUS)
    count = min(count, len(places))
    config = share(work.config.to_dict(), count)
    data = importlib.import_module("ray.data")
    with data.DataContext.current(_settings(data)):
        rows = data.from_items([{"place": p} for p in places], override_num_blocks=len(places))
        rows = rows.map_batches(
            Worker,
            batch_size=1,
            fn_constructor_args=(config, stage, str(spool), os.getcwd()),
            compute=data.ActorPoolStrategy(size=count),
            **each,
        )
    with open(spool, "rb") as file:
        for place, row in zip(places, rows.iter_rows(), strict=True):
            if row["place"] != place:
                raise AssertionError(f"Ray gave batch {row['place']} back instead of {place}")
            file.seek(place)
            yield pickle.load(file), pickle.loads(row["answers"])


def workers(resources: dict[str, float], on_gpus: bool) -> tuple[int, dict[str, int]]:
    """How many workers a cluster has room for, and what each takes: a GPU, or a core."""
    gpus = int(resources.get("GPU", 0))
    if on_gpus and gpus:
        return gpus, {"num_gpus": 1, "num_cpus": 1}
    return max(1, int(resources.get("CPU", 1)) - 1), {"num_cpus": 1}


def share(config: dict[str, Any], count: int) -> dict[str, Any]:
    """The config of one of `count` workers: together they ask a server as often as one would."""
    openai = config["openai"]
    limits = {
        "concurrency": max(1, openai["concurrency"] // count),
        "requests_per_minute": openai["requests_per_minute"] / count,
    }
    return config | {"openai": openai | limits}


def _settings(data: Any) -> Any:
    """Ray Data's settings for this job; those of its other users stay as they are."""
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    return context
