"""What users do with weights: convert, then eval or embed; train, then export, then eval.

The expected numbers come from `torch_irra`, from the files on disk: it shares with the package only
the tokenizer, which has golden tests of its own.
"""

import json

import numpy as np
import pytest
from clip_models import official_irra
from PIL import Image
from torch_irra import released_metrics, torch_features

from tipr_jax import convert, main
from tipr_jax.text.clip_bpe import VOCAB_SIZE, ClipTokenizer

pytestmark = pytest.mark.slow

IMAGE_SIZE, TEXT_LENGTH = (24, 16), 40


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """A released checkpoint of another size than the config's, with CLIP's own vocabulary."""
    return official_irra(vocab=VOCAB_SIZE, text_length=TEXT_LENGTH)


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    """`state` as best.pth, converted."""
    import torch

    directory = tmp_path_factory.mktemp("weights")
    tensors = {key: torch.tensor(value) for key, value in state.items()}
    torch.save({"model": tensors}, directory / "best.pth")
    files = [f"--input={directory / 'best.pth'}", f"--output={directory / 'irra'}"]
    convert.main(["--method=irra", "--image_size=24,16", *files])
    return directory / "irra"


def read_test_split(root) -> tuple[list, list, np.ndarray, np.ndarray]:
    """(image files, captions, person of each caption, person of each image)."""
    directory = root / "CUHK-PEDES"
    entries = json.loads((directory / "reid_raw.json").read_text())
    entries = [e for e in entries if e["split"] == "test"]
    captions = [(c, e["id"]) for e in entries for c in e["captions"]]
    return (
        [directory / "imgs" / e["file_path"] for e in entries],
        [caption for caption, _ in captions],
        np.array([person for _, person in captions]),
        np.array([e["id"] for e in entries]),
    )


def original_pixels(path) -> np.ndarray:
    """The released transform up to the tensor: Pillow's bilinear resize, aspect not kept."""
    with Image.open(path) as image:
        size = IMAGE_SIZE[::-1]
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def original(state, tiny_root) -> dict:
    """What the released code gives for the test split of `tiny_root`."""
    paths, captions, text_person, image_person = read_test_split(tiny_root)
    pixels = np.stack([original_pixels(path) for path in paths])
    image, text = torch_features(state, pixels, ClipTokenizer()(captions, TEXT_LENGTH))
    return {
        "image": image.numpy(),
        "text": text.numpy(),
        "t2i": bounds(text, image, text_person, image_person),
        "i2t": bounds(image, text, image_person, text_person),
    }


def bounds(*given) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics with every near tie lost, and with every one won.

    Random weights give similarities that are closer to each other than the rounding, which differs
    between our program and PyTorch: each feature to 2e-5, as the test of embed asks.
    """
    return released_metrics(*given, favour=-4e-5), released_metrics(*given, favour=4e-5)


def test_convert_then_eval_gives_the_original_numbers(tiny_config, weights, original, tmp_path):
    tiny_config.init_from = str(weights)  # no sizes: they come with the weights
    main.run(tiny_config, tmp_path / "eval", "eval")
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (results["split"], results["step"]) == ("test", 0)
    for direction in ("t2i", "i2t"):
        least, most = original[direction]
        assert 10 < least["mAP"] and most["mAP"] < 90  # neither trivial nor perfect
        for name, value in results[direction].items():
            assert least[name] - 1e-4 <= value <= most[name] + 1e-4, (direction, name)
            assert most[name] - least[name] < 1, "a near tie or two"


def test_embed_writes_the_original_features(tiny_config, weights, original, tiny_root, tmp_path):
    tiny_config.init_from = str(weights)
    main.run(tiny_config, tmp_path, "embed")
    assert {p.name for p in (tmp_path / "embeddings").iterdir()} == {"val.npz", "test.npz"}
    paths, captions, text_person, image_person = read_test_split(tiny_root)
    saved = np.load(tmp_path / "embeddings" / "test.npz")  # no pickles in it
    for kind, person in (("image", image_person), ("text", text_person)):
        want = original[kind] / np.linalg.norm(original[kind], axis=1, keepdims=True)
        assert saved[kind].shape == (len(person), 64) and saved[kind].dtype == np.float32
        np.testing.assert_allclose(saved[kind], want, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(saved["image_path"], [str(path) for path in paths])
    np.testing.assert_array_equal(saved["caption"], captions)
    np.testing.assert_array_equal(saved["image_person_id"], image_person)
    np.testing.assert_array_equal(saved["caption_person_id"], text_person)


def test_export_then_eval_gives_the_numbers_of_the_run(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "write_report", lambda *_: None)  # seconds of pictures
    tiny_config.schedule.num_epochs, tiny_config.model.losses = 1, ("itc",)
    tiny_config.eval.splits = ("test",)
    main.run(tiny_config, tmp_path / "run", "train")
    main.run(tiny_config, tmp_path / "run", "export")
    tiny_config.init_from = str(tmp_path / "run" / "export")
    main.run(tiny_config, tmp_path / "eval", "eval")
    trained, exported = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "eval")
    )
    assert trained["t2i"] == exported["t2i"] and trained["i2t"] == exported["i2t"]
    assert trained["step"] > 0
