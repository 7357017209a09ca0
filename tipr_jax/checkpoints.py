"""Checkpoints: the only file that imports orbax.

A run keeps its newest steps (to resume) and its best one (to use). Orbax writes into a temporary
directory and renames it, so a killed save leaves no step behind. All processes save and resume
together; what only reads, each does for itself.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from tipr_jax import distributed
from tipr_jax.languages import languages_of

log = logging.getLogger("tipr_jax")
PARAMS_DIR, CONFIG_FILE = "params", "config.json"


def _rank(metrics: dict) -> tuple[float, int]:
    """Best first metric; of equals the earliest step, as the released code keeps."""
    return metrics["score"], -metrics["step"]


class Checkpoints:
    """The `checkpoints/` directory of a run; saves are asynchronous, so `close()` it."""

    def __init__(self, workdir: str | Path, keep_last: int = 2, *, read_only: bool = False):
        self.directory = Path(workdir).absolute() / "checkpoints"
        best = keep.BestN(
            get_metric_fn=_rank, n=1, reverse=False, keep_checkpoints_without_metrics=False
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(keep_last), best]),
                best_fn=_rank,
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

    def __exit__(self, *exc) -> None:
        self.close()

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Starts saving `state`; `score` (higher is better) makes the step a candidate for best.

        A step that is already there is left alone, unless it has no score and gets one. Collective.
        """
        if step in self._manager.all_steps():
            self.wait()
            if score is None or self.has_score(step):
                return
            self._manager.delete(step)
        metrics = None if score is None else {"score": float(score), "step": step}
        # Forced, for otherwise Orbax asks for preemption notices itself; the trainer does that.
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def has_score(self, step: int) -> bool:
        """True if `step` is there and was saved with a score."""
        return step in self._manager.all_steps() and self._manager.metrics(step) is not None

    def restore_latest(self, abstract_state: Any) -> tuple[int, Any] | None:
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
            shutil.rmtree(target, ignore_errors=True)
            damaged.rename(target)
        distributed.barrier()
        self._manager.reload()

    def _check_tree(self, step: int, abstract_state: Any) -> None:
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

    def best_step(self) -> int | None:
        return self._manager.best_step()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


class ModelMismatch(ValueError):
    """A checkpoint of another model than the configured one."""


def _alone() -> ocp.options.MultiprocessingOptions:
    """For what this process does without the others."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def save_params(directory: str | Path, params: Any, config: dict) -> None:
    """Writes parameters and their model config as a checkpoint directory of its own.

    Raises:
      ValueError: if `directory` exists and is not an empty directory.
    """
    directory = Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"{directory} exists and is not empty; remove it or choose another output directory"
        )
    # Written beside the target and renamed, so that an interrupted run leaves no half directory.
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            checkpointer.save(partial / PARAMS_DIR, params)
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_params(directory: str | Path) -> tuple[int, Any]:
    """(step, nested dict of numpy arrays) of a run (its best checkpoint) or a model directory.

    Raises:
      ValueError: if `directory` is neither.
    """
    directory = Path(directory).absolute()
    if is_run(directory):
        return load_run_params(directory)
    if not (directory / PARAMS_DIR).is_dir():
        raise ValueError(
            f"{directory} is neither a run nor a converted checkpoint (no checkpoints/ and no "
            f"{PARAMS_DIR}/ in it); make one with `python -m tipr_jax.convert` or by training"
        )
    return 0, _restore_numpy(directory / PARAMS_DIR)


def is_run(directory: str | Path) -> bool:
    """True if `directory` holds checkpoints of a training run."""
    checkpoints = Path(directory) / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def model_fields(directory: str | Path) -> tuple[str, dict]:
    """(method, fields of its model Config) that a run or a model directory was made with.

    Raises:
      ValueError: if `directory` is neither, or its config is not one of ours.
    """
    config = _read_config(directory)
    fields = dict(config["model"])
    if "data" in config:
        fields |= {key: config["data"][key] for key in ("image_size", "text_length")}
        method = MODELS.get(config["method"])
        if method and hasattr(method.config, "languages"):
            fields |= _languages(config["data"])
    return config["method"], {k: _tuples(v) for k, v in fields.items()}


def _languages(data: dict) -> dict:
    """The model field `languages` of a multilingual run, {} of another one."""
    names = ("languages", "source", "target")
    languages = languages_of(SimpleNamespace(**{name: data.get(name) or "" for name in names}))
    return {"languages": languages} if languages else {}


def _tuples(value: Any) -> Any:
    """JSON has no tuples; a Config is hashable only with them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def test_resize(directory: str | Path) -> str:
    """The filter with which photos are resized for the model of a run or a model directory.

    Errors as `model_fields`.
    """
    config = _read_config(directory)
    return config.get("data", config).get("test_resize", "bilinear")


def _read_config(directory: str | Path) -> dict:
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{directory} is neither a run nor a converted checkpoint (no {CONFIG_FILE} in it); "
            "make one with `python -m tipr_jax.convert` or by training"
        )
    try:
        config = json.loads(path.read_text())
        dict(config["model"]), config["method"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not the config of a run or of a converted checkpoint (an object with "
            "'method' and 'model'); make one with `python -m tipr_jax.convert` or by training"
        ) from None
    return config


def load_run_params(workdir: str | Path, step: int | None = None) -> tuple[int, Any]:
    """(step, parameters as numpy) of a run's checkpoint: `step`, else its best, else its newest.

    Raises:
      ValueError: if the run has no checkpoint.
    """
    if not is_run(workdir):
        raise ValueError(f"no checkpoint in {workdir}/checkpoints; train first, or check --workdir")
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if step is None:
            step = checkpoints.best_step()
        if step is None:
            step = checkpoints.latest_step()
        if step is None:
            raise ValueError(
                f"no checkpoint in {checkpoints.directory}; train first, or check --workdir"
            )
        return step, _restore_numpy(checkpoints.directory / str(step) / "default")["params"]


def _restore_numpy(path: Path) -> Any:
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
