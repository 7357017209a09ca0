"""How parameters begin: shared ones taken, tables of positions resized, all else fresh."""

import dataclasses
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from clip_models import openai_clip

from configs import irra as configs
from configs import ivt as ivt_configs
from tipr_jax import checkpoints, experiment
from tipr_jax.models import get_method, irra
from tipr_jax.models.method import Method, from_positions
from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed, resize_relative_bias
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import openai_clip as clip
from tipr_jax.pretrained import start
from tipr_jax.train_state import define_model

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "irra": {},
    "ivt": dict(losses=("itc", "itm", "mlm"), levels=("sentence",), mask="none"),
    "bi_irra": {},
}
TABLES = {  # what init_positions=resize must change, and by which function
    "irra": {"image_encoder/pos_embed": resize_pos_embed},
    "ivt": {"encoder/pos_embed": resize_pos_embed, "encoder/type_embed": resize_pos_embed},
    "bi_irra": {"image_encoder/blocks/attn/position_bias": resize_relative_bias},
}


def tiny(name: str, **changes):
    return get_method(name).config.tiny(**(TINY[name] | changes))


def params_of(config, method: Method, seed: int = 0) -> dict:
    """Random parameters of a model, placed as a run places them."""
    init = define_model(method, config, ComputePolicy())[2]
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.device_put(jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes))


def begin(name, source, target, *, fields=None, as_official=False, source_method=None, loaded=None):
    """(parameters that `target` begins with, fresh ones, those of `source`), flat."""
    method, other = get_method(name), get_method(source_method or name)
    loaded = params_of(source, other, 1) if loaded is None else loaded
    fresh = params_of(target, method, 2)
    result = start.take_over(
        fresh,
        loaded,
        "here",
        fields=dataclasses.asdict(source) if fields is None else fields,
        source_method=source_method or name,
        method=method,
        target=target,
        as_official=as_official,
    )
    return flatten(result), flatten(fresh), flatten(loaded)


@pytest.mark.parametrize("name", TABLES)
def test_resize_changes_the_tables_of_positions_and_nothing_else(name):
    source, target = tiny(name, image_size=(32, 32)), tiny(name, image_size=(48, 16))
    grids = [
        patch_grid(c.image_size, c.patch, getattr(c, "stride", c.patch)) for c in (source, target)
    ]
    found, _, loaded = begin(name, source, target)
    for path, value in loaded.items():
        if path in TABLES[name]:
            value = TABLES[name][path](np.asarray(value), grids[1], grids[0])
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_clip_at_224_begins_as_convert_resizes_it():
    """224x224 -> 384x128 equals converting at 384x128; that run -> 256x128 is resized once more."""
    state = openai_clip(grid=14, patch=16)
    loaded, small = clip.convert(state, (224, 224), None)
    wanted, large = clip.convert(state, (384, 128), None)
    source, target = (irra.Config(**fields, losses=("sdm",)) for fields in (small, large))
    found, _, _ = begin("irra", source, target, fields=small, loaded=jax.device_put(loaded))
    assert set(found) == set(flatten(wanted))
    for path, value in flatten(wanted).items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)

    shorter = dataclasses.replace(target, image_size=(256, 128))
    after, _, run = begin("irra", target, shorter, loaded=unflatten(found))
    table = run.pop("image_encoder/pos_embed")
    assert len(table) == 1 + 24 * 8
    expected = resize_pos_embed(np.asarray(table), (16, 8), (24, 8))
    np.testing.assert_array_equal(after.pop("image_encoder/pos_embed"), expected)
    for path, value in run.items():
        np.testing.assert_array_equal(after[path], value, err_msg=path)


@pytest.mark.parametrize("name", TABLES)
def test_equal_grids_are_taken_as_they_are(name):
    config = tiny(name)
    found, _, loaded = begin(name, config, config)
    assert set(found) == set(loaded)
    for path, value in loaded.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_ivt_as_official_leaves_tables_fresh():
    source, target = tiny("ivt", image_size=(32, 32)), tiny("ivt", image_size=(48, 16))
    found, fresh, _ = begin("ivt", source, target, as_official=True)
    for path in TABLES["ivt"]:
        np.testing.assert_array_equal(found[path], fresh[path])


