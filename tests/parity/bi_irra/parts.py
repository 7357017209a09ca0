"""Pure functions of Bi-IRRA against golden arrays: positions, contrast, ranking, sizes."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from parity.bi_irra.model import define
from parity.report import Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.losses.matching import soft_itc_loss
from tipr_jax.metrics.rerank import candidate_ranks, rerank_scores, top_candidates
from tipr_jax.metrics.retrieval import metrics_from_ranks, metrics_from_similarity
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.models.bi_irra.objective import scale_gradient, unit
from tipr_jax.nn.beit import relative_position_index
from tipr_jax.pretrained import bi_irra
from tipr_jax.train_state import count_parameters

PERCENT = absolute(1e-4), "1e-4 percent points"


def check_relative_positions(report: Report) -> None:
    golden = report.arrays("rel_pos_index.npz")
    pairs = {}
    for key in golden or ():
        grid = tuple(map(int, re.fullmatch(r"index_(\d+)x(\d+)", key).groups()))
        pairs[key] = relative_position_index(grid), golden[key]
    if pairs:
        report.exact("rel_pos_index", pairs)


def check_multi_device_contrast(report: Report) -> None:
    """`itc_feature_grad_scale` = 1/devices gives the gradient that the released gather leaves."""
    golden = report.arrays("itc_multi_device.npz")
    if golden is None:
        return
    ids, world = jnp.asarray(golden["idx"]), int(golden["world"])
    image_in, text_in = jnp.asarray(golden["image_in"]), jnp.asarray(golden["text_in"])

    def loss(v: jax.Array, t: jax.Array, temperature: jax.Array, scale: float) -> jax.Array:
        image, text = unit(image_in @ v.T), unit(text_in @ t.T)
        image, text = scale_gradient(image, scale), scale_gradient(text, scale)
        valid = jnp.ones(len(ids), bool)
        return soft_itc_loss(image, text, ids, scale=1 / temperature, valid=valid)

    weights = jnp.asarray(golden["v"]), jnp.asarray(golden["t"]), jnp.float32(0.07)
    value, (v, t, temperature) = jax.value_and_grad(loss, (0, 1, 2))(*weights, 1 / world)
    one = {"loss": value}, {"loss": golden["loss"]}
    report.compare("itc_multi_device: loss", *one, relative(2e-5), "rel 2e-5")
    plain = jax.grad(loss, (0, 2))(*weights, 1.0)
    ours = {
        "grad_v": v,
        "grad_t": t,
        "grad_temp": temperature,
        "single_device_grad_v": plain[0],
        "single_device_grad_temp": plain[1],
    }
    for key, value in ours.items():
        one = {key: value}, {key: golden[key]}
        report.compare(f"itc_multi_device: {key}", *one, of_largest(1e-4), "1e-4 * max |golden|")


def check_ranking(report: Report) -> None:
    golden, metrics = report.arrays("eval.npz"), report.json("eval.json")
    if golden is None or metrics is None:
        return
    for case, stored in metrics.items():
        sim, logit = golden[f"{case}_sim"], golden[f"{case}_itm_logit1"]
        k = int(golden[f"{case}_k"])
        score = rerank_scores(sim, logit, k)
        report.exact(f"eval {case}: score", {"score": (score, golden[f"{case}_score"])})
        ours = metrics_from_similarity(score, golden[f"{case}_txt_pid"], golden[f"{case}_img_pid"])
        official = stored["official"]
        want = {f"R{k}": official[f"r{k}"] for k in (1, 5, 10)}
        want["mAP"] = stored["stable_sort_mAP"]
        report.compare(f"eval {case}: metrics", {name: ours[name] for name in want}, want, *PERCENT)
        best = top_candidates(sim, k)
        persons = golden[f"{case}_txt_pid"], golden[f"{case}_img_pid"]
        ranks = candidate_ranks(best, np.take_along_axis(logit, best, axis=1), *persons)
        ours = metrics_from_ranks(ranks)
        what = f"eval {case}: metrics from candidates"
        report.compare(what, {name: ours[name] for name in want}, want, *PERCENT)


def check_schedules(report: Report) -> None:
    golden = report.arrays("lr_schedule.npz")
    for case in golden or ():
        if case.endswith("_args"):
            continue
        base, epochs, warmup, start, end, per_epoch = golden[f"{case}_args"]
        cfg = SimpleNamespace(
            name=optim.COSINE_PER_STEP,
            num_epochs=int(epochs),
            warmup_epochs=int(warmup),
            start_lr=start,
            target_lr=end,
        )
        ours = optim.learning_rate_table(cfg, base, (1.0,), int(per_epoch))[:, 0]
        one = {case: ours}, {case: golden[case]}
        report.compare(f"lr_schedule: {case}", *one, absolute(1e-12), "abs 1e-12")


def check_full_size(report: Report) -> None:
    """Names, shapes and count of the published model, without allocating it."""
    golden = report.json("full_size_manifest.json")
    if golden is None:
        return
    init = define(Config.base())[2]
    params = jax.eval_shape(init, jax.random.key(0))
    count = count_parameters(params), golden["released_total_parameters"]
    report.exact("full size: parameters", {"count": count})
    ours = shapes_under_released_names(params)
    stored = {
        key: (tuple(row["shape"]), layers(key, row["count"]))
        for key, row in golden["released"].items()
        if not key.endswith(("relative_position_index", "position_ids"))
    }
    pairs = {key: (str(ours.get(key)), str(stored.get(key))) for key in ours | stored}
    report.exact("full size: names, shapes and layers", pairs)


def layers(key: str, count: int) -> list[int]:
    """The numbers of the layers that hold such a tensor; of one text stack, the last ones fuse."""
    first = Config.base().text_depth if ".crossattention." in key else 0
    return list(range(first, first + count)) if "{i}" in key else []


def shapes_under_released_names(params: dict) -> dict[str, tuple[tuple[int, ...], list[int]]]:
    """{released name with {i} for a layer: (shape, numbers of layers)} of abstract parameters."""
    # Zeros that take no memory, so that the converter's own transforms give names and shapes.
    nothing = jax.tree.map(lambda x: np.broadcast_to(np.int8(0), x.shape), params)
    found: dict[str, tuple] = {}
    for key, value in bi_irra.with_tied_names(bi_irra.to_torch(nothing)).items():
        number = re.search(r"\.(?:layer|blocks)\.(\d+)\.", key)
        name = key if number is None else key[: number.start(1)] + "{i}" + key[number.end(1) :]
        shape, numbers = found.setdefault(name, (value.shape, []))
        if value.shape != shape:
            raise ValueError(f"{key} is {value.shape}, other layers hold {shape}")
        numbers += [] if number is None else [int(number[1])]
    return {name: (shape, sorted(numbers)) for name, (shape, numbers) in found.items()}
