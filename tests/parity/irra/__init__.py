"""IRRA against the released code (anosorae/IRRA), in the order of the golden README."""

from collections.abc import Callable
from functools import partial

from parity.irra import data, model, parts, training
from parity.report import Report

OF_A_MODEL = {  # of every tiny model in configs.json
    "weights": model.check_weights,
    "forward": model.check_forward,
    "grads": training.check_gradients,
    "trajectory": training.check_trajectory,
}


def groups(report: Report) -> dict[str, Callable[[Report], None]]:
    of_models = {
        f"{group}_{name}": partial(check, name=name)
        for name in report.json("configs.json") or {}
        for group, check in OF_A_MODEL.items()
    }
    return of_models | {
        "losses": parts.check_losses,
        "adam_unit": parts.check_adam,
        "lr_schedule": parts.check_schedules,
        "vitb16_params": parts.check_parameter_groups,
        "pos_embed": parts.check_pos_embed,
        "eval_metrics": data.check_metrics,
        "image_transform": data.check_image_transform,
        "tokenizer": data.check_tokenizer,
        "mlm_masking": data.check_masking,
        "identity_sampler": data.check_sampler,
        "dataset_parse": data.check_parsing,
    }