def test_ivt_as_official_from_imagenet_and_pretraining(tmp_path):
    """The released start: ImageNet's table of positions, resized; a random second table; else all
    of the pre-training. Both directories are named in `init_from`.
    """
    target = tiny("ivt", image_size=(48, 16))
    method = get_method("ivt")
    whole = params_of(tiny("ivt", image_size=(32, 32)), method, 3)
    imagenet = unflatten({k: v for k, v in flatten(whole).items() if "type_embed" not in k})
    pretraining = params_of(tiny("ivt", image_size=(16, 16)), method, 4)
    fields = {"imagenet": (32, 32), "pretraining": (16, 16)}
    for name, params in (("imagenet", imagenet), ("pretraining", pretraining)):
        config = dataclasses.asdict(tiny("ivt", image_size=fields[name]))
        checkpoints.save_params(tmp_path / name, params, {"method": "ivt", "model": config})
    config = ivt_configs.get_config("debug")
    config.init_positions = "as_official"
    config.init_from = f"{tmp_path / 'imagenet'},{tmp_path / 'pretraining'}"
    exp = types.SimpleNamespace(
        config=config, method=method, model_config=target, keys=[jax.random.key(5)],
        init=define_model(method, target, ComputePolicy())[2],
        param_shardings=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    )  # fmt: skip
    fresh = flatten(exp.init(exp.keys[0]))
    found = flatten(experiment.initial_params(exp))
    grids = [patch_grid(size, 8, 8) for size in ((48, 16), (32, 32))]
    table = np.asarray(flatten(whole)["encoder/pos_embed"])
    for path, value in flatten(pretraining).items():
        if path == "encoder/pos_embed":
            value = resize_pos_embed(table, *grids)
        if path == "encoder/type_embed":
            value = fresh[path]
        np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-7, err_msg=path)


def test_ivt_completes_a_part_of_the_trunk():
    config = tiny("ivt")
    whole = flatten(params_of(config, get_method("ivt"), 1))
    part = unflatten(
        {k: v for k, v in whole.items() if "type_embed" not in k and "fusion" not in k}
    )
    found, fresh, loaded = begin("ivt", config, config, loaded=part, fields={"width": config.width})
    for path in found:
        np.testing.assert_array_equal(found[path], loaded.get(path, fresh[path]), err_msg=path)


def test_text_positions_are_cut_and_never_invented():
    long, short = tiny("irra", text_length=16), tiny("irra", text_length=10)
    found, _, loaded = begin("irra", long, short)
    table = "text_encoder/pos_embed"
    np.testing.assert_array_equal(found[table], loaded[table][:10])
    with pytest.raises(ValueError, match="text_length is 16, but the source has 10"):
        begin("irra", short, long)


@pytest.mark.parametrize("name", ["irra", "bi_irra"])
def test_a_classifier_of_other_identities_stays_behind(name):
    losses = ("id", "sdm")
    source, target = (tiny(name, losses=losses, num_persons=n) for n in (8, 5))
    found, fresh, loaded = begin(name, source, target)
    np.testing.assert_array_equal(found["classifier/kernel"], fresh["classifier/kernel"])
    other = "image_encoder/patch_embed/kernel"
    np.testing.assert_array_equal(found[other], loaded[other])


@pytest.mark.parametrize("before", [("itc",), ("itc", "itm", "mim")], ids="-".join)
@pytest.mark.parametrize("after", [("itc",), ("itc", "itm", "mim")], ids="-".join)
def test_the_token_of_masked_patches_comes_and_goes(before, after):
    quiet = dict(itm_mask_target="none")
    source, target = (tiny("bi_irra", losses=losses, **quiet) for losses in (before, after))
    found, fresh, loaded = begin("bi_irra", source, target)
    assert ("image_encoder/mask_embed" in found) == ("mim" in after)
    for path, value in found.items():
        np.testing.assert_array_equal(value, loaded.get(path, fresh[path]), err_msg=path)


