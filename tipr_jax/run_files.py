"""What lies where in a run directory and in a model directory, and the config of both.

| file            | run | model | holds                                                            |
|-----------------|-----|-------|------------------------------------------------------------------|
| config.json     | yes | yes   | the config of the run; of a model its method and model fields    |
| run.lock        | yes |       | who trains in the directory now, or did last (`run_lock`)        |
| tokenizer/      | yes | yes   | the vocabulary, where it is not part of the package (`text`)     |
| checkpoints/    | yes |       | saved steps, a directory each (`checkpoints`)                    |
| params/         |     | yes   | the parameters alone (`checkpoints`)                             |
| metrics.jsonl   | yes |       | one line per logged step and per evaluation (`metric_writer`)    |
| results.json    | yes |       | the numbers of the selected checkpoint and of others (`results`) |
| report.html     | yes |       | curves, table and rankings; pictures in report/ (`report`)       |
| tensorboard/    | yes |       | the curves again, where tensorboard is installed                 |
| warm_start/     | yes |       | the run that came first, where the config asks for one           |

The run directory may lie in a bucket (`bucket`), without lock and tensorboard/. Nothing here
depends on the method of a model.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from tipr_jax import distributed
from tipr_jax.languages import languages_of
from tipr_jax.paths import no_such_path, place

log = logging.getLogger("tipr_jax")

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
PARAMS = "params"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
REPORT = "report.html"
REPORT_PICTURES = "report"
TENSORBOARD = "tensorboard"
WARM_START = "warm_start"

# Keys of config.json besides the fields of the run's config.
MODEL_CONFIG = "model_config"  # every field of the model, defaults included
DATA_FACTS = "data_facts"  # see `run_identity.data_facts`


def config_hash(config: ConfigDict) -> str:
    """Twelve hex digits that change with any field of the config."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def save_config(
    config: ConfigDict,
    workdir: Path,
    model_config: Mapping[str, Any],
    data_facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`; says which fields differ from the config that a resumed run had.

    Only process 0 writes.

    Args:
      config: the config of the run.
      workdir: the run directory; made if absent.
      model_config: every field of the model's Config, as `dataclasses.asdict` gives them. They are
        stored beside the config, so that the model can be built again after its defaults changed.
      data_facts: what is known of the data set, see `run_identity.data_facts`.
    """
    if not distributed.is_writer():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG
    new = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        old = json.loads(path.read_text())
        old = {key: value for key, value in old.items() if key not in (MODEL_CONFIG, DATA_FACTS)}
        before, after = leaves(old), leaves(new)
        changed = sorted(k for k in before | after if before.get(k) != after.get(k))
        if changed:
            log.warning(
                "%s continues with a changed config: %s",
                workdir,
                "; ".join(f"{k} {before.get(k)} -> {after.get(k)}" for k in changed),
            )
    draft = path.with_name(f"{CONFIG}.partial")
    new |= {MODEL_CONFIG: dict(model_config), DATA_FACTS: dict(data_facts or {})}
    draft.write_text(json.dumps(new, indent=2) + "\n")
    draft.replace(path)


def flat_fields(config: ConfigDict) -> dict[str, Any]:
    """{"data.batch_size": 64, ...}: every field of a config by its dotted name."""
    return leaves(config.to_dict())


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": value, ...} of nested dicts."""
    out = {}
    for key, value in tree.items():
        out |= (
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return out


def read_config(directory: str | Path) -> dict[str, Any]:
    """`config.json` of a run or of a model directory.

    Raises:
      ValueError: if `directory` is neither, or its config was not written by this package.
    """
    path = place(directory) / CONFIG
    if not path.parent.exists():
        raise ValueError(no_such_path(directory, "run or model directory"))
    if not path.is_file():
        raise ValueError(
            f"{directory} is neither a run nor a converted checkpoint (no {CONFIG} in it); "
            "make one with `python -m tipr_jax.convert` or by training"
        )
    try:
        config = json.loads(path.read_text())
        _ = dict(config["model"]), config["method"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not the config of a run or of a converted checkpoint (an object with "
            "'method' and 'model'); make one with `python -m tipr_jax.convert` or by training"
        ) from None
    return config


def model_fields(directory: str | Path) -> tuple[str, dict[str, Any]]:
    """(method, fields of its model Config) that a run or a model directory was made with.

    A run from before its config.json had every field names those that its config file set, besides
    image_size, text_length and languages, which the engine took from the data set; the last may be
    one that the method has no use for.

    Raises:
      ValueError: as `read_config`.
    """
    config = read_config(directory)
    if MODEL_CONFIG in config:
        fields = dict(config[MODEL_CONFIG])
    else:
        fields = dict(config["model"])
        if data := config.get("data"):
            fields |= {key: data[key] for key in ("image_size", "text_length")}
            fields |= _languages(data)
    return config["method"], {key: _tuples(value) for key, value in fields.items()}


def _languages(data: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """{"languages": ...} of a data set in several languages, else {}."""
    names = ("languages", "source", "target")
    fields: Any = SimpleNamespace(**{name: data.get(name) or "" for name in names})
    languages = languages_of(fields)
    return {"languages": languages} if languages else {}


def _tuples(value: Any) -> Any:
    """Lists as tuples, also inside of one another: only with tuples a frozen Config is hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def test_resize(directory: str | Path) -> str:
    """The filter with which photos are resized for the model of a run or a model directory.

    Raises:
      ValueError: as `read_config`.
    """
    config = read_config(directory)
    return config.get("data", config).get("test_resize", "bilinear")


def caption_languages(directory: str | Path) -> tuple[str, ...]:
    """The languages of the captions that a model was trained on; () where that is not recorded.

    Raises:
      ValueError: as `read_config`.
    """
    return tuple(read_config(directory).get(DATA_FACTS, {}).get("languages", ()))


def read_metrics(workdir: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, row) of every line of `metrics.jsonl`; none without the file.

    Lines that are not whole records, as a killed run leaves them, are skipped.
    """
    path = place(workdir) / METRICS
    if not path.is_file():
        return
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, TypeError, KeyError):
            continue
        yield step, row


def is_run(directory: str | Path) -> bool:
    """True if `directory` holds checkpoints of a training run."""
    checkpoints = place(directory) / CHECKPOINTS
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def saved_steps(workdir: str | Path) -> list[int]:
    """The steps of a run whose checkpoints are kept, in order."""
    checkpoints = place(workdir) / CHECKPOINTS
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())
