"""What Ray's workers do for `ray_engine`: the place of a batch in, its answers out."""

import functools
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from data_pipelines.ldat.work import Work


class Worker:
    """A process of Ray's, with backends of its own.

    Args:
      config: as `Work` takes it, as a dict.
      stage: translate | score | rewrite.
      spool: the file of batches, pickled one after the other.
      directory: which relative paths of the config begin at.
    """

    def __init__(self, config: dict[str, Any], stage: str, spool: str, directory: str):
        self._config, self._stage, self._spool = config, stage, spool
        self._directory = directory

    @functools.cached_property
    def _ask(self) -> Callable[[list[Any]], Sequence[Any]]:
        """Made at the first batch, where errors come back to the caller as they are."""
        os.chdir(self._directory)
        work = Work(ConfigDict(self._config))
        if self._stage == "translate":
            return work.translator.translate
        return work.scorer.score if self._stage == "score" else work.rewriter.rewrite

    def __call__(self, places: Mapping[str, Sequence[int]]) -> dict[str, list]:
        """Offsets of batches in the spool [n] -> the same, and their answers, pickled."""
        answers = []
        with open(self._spool, "rb") as spool:
            for place in places["place"]:
                spool.seek(int(place))
                tasks = [task for _, task in pickle.load(spool)]
                answers.append(pickle.dumps(self._ask(tasks)))
        return {"place": list(places["place"]), "answers": answers}
