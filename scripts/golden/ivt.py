"""All IVT comparisons, in the order of the golden README."""

from golden import ivt_data, ivt_model, ivt_parts, ivt_pretrain
from golden.report import Report

PARTS = (
    ivt_parts.check_cmpm,
    ivt_parts.check_pos_resize,
    ivt_parts.check_lr_schedule,
    ivt_parts.check_manifest,
    ivt_data.check_metrics,
    ivt_data.check_text_levels,
    ivt_data.check_sampler,
)
MODEL_PARTS = (
    ivt_model.check_state_dict_manifest,
    ivt_model.check_eval_features,
    ivt_model.check_masked_train,
    ivt_model.check_droppath,
    ivt_model.check_trajectory,
    ivt_parts.check_pretrained_load,
    ivt_pretrain.check_pretrain,
)


def check(report: Report) -> None:
    """Runs every group; one that breaks is a FAIL of its own and the rest still runs."""
    loaded = report.attempt(ivt_model.check_weights)
    for part in MODEL_PARTS if loaded else ():
        report.attempt(part, loaded)
    for part in PARTS:
        report.attempt(part)
