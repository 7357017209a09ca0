"""A random batch of Bi-IRRA's contract for `Config.tiny()`."""

import numpy as np


def make_batch(rows: int = 8, seed: int = 0, **changes) -> dict[str, np.ndarray]:
    """Four persons of two rows each; captions of 4 to 11 tokens; half of the 8 patches hidden."""
    rng = np.random.default_rng(seed)
    length, masks, vocab = 12, 4, 128

    def caption() -> tuple[np.ndarray, ...]:
        ids = rng.integers(4, vocab - 1, (rows, length))
        count = rng.integers(4, length, rows)
        ids[:, 0] = 0
        ids[np.arange(length)[None] >= count[:, None]] = 1
        positions = np.zeros((rows, masks), np.int32)
        labels = np.full((rows, masks), -100)
        positions[:, :2] = [1, 2]
        labels[:, :2] = ids[:, 1:3]
        masked = ids.copy()
        masked[:, 1:3] = vocab - 1
        return tuple(x.astype(np.int32) for x in (ids, masked, positions, labels))

    texts = {"": caption(), "target_": caption()}
    batch = {
        "image": rng.integers(0, 256, (rows, 32, 16, 3), dtype=np.uint8),
        "person_id": (np.arange(rows) // 2).astype(np.int32),
        "image_id": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "target_language": np.ones(rows, np.int32),
        "patch_mask": np.tile(np.arange(8) % 2 == 0, (rows, 1)),
        "text_ids": texts[""][0],
        "target_ids": texts["target_"][0],
    }
    for prefix, parts in texts.items():
        names = ("mlm_ids", "mlm_positions", "mlm_labels")
        batch |= {f"{prefix}{name}": x for name, x in zip(names, parts[1:], strict=True)}
    return batch | changes
