"""Features as unit vectors, whose inner product is the cosine similarity."""

import numpy as np


def l2_normalise(embed: np.ndarray) -> np.ndarray:
    """float [N, C] over the L2 norm of each row, which is clamped below by 1e-12."""
    return embed / np.maximum(np.linalg.norm(embed, axis=1, keepdims=True), 1e-12)
