"""One table per foreign layout, read in both directions: torch state dict <-> our parameters.

A row names a tensor over there, its path in our tree, the change of layout, and its shape in
letters. The letters do three jobs: they document the shape, they are solved to infer the model's
sizes, and a tensor that disagrees with other tensors is reported.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.param_tree import flatten, unflatten

HEAD_DIM = 64  # of every attention in OpenAI's CLIP, in BERT, XLM-R and the usual ViT

StateDict = dict[str, np.ndarray]


class Transform(NamedTuple):
    """A change of layout and its inverse; neither touches a value."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


IDENTITY = Transform(_same, _same)
LINEAR = Transform(np.transpose, np.transpose)  # [out,in] <-> [in,out]
CONV = Transform(  # OIHW <-> HWIO
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
LEADING_ONE = Transform(lambda x: x[0], lambda x: x[None])  # [1,N,D] <-> [N,D]
LEADING_ONES = Transform(lambda x: x[0, 0], lambda x: x[None, None])  # [1,1,D] <-> [D]


class AttentionLayout(NamedTuple):
    """Transforms of packed projections: [3E,E] <-> [E,3,heads,dim], [3E] <-> [3,heads,dim],
    [out,E] <-> [heads,dim,out]. Only the way to us needs to know `dim`."""

    qkv: Transform
    qkv_bias: Transform
    out: Transform


def attention_layout(dim: int = HEAD_DIM) -> AttentionLayout:
    return AttentionLayout(
        Transform(lambda x: x.T.reshape(x.shape[1], 3, -1, dim), lambda x: _flat(x, 1).T),
        Transform(lambda x: x.reshape(3, -1, dim), lambda x: x.reshape(-1)),
        Transform(lambda x: x.T.reshape(-1, dim, x.shape[0]), lambda x: _flat(x, -1).T),
    )


def _flat(x: np.ndarray, axis: int) -> np.ndarray:
    """A matrix: the axes before and from `axis` on, each as one."""
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


class Row(NamedTuple):
    """key: torch name, "{i}" is the layer number (layers are stacked on axis 0 of our array);
    path: ours; shape: the torch shape, e.g. "3W W" (letters are sizes, "3W" is 3 * W)."""

    key: str
    path: str
    transform: Transform
    shape: str


# What wrappers put in front of every name: DistributedDataParallel, torch.compile, Lightning, and
# models that hold a CLIP.
PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")


def without_prefix(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """The same tensors without the `PREFIXES` that all of their names share."""
    state_dict = dict(state_dict)
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state_dict)), ""):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        if not state_dict:
            break
    return state_dict


def linear(key: str, path: str, n_out: str, n_in: str) -> list[Row]:
    return [
        Row(f"{key}.weight", f"{path}/kernel", LINEAR, f"{n_out} {n_in}"),
        Row(f"{key}.bias", f"{path}/bias", IDENTITY, n_out),
    ]


def layer_norm(key: str, path: str, width: str) -> list[Row]:
    return [
        Row(f"{key}.weight", f"{path}/scale", IDENTITY, width),
        Row(f"{key}.bias", f"{path}/bias", IDENTITY, width),
    ]


def attention(key: str, path: str, width: str, head_dim: int = HEAD_DIM) -> list[Row]:
    layout = attention_layout(head_dim)
    return [
        Row(f"{key}.in_proj_weight", f"{path}/qkv/kernel", layout.qkv, f"3{width} {width}"),
        Row(f"{key}.in_proj_bias", f"{path}/qkv/bias", layout.qkv_bias, f"3{width}"),
        Row(f"{key}.out_proj.weight", f"{path}/out/kernel", layout.out, f"{width} {width}"),
        Row(f"{key}.out_proj.bias", f"{path}/out/bias", IDENTITY, width),
    ]


def blocks(
    key: str, path: str, width: str, hidden: str = "", head_dim: int = HEAD_DIM
) -> list[Row]:
    """A stack of CLIP's residual blocks; hidden: by default four times the width."""
    hidden = hidden or f"4{width}"
    key = f"{key}.resblocks.{{i}}"
    return [
        *attention(f"{key}.attn", f"{path}/attn", width, head_dim),
        *layer_norm(f"{key}.ln_1", f"{path}/ln_1", width),
        *linear(f"{key}.mlp.c_fc", f"{path}/mlp/fc_in", hidden, width),
        *linear(f"{key}.mlp.c_proj", f"{path}/mlp/fc_out", width, hidden),
        *layer_norm(f"{key}.ln_2", f"{path}/ln_2", width),
    ]


