"""What must stay the same when a run continues, so that its saved steps keep their meaning."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tipr_jax import run_files
from tipr_jax.data import Data, Split
from tipr_jax.text.language import guess

# They decide which pairs a step sees: with another value, so many steps are other epochs.
STEP_FIELDS = (
    "seed",
    "data.batch_size",
    "data.sampler",
    "data.num_instances",
    "data.last_batch",
)
SAMPLE = 500  # captions whose language is guessed


def data_facts(data: Data) -> dict[str, Any]:
    """What `config.json` tells of the data set: a fingerprint per split, the captions' languages.

    A fingerprint changes with any caption, person id, box, image path below the common directory,
    and their order; not with the place of the data set or the pixels.
    """
    fingerprints = {name: _fingerprint(split) for name, split in sorted(data.splits.items())}
    return {"fingerprint": fingerprints, "languages": list(data.languages or _language(data))}


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256()
    for ids in (split.image_person_id, split.caption_image_id):
        digest.update(np.asarray(ids, np.int32).tobytes())
    if split.image_box is not None:
        digest.update(np.asarray(split.image_box, np.int32).tobytes())
    start = len(os.path.commonpath({os.path.dirname(path) for path in split.image_path} or {"/"}))
    for text in (*(path[start:] for path in split.image_path), *split.caption):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _language(data: Data) -> tuple[str, ...]:
    """The language most captions seem to be in; () if that is not clear."""
    captions = data.splits["train"].caption
    found = Counter(map(guess, captions[:: max(1, len(captions) // SAMPLE)]))
    (name, _), *_ = [*found.most_common(1), ("", 0)]
    return (name,) if name else ()


def check_unchanged(workdir: Path, config: ConfigDict, facts: Mapping[str, Any]) -> None:
    """Refuses to continue a run whose steps would mean something else.

    facts: `data_facts` of the data set as it is now. A run of an earlier version of the package did
    not record them; then the fields of the config alone are compared.

    Raises:
      ValueError: naming every change, and what to do.
    """
    if not run_files.is_run(workdir) or config.checkpoint.accept_changes:
        return
    old = run_files.read_config(workdir)
    before, after = run_files.leaves(old), run_files.flat_fields(config)
    changes = [
        f"{field} {before[field]} -> {after[field]}"
        for field in STEP_FIELDS
        if field in before and before[field] != after[field]
    ]
    known = old.get(run_files.DATA_FACTS, {}).get("fingerprint", {})
    now = facts["fingerprint"]
    if changed := [split for split in known if now.get(split) != known[split]]:
        changes.append(f"the annotations of the {', '.join(changed)} split")
    if changes:
        raise ValueError(
            f"{workdir} was begun with other data or steps, so its saved steps would count as "
            f"something else: {'; '.join(changes)}; start in another --workdir, change it back, or "
            "continue with the change by --config.checkpoint.accept_changes=True"
        )
