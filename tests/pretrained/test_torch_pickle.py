"""Files as released training scripts write them are read, and nothing in a file is run."""

import argparse
import functools
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from tipr_jax.pretrained.files import read_state_dict

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(3).half()}


@pytest.fixture
def easydict(monkeypatch):
    """A class as in the package easydict, which is not installed where the file is read."""
    module = types.ModuleType("easydict_of_the_authors")

    class EasyDict(dict):
        def __setattr__(self, name, value):
            self[name] = value

    EasyDict.__module__, EasyDict.__qualname__ = module.__name__, "EasyDict"
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return EasyDict


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def same(found: dict[str, np.ndarray]) -> None:
    assert set(found) == set(WEIGHTS)
    for key, value in WEIGHTS.items():
        np.testing.assert_array_equal(found[key], value.float().numpy(), err_msg=key)


@pytest.mark.parametrize(
    "beside",
    [
        {"best": np.float64(0.73), "epoch": np.int64(3)},
        {"scores": np.arange(4.0)},
        {"args": argparse.Namespace(lr=1e-5, nested=argparse.Namespace(depth=2))},
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-5}]}},
        {"rng": (torch.get_rng_state(), np.random.get_state())},
        {"schedule": functools.partial},
    ],
    ids=["numbers", "array", "namespace", "optimiser", "random state", "function"],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_what_stands_beside_the_weights(tmp_path, beside, old_format):
    content = {"model": WEIGHTS, **beside}
    path = tmp_path / "best.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    if "schedule" in beside:  # a function of Python's library, even one that does no harm
        with pytest.raises(ValueError, match="functools.partial"):
            read_state_dict(path)
    else:
        same(read_state_dict(path))


def test_settings_of_a_class_that_is_not_installed(tmp_path, easydict, monkeypatch):
    config = easydict(image_res=384, nested=easydict(names=["a", "b"]))
    path = saved({"state_dict": WEIGHTS, "optimizer": {}, "config": config}, tmp_path / "a.pth")
    monkeypatch.delitem(sys.modules, "easydict_of_the_authors")
    same(read_state_dict(path))
    assert "easydict_of_the_authors" not in sys.modules


def test_a_number_among_the_tensors(tmp_path):
    same(
        read_state_dict(saved(WEIGHTS | {"best_top1": np.float64(0.6)}, tmp_path / "a.pth.tar.pth"))
    )


def test_parameters_and_an_ordered_dict(tmp_path):
    layer = torch.nn.Linear(3, 2)
    found = read_state_dict(saved({"model": layer.state_dict()}, tmp_path / "a.pth"))
    np.testing.assert_array_equal(found["weight"], layer.weight.detach().numpy())
    found = read_state_dict(saved(dict(layer.named_parameters()), tmp_path / "b.pth"))
    np.testing.assert_array_equal(found["bias"], layer.bias.detach().numpy())


def test_a_whole_module_says_how_to_save_it(tmp_path):
    path = saved(torch.nn.Linear(4, 4), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"torch.nn.modules.linear.Linear, .*state_dict\(\)"):
        read_state_dict(path)


class Hook:
    """An object that asks for a call when it is read."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain pickle", "torch file"])
@pytest.mark.parametrize(
    "call, arguments",
    [
        (os.system, ("touch {}",)),
        (eval, ("open('{}', 'w')",)),
        (exec, ("open('{}', 'w')",)),
        (open, ("{}", "w")),
        (subprocess.check_output, (["touch", "{}"],)),
        (getattr, (os, "system")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_run(tmp_path, call, arguments, wrapped):
    ran = tmp_path / "ran"
    fill = lambda x: [v.format(ran) for v in x] if isinstance(x, list) else x  # noqa: E731
    arguments = [a.format(ran) if isinstance(a, str) else fill(a) for a in arguments]
    if call is getattr:
        arguments = ["text", "upper"]  # a module cannot be pickled; the call itself must not happen
    content = {"model": WEIGHTS, "args": Hook(call, *arguments)}
    path = tmp_path / "evil.pth"
    if wrapped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(Hook(call, *arguments)))
    with pytest.raises(ValueError, match="not a readable torch checkpoint"):
        read_state_dict(path)
    assert not ran.exists()
