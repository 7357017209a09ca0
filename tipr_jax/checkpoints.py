"""Checkpoints: the only file that imports orbax.

A run keeps its newest steps (to resume) and its best ones (to use): the best in each language that
it is evaluated in. Which these are, `results.select` says, from the evaluation that is saved with
each step. Orbax writes into a temporary directory and renames it, so a killed save leaves no step
behind; in a bucket, where a directory is not renamed at once, it marks whole steps with a file. All
processes save and resume together; reading, each process does for itself.
"""

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from tipr_jax import bucket, distributed, paths, results, run_files
from tipr_jax.results import Criterion, Evaluation
from tipr_jax.train_state import join

log = logging.getLogger("tipr_jax")

Tree = Any  # nested dict of arrays, or a dataclass of such dicts


Saved = Mapping[int, Mapping[str, Any] | None]  # step -> metrics that Orbax saved with it


class _Best:
    """Orbax's policy that keeps the best step in every language; see `results.select`.

    recorded: evaluations by step, for checkpoints that were saved without their evaluations:
    checkpoints of earlier versions of the package hold a score alone.
    """

    def __init__(self, criterion: Criterion | None, recorded: Mapping[int, Evaluation]):
        self.criterion, self.recorded = criterion, recorded

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        del context
        best = self._in_every_language({info.step: info.metrics for info in checkpoints})
        return [info.step in best for info in checkpoints]

    def evaluations(self, saved: Saved) -> list[Evaluation]:
        found = [
            results.from_row(step, metrics or {}) or self.recorded.get(step)
            for step, metrics in saved.items()
        ]
        return [evaluation for evaluation in found if evaluation]

    def step(self, saved: Saved, language: str) -> int | None:
        """The best of the saved steps in one language; None if none was evaluated."""
        if self.criterion is None:
            return None
        evaluations = self.evaluations(saved)
        criterion = self.criterion.in_language(language, evaluations)
        best = results.select(evaluations, criterion)
        return best.step if best else None

    def _in_every_language(self, saved: Saved) -> set[int]:
        if self.criterion is None:
            return set()
        evaluations = self.evaluations(saved)
        splits = self.criterion.splits(evaluations)
        best = [results.select(evaluations, self.criterion.on(split)) for split in splits]
        return {evaluation.step for evaluation in best if evaluation}


