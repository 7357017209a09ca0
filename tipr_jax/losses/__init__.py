"""Loss functions: pure, on the global batch, scalar in float32. No gather flags, no ranks."""
