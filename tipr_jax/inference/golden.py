"""What an exported model must give, kept in the directory: `verify` compares, on any machine.

`golden.safetensors` holds

| array                                        | is                                              |
|----------------------------------------------|-------------------------------------------------|
| photo uint8 [h,w,3]                          | a picture of another size than the model's      |
| image uint8 [N,H,W,3], text_ids int32 [N,L]  | inputs: the photo at the model's size and       |
|                                              | others; the sentences of the metadata           |
| encode_image, encode_text, ...               | outputs of the model's modules in float32, by   |
|                                              | name of the program, see `inference.programs`   |

and as metadata the sentences and the SHA-256 of every other file, README.md excepted.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from tipr_jax.inference import onnx_programs, preprocessor, programs
from tipr_jax.inference.exported import ExportedModel, is_exported
from tipr_jax.inference.model import TrainedModel
from tipr_jax.models import get_method
from tipr_jax.precision import ComputePolicy
from tipr_jax.text import portable

FILE = "golden.safetensors"
FREE_TO_CHANGE = (FILE, "README.md")
SENTENCES = (
    "a man in a red coat with a black backpack",
    "A woman's white T-shirt, blue jeans and sandals.",
    "一个穿黑色外套的男人",
    "",
)
# Of the largest output. Matrix products of accelerators have 8 to 11 bits unless told otherwise.
ALLOWED = {"cpu": 1e-4}
ALLOWED_ELSEWHERE = 3e-2


class Check(NamedTuple):
    """One comparison. difference: the largest, as a share of the largest expected number."""

    name: str
    difference: float
    allowed: float

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAIL"
        return f"{verdict:5}{self.name:32} largest difference {self.difference:.1e}"

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # false for NaN, too


def make(model: TrainedModel) -> dict[str, np.ndarray]:
    """The arrays of `FILE` except for the digests."""
    rng = np.random.default_rng(0)
    height, width = model.image_size
    photo = rng.integers(0, 256, (height + height // 3, width + 5, 3), dtype=np.uint8)
    others = rng.integers(0, 256, (len(SENTENCES) - 1, height, width, 3), dtype=np.uint8)
    arrays = {
        "photo": photo,
        "image": np.concatenate([model.read_image(photo)[None], others]),
        "text_ids": model.tokenizer(SENTENCES, model.text_length),
    }
    params = jax.tree.map(np.asarray, model.params)
    made = programs.functions(get_method(model.method), model.config, ComputePolicy())
    with jax.default_matmul_precision("highest"):
        for name, function in made.items():
            inputs = [arrays[i] for i in programs.inputs_of(name)]
            outputs = jax.tree.leaves(jax.jit(function)(params, *inputs))
            arrays |= zip(programs.outputs_of(name), map(np.asarray, outputs), strict=True)
    return arrays


def write(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes `FILE`; every other file of the directory is there already."""
    facts = {"sentences": json.dumps(SENTENCES), "files": json.dumps(digests(directory))}
    save_file(arrays, directory / FILE, facts)


def read(directory: Path) -> tuple[dict[str, np.ndarray], list[str], dict[str, str]]:
    """(arrays, sentences, SHA-256 by file). Raises ValueError for a missing or damaged file."""
    path = directory / FILE
    try:
        with safe_open(str(path), "numpy") as file:
            facts = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, json.loads(facts["sentences"]), json.loads(facts["files"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected a directory that `--mode=export` wrote"
        ) from None


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the files in a directory by their path in it, without those free to change."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {str(path.relative_to(directory).as_posix()): path for path in files}
    found = {}
    for name, path in tqdm(names.items(), desc="SHA-256", leave=False, disable=None):
        if name not in FREE_TO_CHANGE:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def check_files(directory: Path) -> None:
    """Raises ValueError, naming them, if files are missing or not as they were exported."""
    _, _, wanted = read(directory)
    found = digests(directory)
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{k} has changed" for k in wanted if k in found and found[k] != wanted[k]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{directory}: {', '.join(wrong[:3])}{more} since the export; export or fetch it again"
        )


def checks(directory: Path) -> Iterator[Check]:
    """Compares what the files of an exported directory give with `FILE`.

    Nothing for one without programs and ONNX, as with the official names.

    Raises:
      ValueError: a file that cannot be read.
    """
    arrays, sentences, _ = read(directory)
    if is_exported(directory):
        model = ExportedModel(directory)
        yield from _check_inputs(directory, model, arrays, sentences)
        allowed = ALLOWED.get(jax.default_backend(), ALLOWED_ELSEWHERE)
        for name in model.programs:
            inputs = [arrays[i] for i in programs.inputs_of(name)]
            try:
                outputs = model.run(name, *inputs)
            except (ValueError, TypeError, KeyError) as error:  # of another model, or damaged
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{directory}: {name} does not run ({reason})") from error
            yield _check(f"programs/{name}", name, outputs, arrays, allowed)
    for name, path in onnx_programs.found(directory).items():
        inputs = {i: arrays[i] for i in programs.inputs_of(name)}
        outputs = onnx_programs.run(path, inputs)
        yield _check(f"onnx/{path.name}", name, outputs, arrays, ALLOWED["cpu"])


def _check_inputs(
    directory: Path, model: ExportedModel, arrays: dict[str, np.ndarray], sentences: list[str]
) -> Iterator[Check]:
    """Tokenizers and preprocessing, ours and the portable ones; nothing may differ."""
    photo = arrays["photo"]
    resized = preprocessor.resize(directory, Image.fromarray(photo))
    ids = {
        "tokenizer": model.tokenizer(sentences, model.text_length),
        portable.FILE: portable.read_ids(directory / portable.FILE, sentences),
    }
    for name, found in ids.items():
        yield _compare(name, found, arrays["text_ids"], 0)
    pixels = {"test_resize": model.read_image(photo), preprocessor.FILE: resized}
    for name, found in pixels.items():
        yield _compare(name, found, arrays["image"][0], 0)


def _check(title: str, name: str, outputs: object, arrays: dict, allowed: float) -> Check:
    pairs = zip(programs.outputs_of(name), jax.tree.leaves(outputs), strict=True)
    compared = [_compare(title, np.asarray(found), arrays[k], allowed) for k, found in pairs]
    return max(compared, key=lambda check: (not check.passed, check.difference))


def _compare(name: str, found: np.ndarray, wanted: np.ndarray, allowed: float) -> Check:
    if found.shape != wanted.shape:
        return Check(name, float("inf"), allowed)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return Check(name, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)), allowed)