def read_sizes(state_dict: Mapping[str, np.ndarray], table: Sequence[Row]) -> dict[str, int]:
    """Solves the table's letters, and counts layers, e.g. {"W": 768, "image_encoder": 12, ...}.

    A stack of layers is counted under the top-level name of our path. A letter takes the value
    that most tensors agree on, so the odd one out is what the error names.

    Raises:
      ValueError: a key that is in no row, a missing key, or a shape that disagrees.
    """
    found = _match(state_dict, table)
    votes: dict[str, Counter] = defaultdict(Counter)
    for row, keys in found.items():
        for key in keys.values():
            shape, dims = np.shape(state_dict[key]), _dims(row)
            if len(shape) == len(dims):
                for size, (factor, letter) in zip(shape, dims, strict=True):
                    votes[letter][size / factor] += 1
    sizes = {letter: int(votes[letter].most_common(1)[0][0]) for letter in votes if letter}
    wrong = []
    for row, keys in found.items():
        expected = tuple(f * sizes.get(letter, 0) if letter else f for f, letter in _dims(row))
        for key in keys.values():
            if np.shape(state_dict[key]) != expected:
                given = list(np.shape(state_dict[key]))
                wrong.append(f"{key} is {given}, expected {list(expected)}")
    _report("tensors of the wrong shape", wrong)
    depth = {row.path.split("/")[0]: len(keys) for row, keys in found.items() if "{i}" in row.key}
    return sizes | depth


def hidden_width(sizes: Mapping[str, int], hidden: str, width: str) -> int:
    """The feed-forward width of a transformer as configs hold it: 0 for four times the width."""
    return 0 if sizes[hidden] == 4 * sizes[width] else sizes[hidden]


def to_params(state_dict: Mapping[str, np.ndarray], table: Sequence[Row]) -> dict[str, Any]:
    """Torch state dict -> nested dict of float32 arrays, layers stacked on axis 0.

    Raises:
      ValueError: as `read_sizes`.
    """
    read_sizes(state_dict, table)
    flat = {}
    for row, keys in _match(state_dict, table).items():
        arrays = [
            np.asarray(row.transform.to_ours(np.asarray(state_dict[k], np.float32)), order="C")
            for _, k in sorted(keys.items(), key=lambda item: item[0] or 0)
        ]
        flat[row.path] = arrays[0] if None in keys else np.stack(arrays)
    return unflatten(flat)


def to_state_dict(params: Mapping[str, Any], table: Sequence[Row]) -> StateDict:
    """The inverse of `to_params`; also maps trees shaped like parameters, e.g. gradients.

    Raises:
      ValueError: a parameter that has no row, or a row whose parameter is missing.
    """
    flat = flatten(params)
    state_dict = {}
    for key, (row, layer) in torch_keys(params, table).items():
        value = np.asarray(flat[row.path])
        value = value if layer is None else value[layer]
        state_dict[key] = np.asarray(row.transform.to_torch(value), order="C")
    return state_dict


def torch_keys(
    params: Mapping[str, Any], table: Sequence[Row]
) -> dict[str, tuple[Row, int | None]]:
    """{torch key: (row, layer or None)} of a parameter tree, whose leaves may be abstract.

    Raises:
      ValueError: as `to_state_dict`.
    """
    flat = flatten(params)
    rows = [row for row in table if row.path.split("/")[0] in params]
    _report("parameters without a counterpart", sorted(set(flat) - {row.path for row in rows}))
    _report("missing parameters", [row.path for row in rows if row.path not in flat])
    keys: dict[str, tuple[Row, int | None]] = {}
    for row in rows:
        if "{i}" in row.key:
            depth = flat[row.path].shape[0]
            keys |= {row.key.replace("{i}", str(i)): (row, i) for i in range(depth)}
        else:
            keys[row.key] = (row, None)
    return keys


def _match(
    state_dict: Mapping[str, np.ndarray], table: Sequence[Row]
) -> dict[Row, dict[int | None, str]]:
    """row -> {layer (None without layers): key}; complete, or a ValueError listing what is not."""
    rows = {row.key: row for row in table}
    found: dict[Row, dict[int | None, str]] = {row: {} for row in table}
    unknown = []
    for key in state_dict:
        layer = re.search(r"(?<=\.)(0|[1-9]\d*)(?=\.)", key)
        template = f"{key[: layer.start()]}{{i}}{key[layer.end() :]}" if layer else key
        if key in rows:  # a number that counts no layers, as in "head.0.weight"
            found[rows[key]][None] = key
        elif template in rows:
            found[rows[template]][int(layer[0]) if layer else None] = key
        else:
            unknown.append(key)
    _report("unknown tensors", unknown)
    depth: dict[str, int] = defaultdict(int)
    for row, keys in found.items():
        if "{i}" in row.key:
            stack = row.key.split("{i}")[0]
            depth[stack] = max(depth[stack], 1, *(i + 1 for i in keys if i is not None))
    missing = []
    for row in table:
        numbers = range(depth[row.key.split("{i}")[0]]) if "{i}" in row.key else [None]
        missing += [row.key.replace("{i}", str(i)) for i in numbers if i not in found[row]]
    _report("missing tensors", missing)
    return found


def _dims(row: Row) -> list[tuple[int, str]]:
    """ "3W 16" -> [(3, "W"), (16, "")]."""
    parts = []
    for dim in row.shape.split():
        found = re.fullmatch(r"(\d*)([A-Za-z]*)", dim)
        assert found, f"{row.key}: {dim!r} is not a size"
        parts.append((int(found[1] or 1), found[2]))
    return parts


def _report(problem: str, names: Sequence[str], show: int = 4) -> None:
    if names:
        more = f" and {len(names) - show} more" if len(names) > show else ""
        raise ValueError(f"{len(names)} {problem}: {', '.join(names[:show])}{more}")
