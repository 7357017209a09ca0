"""IVT against the released code (TencentYoutuResearch/PersonRetrieval-IVT)."""

from collections.abc import Callable

from parity.ivt import data, model, parts, pretrain, training
from parity.report import Report


def groups(report: Report) -> dict[str, Callable[[Report], None]]:
    return {
        "weights": model.check_weights,
        "state_dict_manifest": model.check_state_dict_manifest,
        "eval_features": model.check_eval_features,
        "masked_train": training.check_masked_train,
        "droppath": training.check_droppath,
        "trajectory": training.check_trajectory,
        "pretrained_load": parts.check_pretrained_load,
        "pretrain": pretrain.check_pretrain,
        "cmpm": parts.check_cmpm,
        "pos_resize": parts.check_pos_resize,
        "lr_schedule": parts.check_lr_schedule,
        "full_size_manifest": parts.check_manifest,
        "metrics": data.check_metrics,
        "text_levels": data.check_text_levels,
        "sampler": data.check_sampler,
    }
