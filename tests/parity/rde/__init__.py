"""RDE against the released code (QinYang79/RDE, CVPR 2024), in the order of the golden README."""

from collections.abc import Callable
from functools import partial

from parity.rde import data, division, model, parts, training
from parity.report import Report

OF_A_MODEL = {  # of every tiny model in configs.json
    "weights": model.check_weights,
    "forward": model.check_forward,
    "grads": training.check_gradients,
    "trajectory": training.check_trajectory,
    "epochs": training.check_epochs,
}


def groups(report: Report) -> dict[str, Callable[[Report], None]]:
    of_models = {
        f"{group}_{name}": partial(check, name=name)
        for name in report.json("configs.json") or {}
        for group, check in OF_A_MODEL.items()
    }
    return of_models | {
        "losses": parts.check_losses,
        "ccd": division.check_division,
        "eval_metrics": data.check_metrics,
        "noise_index": data.check_noise,
        "text_aug": data.check_text_augmentation,
        "lr_schedule": parts.check_schedules,
        "vitb16_params": parts.check_parameters,
        "topk_counts": parts.check_counts,
    }