class Checkpoints:
    """The `checkpoints/` directory of a run; saves are asynchronous, so `close()` it.

    Args:
      workdir: the run directory.
      keep_last: how many of the newest steps are kept.
      criterion: by which the best step is selected; None: the criterion in the run's
        config.json, and without this file no step is the best.
      read_only: for looking, also while the run goes on; each process by itself.
    """

    def __init__(
        self,
        workdir: str | Path,
        keep_last: int = 2,
        *,
        criterion: Criterion | None = None,
        read_only: bool = False,
    ):
        self.directory = paths.absolute(workdir) / run_files.CHECKPOINTS
        recorded = {e.step: e for e in results.read_evaluations(workdir)}
        self._best = _Best(criterion or _criterion_of(workdir), recorded)
        newest = preservation_policy.LatestN(keep_last)
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy([newest, self._best]),
                best_fn=_not_asked,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
                multiprocessing_options=(
                    _alone() if read_only else ocp.options.MultiprocessingOptions()
                ),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # what went wrong first is what the user hears
            self.close()

    def save(self, step: int, state: Tree, evaluation: Mapping[str, float] | None = None) -> None:
        """Starts saving `state`; its evaluation makes the step a candidate for the best.

        evaluation: as from `results.evaluation_row`, percent by name.

        A step that is already there is left alone, unless it has no evaluation by the criterion and
        gets one. Collective.

        Raises:
          ValueError: the criterion names a metric that was not evaluated.
          SaveFailed: no room on the disk, or it cannot be written; also for the save before.
        """
        if (free := _free_bytes(self.directory)) < (needed := _bytes(state)):
            raise self._failed(f"{needed / 1e6:,.1f} MB for step {step}, {free / 1e6:,.1f} MB left")
        if step in self._manager.all_steps():
            self.wait()
            if evaluation is None or self.is_evaluated(step):
                return
            self._manager.delete(step)
        metrics = None
        if evaluation is not None:
            metrics = dict(evaluation)
            self._best.step({step: metrics}, "")  # raises here, not later in Orbax's thread
        # Forced, for otherwise Orbax asks for preemption notices itself; the trainer does that.
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)
        except Exception as error:  # TensorStore's are ValueError, JaxRuntimeError, OSError, ...
            raise self._failed(_reason(error)) from error

    def is_evaluated(self, step: int) -> bool:
        """True if `step` is there and was evaluated on the split that selects the best."""
        if step not in self._manager.all_steps():
            return False
        return self._best.step({step: self._manager.metrics(step)}, "") is not None

    def restore_latest(self, abstract_state: Tree) -> tuple[int, Tree] | None:
        """(step, state) of the newest readable checkpoint, or None if there is none.

        abstract_state: tree of ShapeDtypeStruct with shardings; a checkpoint of another mesh is
        laid out anew. A step that a process cannot read is skipped with a warning that names it.
        Collective.

        Raises:
          ValueError: a checkpoint of another model, or none of the checkpoints can be read.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            reason = ""
            try:
                self._check_tree(step, abstract_state)
                args = ocp.args.StandardRestore(abstract_state)
                state = self._manager.restore(step, args=args)
            except ModelMismatch:
                raise
            except Exception as error:  # damaged files raise many types
                reason = _reason(error)
            if reasons := [*filter(None, distributed.exchange(reason))]:
                damaged[step] = reasons[0]
                continue
            for bad, reason in damaged.items():
                self._set_aside(bad, reason)
            return step, state
        if damaged:
            step, reason = max(damaged.items())
            raise ValueError(
                f"none of the checkpoints {sorted(damaged)} in {self.directory} can be read (step "
                f"{step}: {reason}); restore the files, or start again in another --workdir"
            )
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        """Renames a damaged step, so that the run can save that step again."""
        damaged = self.directory / str(step)
        target = self.directory / f"unreadable_{step}"
        log.warning("unreadable checkpoint %s (kept as %s): %s", damaged, target.name, reason)
        if distributed.is_writer():
            bucket.remove_tree(target)
            damaged.rename(target)
        distributed.barrier()
        self._manager.reload()

    def _check_tree(self, step: int, abstract_state: Tree) -> None:
        saved = self._manager.item_metadata(step)
        if saved is None:
            raise FileNotFoundError("no metadata")
        shapes = lambda tree: {  # noqa: E731
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape)
            for path, x in jax.tree.leaves_with_path(tree)
        }
        given, wanted = shapes(saved), shapes(abstract_state)
        if wrong := sorted(k for k in given | wanted if given.get(k) != wanted.get(k)):
            k = wrong[0]
            raise ModelMismatch(
                f"{self.directory / str(step)} holds another model or optimiser: {len(wrong)} "
                f"arrays differ, first {k}: saved {given.get(k)}, configured {wanted.get(k)}; "
                "use the config of that run or another --workdir"
            )

    def best_step(self, language: str = "") -> int | None:
        """The best of the kept steps by the criterion; None if none of them was evaluated by it.

        language: of the captions, as "zh"; "" for the language of the split that selects; it
        also decides for a language that was not evaluated.
        """
        saved = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        return self._best.step(saved, language)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def wait(self) -> None:
        """Until the save that was started is done. Raises SaveFailed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(_reason(error)) from error

    def _failed(self, reason: str) -> "SaveFailed":
        mend = "see to its access" if bucket.is_address(self.directory) else "make room"
        return SaveFailed(
            f"cannot save into {self.directory} ({reason}); the checkpoints before are whole: "
            f"{mend}, and the same command continues from there"
        )

    def close(self) -> None:
        self.wait()
        self._manager.close()


def check_room(workdir: str | Path, state: Tree, keep_last: int) -> None:
    """Refuses to train where the checkpoints of a run have no room on the disk.

    state: tree of arrays or of ShapeDtypeStruct. Room is needed for `keep_last` newest checkpoints,
    the best one, and one more while it is written, less those that are there.

    Raises:
      ValueError: naming the room that is needed and the room that is left.
    """
    one = _bytes(state)
    needed = one * max(2, keep_last + 2 - len(run_files.saved_steps(workdir)))
    free = _free_bytes(paths.absolute(workdir))
    if free < needed:
        raise ValueError(
            f"{workdir} has {free / 1e9:.2f} GB of room, but the run's checkpoints take "
            f"{needed / 1e9:.2f} GB, {one / 1e9:.2f} GB each; make room, use another --workdir, or "
            "keep fewer of them with --config.checkpoint.keep_last=1"
        )


