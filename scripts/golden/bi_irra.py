"""All Bi-IRRA comparisons, in the order of the golden README."""

from golden import bi_irra_data, bi_irra_model, bi_irra_parts, bi_irra_training
from golden.report import Report

MODEL_PARTS = (
    bi_irra_model.check_forward,
    bi_irra_model.check_losses,
    bi_irra_training.check_gradients,
    bi_irra_training.check_trajectory,
)
PARTS = (
    bi_irra_parts.check_relative_positions,
    bi_irra_parts.check_multi_device_contrast,
    bi_irra_parts.check_ranking,
    bi_irra_parts.check_schedules,
    bi_irra_parts.check_full_size,
    bi_irra_data.check_cleaning,
    bi_irra_data.check_token_ids,
    bi_irra_data.check_text_masking,
    bi_irra_data.check_patch_masks,
)


def check(report: Report) -> None:
    """Runs every group; one that breaks is a FAIL of its own and the rest still runs."""
    loaded = report.attempt(bi_irra_model.load)
    for part in MODEL_PARTS if loaded else ():
        report.attempt(part, loaded)
    for part in PARTS:
        report.attempt(part)