def test_one_projection_is_the_start_of_every_language():
    source = tiny("bi_irra")
    target = tiny("bi_irra", languages=("en", "zh", "fr"), separate_target_proj=True)
    found, _, loaded = begin("bi_irra", source, target)
    for kernel in found["target_proj/kernel"]:
        np.testing.assert_array_equal(kernel, loaded["target_proj/kernel"][0])


def test_a_missing_parameter_is_an_error():
    config = tiny("irra")
    loaded = params_of(config, get_method("irra"), 1)
    del loaded["image_encoder"]["patch_embed"]
    with pytest.raises(ValueError, match="image_encoder/patch_embed/kernel: nothing given"):
        begin("irra", config, config, loaded=loaded)


def test_other_sizes_are_an_error():
    source, target = tiny("irra", vision_depth=1), tiny("irra")
    with pytest.raises(ValueError, match=r"parameters differ .*\[1, .*given, \[2, "):
        begin("irra", source, target)


@dataclasses.dataclass(frozen=True)
class OtherConfig(irra.Config):
    """A method with CLIP towers, but not IRRA."""

    text_length: int = from_positions(10)


OTHER = dataclasses.replace(irra.METHOD, config=OtherConfig)


def test_a_converted_clip_starts_any_method_with_clip_towers(monkeypatch):
    monkeypatch.setattr(start, "get_method", {"irra": irra.METHOD, "other": OTHER}.get)
    start.check_kinship("irra", "other", "here")
    source, target = tiny("irra", losses=("id", "sdm")), OtherConfig.tiny(losses=("id", "sdm"))
    loaded = params_of(source, irra.METHOD, 1)
    fresh = params_of(target, OTHER, 2)
    result = start.take_over(
        fresh,
        loaded,
        "here",
        fields=dataclasses.asdict(source),
        source_method="irra",
        method=OTHER,
        target=target,
        as_official=False,
    )
    found = flatten(result)
    for path, value in flatten(loaded).items():
        expected = flatten(fresh)[path] if path.startswith("classifier") else value
        np.testing.assert_array_equal(found[path], expected, err_msg=path)


def test_methods_with_other_towers_are_refused():
    with pytest.raises(ValueError, match="checkpoint of 'ivt', the config is for 'irra'"):
        start.check_kinship("ivt", "irra", "here")


def converted(directory, **fields):
    checkpoints.save_params(directory, {"w": np.zeros(1)}, {"method": "irra", "model": fields})
    return directory


def test_a_typed_field_is_never_replaced(tmp_path):
    """An image size on the command line stays or is refused; one of the config file is replaced."""
    source = converted(tmp_path / "model", image_size=(64, 32), patch=8, text_length=20)
    config = configs.get_config("debug")
    taken = start.sized_like(config, source, training=True)
    assert taken.data.image_size == (64, 32) and taken.model.patch == 8
    typed = frozenset({"data.image_size"})
    with pytest.raises(ValueError, match=r"image_size=\(96, 32\) was given.*init_positions=resize"):
        start.sized_like(config, source, training=True, typed=typed)
    config.init_positions = "resize"
    taken = start.sized_like(config, source, training=True, typed=typed)
    assert taken.data.image_size == (96, 32) and taken.model.patch == 8
    config.data.image_size = (64, 32)
    assert start.sized_like(config, source, typed=typed).data.image_size == (64, 32)


def test_the_command_line_says_which_fields_were_typed(tmp_path):
    source = converted(tmp_path / "model", image_size=(64, 32), patch=8, text_length=20)
    command = [sys.executable, "-m", "tipr_jax.main", "--config=configs/irra.py:debug"]
    command += [f"--workdir={tmp_path / 'run'}", f"--config.init_from={source}"]
    result = subprocess.run(
        [*command, "--config.data.image_size=(96, 32)"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1 and "was given" in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()