def _bytes(state: Tree) -> int:
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(state))


def _free_bytes(directory: Path) -> int:
    """Of the disk; a bucket has no end."""
    if bucket.is_address(directory):
        return sys.maxsize
    there = next(place for place in (directory, *directory.parents) if place.exists())
    return shutil.disk_usage(there).free


class SaveFailed(ValueError):
    """A checkpoint that could not be written; the checkpoints before it are whole."""


class ModelMismatch(ValueError):
    """A checkpoint of another model than the configured one."""


def _criterion_of(workdir: str | Path) -> Criterion | None:
    """By which a run selects its best step; None if it does not say."""
    if not (paths.place(workdir) / run_files.CONFIG).is_file():
        return None
    config = run_files.read_config(workdir)
    return results.criterion_of(config["eval"]) if "eval" in config else None


def _not_asked(metrics: Mapping[str, Any]) -> float:
    """Orbax saves metrics only with a function that ranks them; `_Best` ranks them together."""
    raise AssertionError(f"Orbax ranked {metrics} by itself")


def _alone() -> ocp.options.MultiprocessingOptions:
    """For what this process does without the other processes."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def save_params(directory: str | Path, params: Tree, config: Mapping[str, Any]) -> None:
    """Writes parameters and their model config as a checkpoint directory of its own.

    config: plain data with `method` and `model`, the fields of the model.

    Raises:
      ValueError: if `directory` exists and is not an empty directory.
    """
    with paths.written_whole(directory) as draft:
        write_params(draft / run_files.PARAMS, params)
        (draft / run_files.CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def write_params(path: Path, params: Tree) -> None:
    """Writes parameters as a plain tree, which `ocp.PyTreeCheckpointer` reads anywhere."""
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
        checkpointer.save(path.absolute(), params)


def load_params(directory: str | Path, language: str = "") -> tuple[int, Tree]:
    """(step, nested dict of numpy arrays) of a run (its best checkpoint) or a model directory.

    language: as in `load_run_params`; a model directory has one set of parameters for all.

    Raises:
      ValueError: if `directory` is neither.
    """
    directory = paths.absolute(directory)
    if run_files.is_run(directory):
        return load_run_params(directory, language=language)
    if not (directory / run_files.PARAMS).is_dir():
        raise ValueError(
            f"{directory} is neither a run nor a converted checkpoint (no checkpoints/ and no "
            f"{run_files.PARAMS}/ in it); make one with `python -m tipr_jax.convert` or by training"
        )
    return 0, _restore_numpy(directory / run_files.PARAMS)


def best_step(workdir: str | Path, language: str = "") -> int:
    """The step of a run that is used: its best, see `Checkpoints.best_step`, else its newest.

    Raises:
      ValueError: if the run has no checkpoint.
    """
    if not run_files.is_run(workdir):
        raise ValueError(f"{workdir} has no checkpoints; train first, or check --workdir")
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.best_step(language)
        step = checkpoints.latest_step() if step is None else step
    if step is None:
        raise ValueError(f"{workdir} has no checkpoints; train first, or check --workdir")
    return step


def load_run_params(
    workdir: str | Path, step: int | None = None, *, language: str = ""
) -> tuple[int, Tree]:
    """(step, variables of the model as numpy) of a run's checkpoint: `step`, else `best_step`."""
    step = best_step(workdir, language) if step is None else step
    directory = paths.absolute(workdir) / run_files.CHECKPOINTS / str(step)
    state = _restore_numpy(directory / "default")
    return step, join(state["params"], state.get("statistics", {}))


def _restore_numpy(path: Path) -> Tree:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))
    except Exception as error:  # damaged files raise many types
        raise ValueError(
            f"{path} is not a readable checkpoint ({_reason(error)}); make it again"
        ) from error


def _reason(error: Exception) -> str:
    """The start of an Orbax error, on one line, without its dump of the array's spec."""
    words = str(error).split("[tensorstore_spec")[0].split()
    return " ".join(words)[:200] or type(error).__name__
