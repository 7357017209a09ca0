"""Tensor files as people have them: any name, folders, pieces, pointers, damaged numbers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tipr_jax.pretrained.files import read_state_dict

WEIGHTS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 2), np.float32)}


def same(found) -> None:
    assert set(found) == set(WEIGHTS)
    for key, value in WEIGHTS.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.fixture
def safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["MODEL.SAFETENSORS", "weights", "model.bin", "model.ckpt"])
def test_content_decides_and_not_the_name(safetensors, tmp_path, name):
    same(read_state_dict(shutil.copy(safetensors, tmp_path / name)))


@pytest.mark.parametrize("name", ["model.ckpt", "MODEL.PTH", "checkpoint.tar", "a.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_any_name(tmp_path, name, zipped):
    tensors = {key: torch.tensor(value) for key, value in WEIGHTS.items()}
    torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
    same(read_state_dict(tmp_path / name))


def test_a_folder(safetensors):
    (safetensors.parent / "config.json").write_text("{}")
    same(read_state_dict(safetensors.parent))
    torch.save({}, safetensors.parent / "pytorch_model.bin")  # the same weights once more
    same(read_state_dict(safetensors.parent))


def pieces(folder):
    index = {}
    for number, (key, value) in enumerate(WEIGHTS.items(), 1):
        index[key] = f"model-0000{number}-of-00002.safetensors"
        save_file({key: value}, folder / index[key])
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def test_pieces_with_an_index(tmp_path):
    same(read_state_dict(pieces(tmp_path)))


def test_one_piece_alone_and_a_missing_piece(tmp_path):
    first = pieces(tmp_path) / "model-00001-of-00002.safetensors"
    with pytest.raises(ValueError, match="one of 2 pieces; give the folder"):
        read_state_dict(first)
    first.unlink()
    with pytest.raises(FileNotFoundError, match="names model-00001-of-00002.*missing"):
        read_state_dict(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one tensor file in it, found none"):
        read_state_dict(tmp_path)


def test_a_pointer_of_git_lfs(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match="git lfs pull"):
        read_state_dict(tmp_path / "model.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(tmp_path, value):
    save_file(WEIGHTS | {"c": np.array([1, value], np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="c holds NaN or infinite values"):
        read_state_dict(tmp_path / "a.safetensors")


def test_nothing_but_zeros(tmp_path):
    save_file({key: 0 * value for key, value in WEIGHTS.items()}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="every tensor is zero"):
        read_state_dict(tmp_path / "a.safetensors")
