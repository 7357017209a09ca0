"""The IRRA model against golden arrays: features, losses, gradients, training trajectories."""

import dataclasses
import json
import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.irra import get_config
from golden.report import EXACT, Arrays, Report, absolute, loss, of_largest, relative
from tipr_jax import optim
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config, objective
from tipr_jax.nn.clip_text import end_token
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import irra
from tipr_jax.pretrained.key_table import flatten, torch_keys
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

ALL_LOSSES = ("sdm", "mlm", "id", "itc", "cmpm")
# golden name -> ours
TERMS = {
    "sdm_loss": "sdm_loss",
    "id_loss": "id_loss",
    "mlm_loss": "mlm_loss",
    "itc_loss": "itc_loss",
    "cmpm_loss": "cmpm_loss",
    "img_acc": "image_accuracy",
    "txt_acc": "text_accuracy",
    "mlm_acc": "mlm_accuracy",
}


class Loaded(NamedTuple):
    name: str  # of the golden config
    config: Config
    graphdef: nnx.GraphDef
    params: dict


def check_weights(report: Report, name: str, sizes: dict) -> Loaded | None:
    """Converts weights_*.npz and checks the inferred sizes; None if there is no such file."""
    weights = report.arrays(f"weights_{name}.npz")
    if weights is None:
        return None
    config = Config(
        image_size=tuple(sizes["image"]),
        patch=sizes["patch"],
        stride=sizes["stride"],
        vision_width=sizes["v_width"],
        vision_depth=sizes["v_layers"],
        text_width=sizes["t_width"],
        text_depth=sizes["t_layers"],
        text_length=sizes["ctx"],
        vocab_size=sizes["vocab"],
        embed_dim=sizes["embed"],
        fusion_depth=sizes["cmt_depth"],
        num_persons=sizes["num_classes"],
        # The golden caption_ids are clean: fed as stored.
        mask_caption_ids=False,
    )
    state_dict = {key: weights[key] for key in weights}
    params = irra.from_torch(state_dict)
    inferred = irra.infer_config(state_dict, config.image_size, config.stride)
    wrong = {k: v for k, v in inferred.items() if k != "losses" and getattr(config, k) != v}
    report.exact(f"weights_{name}: sizes inferred from shapes", {"sizes": (wrong, {})})
    back = irra.to_torch(params)
    report.exact(
        f"weights_{name}: there and back",
        {key: (back.get(key), state_dict.get(key)) for key in sorted(back | state_dict)},
    )
    graphdef = define_model(get_method("irra"), config, ComputePolicy())[0]
    return Loaded(name, config, graphdef, params)


def read_inputs(arrays: Arrays, prefix: str) -> dict[str, jax.Array]:
    """The stored batch as `objective` reads it (NCHW -> NHWC)."""
    stored = arrays.under(prefix)
    names = ("caption_ids", "mlm_ids", "mlm_labels")
    return {key: jnp.asarray(stored[key], jnp.int32) for key in names} | {
        "image": jnp.asarray(stored["images"].transpose(0, 2, 3, 1)),
        "person_id": jnp.asarray(stored["pids"], jnp.int32),
        "image_id": jnp.asarray(stored["image_ids"], jnp.int32),
        "valid": jnp.ones(len(stored["pids"]), bool),
    }


def check_forward(report: Report, loaded: Loaded) -> None:
    name, config, graphdef, params = loaded
    golden = report.arrays(f"forward_{name}.npz")
    if golden is None:
        return
    model, inputs = nnx.merge(graphdef, params), read_inputs(golden, "in/")

    features = jax.jit(intermediates)(model, inputs)
    stored = {key: golden[f"out/{key}"] for key in features}
    for key in features:
        one = {key: features[key]}, {key: stored[key]}
        report.compare(f"forward_{name}: {key}", *one, absolute(2e-5), "abs 2e-5")

    evaluate = jax.jit(objective, static_argnums=2)
    terms = evaluate(model, inputs, config)
    every = evaluate(model, inputs, dataclasses.replace(config, losses=ALL_LOSSES))
    ours = {f"ret/{key}": every[term] for key, term in TERMS.items()}
    ours |= {"total_loss": total_loss(terms), "total_loss_all5": total_loss(every)}
    ours["ret/temperature"] = np.float32(config.temperature)
    for prefix in sorted({key.split("/")[1] for key in golden if key.startswith("out/alt_")}):
        alternative = evaluate(model, inputs, alternative_config(config, prefix))
        ours |= {f"{prefix}/{k}": alternative[TERMS[k]] for k in golden.under(f"out/{prefix}/")}
    stored = {k: v for k, v in golden.under("out/").items() if k not in features}
    exact = {key for key in stored if key.endswith(("_acc", "temperature"))}
    for key in stored:
        one = {key: ours[key]} if key in ours else {}, {key: stored[key]}
        limit = (EXACT, "exact") if key in exact else (loss(1e-5), "1e-5 * max(1, |golden|)")
        report.compare(f"forward_{name}: {key}", *one, *limit)


