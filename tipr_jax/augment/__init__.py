"""Augmentation on the device: pure functions of (arrays, key), inside the jitted step."""
