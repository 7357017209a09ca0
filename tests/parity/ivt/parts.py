"""Pure functions of IVT against golden arrays: CMPM, position resize, schedule, names, loading."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from configs.ivt import get_config
from parity.irra.parts import torch_shapes
from parity.ivt.model import define, load
from parity.ivt.training import compare_loss
from parity.report import Report, absolute, of_largest
from tipr_jax import optim
from tipr_jax.losses.contrastive import cmpm_loss
from tipr_jax.models.ivt import Config, adopt
from tipr_jax.nn.pos_embed import resize_pos_embed
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.pretrained import bert, ivt, timm_vit
from tipr_jax.train_state import count_parameters

PARAMETERS = 166_631_424  # of the released trunk with 384x128 images and stride 12


def check_cmpm(report: Report) -> None:
    golden = report.arrays("cmpm.npz")
    gradient = jax.jit(jax.value_and_grad(cmpm_loss, (0, 1)))
    for case in sorted({key.split("/")[0] for key in golden or ()}):
        stored = golden.under(f"{case}/")
        features = jnp.asarray(stored["img"]), jnp.asarray(stored["txt"])
        labels = jnp.asarray(stored["labels"], jnp.int32)
        value, grads = gradient(*features, labels)
        compare_loss(report, f"cmpm {case}: loss", value, stored["loss"])
        ours = dict(zip(("grad_img", "grad_txt"), grads, strict=True))
        want = {key: stored[key] for key in ours}
        title = f"cmpm {case}: gradients"
        report.compare(title, ours, want, of_largest(1e-4), "1e-4 * max |golden|")


def check_pos_resize(report: Report) -> None:
    golden = report.arrays("pos_resize.npz")
    for case in sorted({key.split("/")[0] for key in golden or ()}):
        stored = golden.under(f"{case}/")
        rows, cols = map(int, stored["hw"])
        ours = {"out": resize_pos_embed(jnp.asarray(stored["src"][0]), (rows, cols))[None]}
        want = {"out": stored["out"]}
        report.compare(f"pos_resize {case}", ours, want, absolute(5e-6), "abs 5e-6")


def check_lr_schedule(report: Report) -> None:
    golden = report.arrays("lr_schedule.npz")
    if golden is None:
        return
    cfg = get_config()
    rate = cfg.optimizer.learning_rate
    # Row e of the file is the released epoch e; ours count from 0 and start with its epoch 1.
    table = optim.learning_rate_table(cfg.schedule, rate, (1.0, 2.0))

    def rates(e: int) -> list[float]:
        """What training reads from its table; the file has a row before it."""
        if 0 <= e < len(table):
            return table[e].tolist()
        return [optim.learning_rate(cfg.schedule, e, rate * m) for m in (1, 2)]

    ours = [[epoch, *rates(int(epoch) - 1)] for epoch in golden["table"][:, 0]]
    start = {"initial": ours[0][1:]}, {"initial": golden["initial_after_construction"]}
    report.compare(
        "lr_schedule: table", {"lr": ours}, {"lr": golden["table"]}, absolute(1e-12), "abs 1e-12"
    )
    report.compare("lr_schedule: first rates", *start, absolute(1e-12), "abs 1e-12")
    groups = dict((pattern, decay) for pattern, _, decay in cfg.optimizer.groups)
    decay = [cfg.optimizer.weight_decay * groups[pattern] for pattern in (".*", "bias$")]
    settings = {"wd": decay, "momentum": [cfg.optimizer.momentum] * 2}
    want = {key: golden[key] for key in settings}
    report.compare("lr_schedule: decay, momentum", settings, want, absolute(1e-12), "abs 1e-12")


def check_manifest(report: Report) -> None:
    """Names and shapes of the full-size trunk, without allocating it."""
    golden = report.json("full_size_manifest_stride12.json")
    if golden is None:
        return
    init = define(Config.vit_b16())[2]
    params = jax.eval_shape(init, jax.random.key(0))
    ours = torch_shapes(params, ivt.TABLE)
    stored = {key: tuple(shape) for key, shape in golden.items() if not ivt.INERT.search(key)}
    pairs = {key: (ours.get(key), stored.get(key)) for key in ours | stored}
    report.exact("full_size_manifest: names and shapes", pairs)
    count = sum(math.prod(shape) for shape in stored.values())
    report.exact(
        "full_size_manifest: parameters",
        {"ours": (count_parameters(params), PARAMETERS), "file": (count, PARAMETERS)},
    )


def check_pretrained_load(report: Report) -> None:
    """The converters of ViT and BERT, and how they enter a model of another grid."""
    loaded, golden = load(report), report.arrays("pretrained_load.npz")
    if loaded is None or golden is None:
        return
    visual = timm_vit.from_torch(golden.under("vit/"), loaded.head_dim)
    textual = bert.from_torch(golden.under("bert/"), loaded.head_dim)
    side = math.isqrt(len(visual["encoder"]["pos_embed"]) - 1)
    config = loaded.config
    square = dataclasses.replace(config, image_size=(side * config.patch,) * 2, stride=config.patch)
    pretrained = unflatten(flatten(visual) | flatten(textual))
    shared = {name: part for name, part in pretrained.items() if name in loaded.params}
    # The original keeps the resized table of an ImageNet model in any case.
    for how, as_official in {"": False, ", as_official": True}.items():
        adopted, notes = adopt(shared, loaded.params, square, config, as_official)
        params = loaded.params | adopted
        fresh = [path for path, note in notes.items() if note.startswith("fresh")]
        report.exact(
            f"pretrained_load{how}: fresh tensors", {"fresh": (fresh, ["encoder/type_embed"])}
        )
        after, ours = golden.under("after/"), ivt.to_torch(params)
        pick = {key: np.asarray(ours[key]) for key in after if key in ours}
        report.compare(f"pretrained_load{how}: tensors", pick, after, absolute(1e-6), "abs 1e-6")
