"""Bi-IRRA against the released code, in the order of the golden README."""

from collections.abc import Callable

from parity.bi_irra import activations, data, losses, model, parts, training
from parity.report import Report


def groups(report: Report) -> dict[str, Callable[[Report], None]]:
    return {
        "weights": model.check_weights,
        "forward": activations.check_forward,
        "losses": losses.check_losses,
        "gradients": training.check_gradients,
        "trajectory": training.check_trajectory,
        "rel_pos_index": parts.check_relative_positions,
        "itc_multi_device": parts.check_multi_device_contrast,
        "eval": parts.check_ranking,
        "lr_schedule": parts.check_schedules,
        "full_size": parts.check_full_size,
        "cleaning": data.check_cleaning,
        "token_ids": data.check_token_ids,
        "text_masking": data.check_text_masking,
        "block_masks": data.check_patch_masks,
    }