def intermediates(model: nnx.Module, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Every stored activation, computed from the images and ids on."""
    image = model.image_encoder(inputs["image"])
    text = model.text_encoder(inputs["caption_ids"])
    masked = model.text_encoder(inputs["mlm_ids"])
    fused = model.fusion(masked, image)
    pooled_image, pooled_text = image[:, 0], end_token(text, inputs["caption_ids"])
    return {
        "image_feats": image,
        "text_feats": text,
        "mlm_text_feats": masked,
        "i_feats": pooled_image,
        "t_feats": pooled_text,
        "cross_attn_out": model.fusion.attend(masked, image),
        "cross_former_out": fused,
        "mlm_logits": model.mlm_head(fused),
        "image_id_logits": model.classifier(pooled_image),
        "text_id_logits": model.classifier(pooled_text),
    }


def alternative_config(config: Config, name: str) -> Config:
    """ "alt_tau0.07_mlm0.5_id2" -> temperature 0.07, MLM weight 0.5, identity weight 2."""
    fields = {"tau": "temperature", "mlm": "mlm_weight", "id": "id_weight"}
    parts = re.findall(r"_(tau|mlm|id)([\d.]+)", name)
    return dataclasses.replace(config, **{fields[key]: float(value) for key, value in parts})


def check_gradients(report: Report, loaded: Loaded) -> None:
    name, config, graphdef, params = loaded
    golden, forward = report.arrays(f"grads_{name}.npz"), report.arrays(f"forward_{name}.npz")
    if golden is None or forward is None:
        return
    inputs = read_inputs(forward, "in/")
    for losses, prefix in ((config.losses, ""), (ALL_LOSSES, "all5/")):
        gradient = gradients(graphdef, params, inputs, dataclasses.replace(config, losses=losses))
        norms = {key: norm(value) for key, value in gradient.items()}
        report.compare(
            f"grads_{name}: {prefix}norm/*",
            norms,
            golden.under(f"{prefix}norm/"),
            relative(1e-4),
            "rel 1e-4",
        )
        total = {"global_norm": np.linalg.norm(list(norms.values()))}
        stored = {"global_norm": golden[f"{prefix}global_norm"]}
        report.compare(
            f"grads_{name}: {prefix}global_norm", total, stored, relative(1e-4), "rel 1e-4"
        )
        if full := golden.under(f"{prefix}full/"):
            report.compare(
                f"grads_{name}: {prefix}full/*",
                {key: gradient[key] for key in full},
                full,
                of_largest(1e-4),
                "1e-4 * max |golden|",
            )


def gradients(graphdef, params, inputs, config: Config) -> dict[str, np.ndarray]:
    """d(total loss) / d(parameter) under the official names and layouts."""

    def total(params: Any) -> jax.Array:
        return total_loss(objective(nnx.merge(graphdef, params), inputs, config))

    return irra.to_torch(jax.jit(jax.grad(total))(params))


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def check_trajectory(report: Report, loaded: Loaded) -> None:
    name, config, graphdef, params = loaded
    path = f"trajectory_{name}.npz"
    if not list(report.directory.glob("trajectory_*.npz")):
        report.absent.append(path)
    if not (report.directory / path).is_file():
        return  # the layout has trajectories of some configs only
    golden = report.arrays(path)
    batches = sorted(
        {key.split("/")[0] for key in golden if key.startswith("batch") and "/" in key}
    )
    batches = {key: read_inputs(golden, f"{key}/") for key in batches}
    order = [batches[f"batch{j}"] for j in golden["batch_order"]]
    for variant in sorted({key.split("/")[0] for key in golden if key.endswith("/hyper_json")}):
        hyper = json.loads(str(golden[f"{variant}/hyper_json"]))
        ours = run_trajectory(config, graphdef, params, order, hyper, variant == "sched")
        compare_trajectory(report, f"trajectory_{name}: {variant}", golden, variant, ours)


def run_trajectory(
    config: Config, graphdef, params: dict, order: list, hyper: dict, scheduled: bool
) -> dict[str, Any]:
    """Trains on the batches of `order`; only `scheduled` runs step the learning-rate schedule."""
    optimizer_cfg, schedule = optimizer_config(hyper)
    optimizer, table = optim.make_optimizer(
        optimizer_cfg, schedule, params, 1 if scheduled else len(order), with_scale(params)
    )

    @jax.jit
    def step(params, opt_state, inputs):
        def total(params):
            terms = objective(nnx.merge(graphdef, params), inputs, config)
            return total_loss(terms), terms

        (value, terms), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, terms | {"total_loss": value}

    initial, opt_state, history = irra.to_torch(params), optimizer.init(params), []
    for inputs in order:
        params, opt_state, terms = step(params, opt_state, inputs)
        history.append(jax.device_get(terms))
    final = irra.to_torch(params)
    groups = settings_by_key(params, optimizer_cfg)
    rows = [table[t if scheduled else 0] for t in range(len(order))]
    return {
        "terms": {key: np.array([h[key] for h in history]) for key in history[0]},
        "lr": {key: np.array([row[index] for row in rows]) for key, (index, _) in groups.items()},
        "weight_decay": {k: decay * optimizer_cfg.weight_decay for k, (_, decay) in groups.items()},
        "final": final,
        "final_norm": {key: norm(value) for key, value in final.items()},
        "delta_norm": {
            key: norm(np.float64(final[key]) - np.float64(initial[key])) for key in final
        },
    }


def optimizer_config(hyper: dict) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Official argument names -> our optimizer and schedule configs; the group table is ours."""
    optimizer = SimpleNamespace(
        name=hyper["optimizer"].lower(),
        learning_rate=hyper["lr"],
        weight_decay=hyper["weight_decay"],
        b1=hyper["alpha"],
        b2=hyper["beta"],
        eps=get_config().optimizer.eps,
        momentum=hyper["momentum"],
        groups=get_config().optimizer.groups,
    )
    schedule = SimpleNamespace(
        name=hyper["lrscheduler"],
        **{key: hyper[key] for key in ("warmup_epochs", "warmup_factor", "warmup_method")},
        **{key: hyper[key] for key in ("target_lr", "milestones", "gamma", "power")},
        num_epochs=hyper["num_epoch"],
    )
    return optimizer, schedule


def with_scale(params: dict) -> dict:
    """Our group table has a row for a learned temperature, which the released code has not."""
    return params | {"logit_scale": 0.0}


def settings_by_key(params: Any, optimizer_cfg: Any) -> dict[str, tuple[int, bool]]:
    """Official name -> (column of the learning-rate table, weight decay applies)."""
    groups = optim.parameter_groups(params, tuple(optimizer_cfg.groups), with_scale(params))
    index, decay = flatten(groups.index), flatten(groups.decay)
    keys = torch_keys(params, irra.TABLE)
    return {key: (index[row.path], decay[row.path]) for key, (row, _) in keys.items()}


def compare_trajectory(
    report: Report, title: str, golden: Arrays, variant: str, ours: dict
) -> None:
    names = [str(key) for key in golden["param_names"]]

    def stored(quantity: str) -> dict[str, np.ndarray]:
        """A golden array whose last axis runs over parameters -> {parameter: values}."""
        return dict(zip(names, np.moveaxis(golden[f"{variant}/{quantity}"], -1, 0), strict=True))

    history = golden.under(f"{variant}/")
    terms = {"total_loss": "total_loss"} | TERMS
    losses = [key for key in terms if key in history and key.endswith("_loss")]
    accuracies = [key for key in terms if key in history and key.endswith("_acc")]
    mine = {key: ours["terms"][terms[key]] for key in losses + accuracies}
    ours = ours | {"losses": mine, "accuracies": mine}
    delta = 2e-2 if variant == "default" else 1e-3  # tiny updates drown in rounding
    for quantity, values, limit, tolerance in (
        ("losses", {key: history[key] for key in losses}, relative(2e-4), "rel 2e-4"),
        ("accuracies", {key: history[key] for key in accuracies}, EXACT, "exact"),
        ("lr", stored("lr"), relative(1e-9), "rel 1e-9"),
        ("weight_decay", stored("weight_decay"), relative(1e-9), "rel 1e-9"),
        ("final_norm", stored("final_norm"), relative(1e-5), "rel 1e-5"),
        ("delta_norm", stored("delta_norm"), relative(delta), f"rel {delta:g}"),
        ("final", golden.under(f"{variant}/final/"), absolute(5e-6), "abs 5e-6"),
    ):
        pick = {key: ours[quantity][key] for key in values if key in ours[quantity]}
        report.compare(f"{title} {quantity}", pick, values, limit, tolerance)
