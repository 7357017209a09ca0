"""All IRRA comparisons, in the order of the golden README."""

from golden import irra_data, irra_model, irra_parts
from golden.report import Report

PARTS = (
    irra_parts.check_losses,
    irra_parts.check_adam,
    irra_parts.check_schedules,
    irra_parts.check_parameter_groups,
    irra_parts.check_pos_embed,
    irra_data.check_metrics,
    irra_data.check_image_transform,
    irra_data.check_tokenizer,
    irra_data.check_masking,
    irra_data.check_sampler,
    irra_data.check_parsing,
)
MODEL_PARTS = (
    irra_model.check_forward,
    irra_model.check_gradients,
    irra_model.check_trajectory,
)


def check(report: Report) -> None:
    """Runs every group; one that breaks is a FAIL of its own and the rest still runs."""
    for name, sizes in (report.json("configs.json") or {}).items():
        loaded = report.attempt(irra_model.check_weights, name, sizes)
        for part in MODEL_PARTS if loaded else ():
            report.attempt(part, loaded)
    for part in PARTS:
        report.attempt(part)
