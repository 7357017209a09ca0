"""The model card of an exported directory, README.md: what the model is, knows, and is not for."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tipr_jax import __version__, result_table, run_files
from tipr_jax.inference import onnx_programs
from tipr_jax.inference.exported import is_exported
from tipr_jax.inference.model import TrainedModel

FILE = "README.md"
METRICS = ("R1", "R5", "R10", "mAP", "mINP")

TEXT = """\
# {title}

Text-to-image person retrieval: a sentence about a person ranks a gallery of photos of people. Made
with tipr_jax {version}, method `{method}`.

## Training

| | |
|---|---|
| data | {data} |
| captions in | {languages} |
| licence of the data | {licence} |
| checkpoint | step {step}, the best on `{selected_on}` by {selected_by} |

The licence of the weights follows from that of the data and of the weights that training began
from (`{init_from}`); nothing is granted here.

## Results

{results}

## Use

Intended: research on retrieval, and search in collections of photos that you may lawfully search,
with a person looking at what is found. Ranks are no proof of identity.

Out of scope: decisions about people without a person who checks them; surveillance of people
without a legal basis; recognition by face, for which the model was not made; sentences about traits
that clothes and things carried do not show. It inherits the biases of its data: places, seasons,
clothes and words that the data lacks are ranked worse.

## How to load

Photos are resized to {height} x {width} without keeping their aspect (`preprocessor_config.json`)
and enter as uint8 RGB; normalisation is inside. Sentences have {length} tokens.

{loading}
`tokenizer.json` gives the ids of our tokenizer with these exceptions: of CLIP's, wrongly decoded
text and HTML ("&amp;amp;") stay as they are; of XLM-R's, texts with words that have no token may be
cut elsewhere, and long runs of one letter may be cut into other pieces.

`python -m tipr_jax.inference.artifact verify DIRECTORY` compares all files, and what they compute,
with the day of the export.
"""

WITH_PROGRAMS = """\
With tipr_jax:

```bash
python -m tipr_jax.gallery add photos/ --model=DIRECTORY --gallery=my.gallery
python -m tipr_jax.gallery search "a man in a red coat" --gallery=my.gallery
```

With jax, numpy, tokenizers and safetensors alone (`scripts/examples/search_exported.py` of
tipr_jax ranks a folder of photos):

```python
import json, jax, jax.export, numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

config, weights = json.load(open("config.json")), load_file("model.safetensors")

def run(name, *inputs):
    program = jax.export.deserialize(bytearray(open(f"programs/{name}.jax_export", "rb").read()))
    return program.call({k: weights[k] for k in config["exported"]["programs"][name]}, *inputs)

ids = Tokenizer.from_file("tokenizer.json").encode("a man in a red coat").ids
feature = run("encode_text", np.array([ids], np.int32))  # compare by cosine with encode_image
```
"""

WITH_ONNX = """\
With onnxruntime and tokenizers (`scripts/examples/search_onnx.py`):

```python
session = onnxruntime.InferenceSession("onnx/encode_text.onnx")
(feature,) = session.run(None, {"text_ids": np.array([ids], np.int32)})
```
"""

WITH_ORBAX = """\
The parameters alone, a plain tree of arrays:

```python
import orbax.checkpoint as ocp
params = ocp.PyTreeCheckpointer().restore("/absolute/path/params")
```
"""

WITH_OFFICIAL = """\
`model.safetensors` has the names and shapes of the released PyTorch code:

```python
from safetensors.torch import load_file
model.load_state_dict(load_file("model.safetensors"))
```
"""


def write(directory: Path, model: TrainedModel, workdir: Path, licence: str = "") -> None:
    """Writes `FILE` about the best checkpoint of a run; with front matter for the Hub where
    huggingface_hub is installed.

    licence: of the training data; "": not known.
    """
    run = run_files.read_config(workdir)
    path = workdir / run_files.RESULTS
    summary = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    data, selection = run.get("data", {}), run.get("eval", {})
    title = f"{model.method} on {data.get('name', 'data of unknown origin')}"
    parts = [WITH_PROGRAMS] if is_exported(directory) else [WITH_OFFICIAL]
    parts += [WITH_ONNX] if onnx_programs.found(directory) else []
    content = TEXT.format(
        title=title,
        version=__version__,
        method=model.method,
        data=data.get("name", "unknown"),
        languages=", ".join(model.languages or model.caption_languages) or "unknown",
        licence=licence or "unknown: ask its authors",
        step=run_files.read_config(directory)["step"],
        selected_on=selection.get("select_on", "unknown"),
        selected_by=selection.get("select_by", "unknown"),
        init_from=Path(run.get("init_from") or "random weights").name,
        results=results(summary),
        height=model.image_size[0],
        width=model.image_size[1],
        length=model.text_length,
        loading="\n".join([*parts, WITH_ORBAX]),
    )
    (directory / FILE).write_text(front_matter(model, title, data, summary) + content, "utf-8")


def results(summary: Mapping[str, Any]) -> str:
    """The rows of `results.json` as a Markdown table, in percent."""
    if not summary:
        return "The run has no `results.json`: nothing was measured."
    lines = ["| weights | split | direction | " + " | ".join(METRICS) + " |"]
    lines.append("|---" * (3 + len(METRICS)) + "|")
    for row in result_table.all_rows(summary):
        for direction, metrics in row.directions.items():
            values = (f"{metrics[m]:.2f}" if m in metrics else "" for m in METRICS)
            name = f"{row.name} (step {row.step})"
            title = result_table.TITLES[direction]
            lines.append(f"| {name} | {row.split} | {title} | {' | '.join(values)} |")
    return "\n".join([*lines, "", "In percent.", *result_table.notes(summary)])


def front_matter(
    model: TrainedModel, title: str, data: Mapping[str, Any], summary: Mapping[str, Any]
) -> str:
    """The YAML block by which the Hub files a model; "" without huggingface_hub."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return ""
    from huggingface_hub import EvalResult, ModelCardData

    scores = summary.get("t2i", {})
    measured = [
        EvalResult(
            task_type="text-to-image-retrieval",
            dataset_type=data.get("name", "unknown"),
            dataset_name=data.get("name", "unknown"),
            dataset_split=summary["split"],
            metric_type=metric,
            metric_value=round(scores[metric], 2),
        )
        for metric in METRICS
        if metric in scores
    ]
    fields = ModelCardData(
        language=[*(model.languages or model.caption_languages)] or None,
        license="other",
        library_name="tipr_jax",
        tags=["text-to-image-person-retrieval", "person-search", "jax"],
        model_name=title,
        eval_results=measured or None,
    )
    return f"---\n{fields.to_yaml()}\n---\n\n"
