"""Every path option: ~ is the home directory, and an address is refused before any work.

What takes the address of a bucket is in `test_bucket.py`.
"""

from pathlib import Path

import pytest

from configs import irra
from tipr_jax import convert, main
from tipr_jax.paths import BUCKET_FIELDS, FIELDS, local_path, place, with_local_paths


def config_with(name: str, value: str):
    config = irra.get_config("debug")
    section, _, field = name.rpartition(".")
    holder = config[section] if section else config
    holder[field] = (value,) if isinstance(holder[field], tuple) else value
    return config, holder


@pytest.mark.parametrize("name", FIELDS)
def test_the_home_directory(name):
    config, _ = config_with(name, "~/somewhere")
    found = with_local_paths(config)
    section, _, field = name.rpartition(".")
    value = (found[section] if section else found)[field]
    assert value in (str(Path.home() / "somewhere"), (str(Path.home() / "somewhere"),))


@pytest.mark.parametrize(
    "name, scheme",
    [(name, "s3") for name in FIELDS]
    + [(name, "gs") for name in FIELDS if name not in BUCKET_FIELDS],
)
def test_an_address_in_the_config(name, scheme, tmp_path):
    config, _ = config_with(name, f"{scheme}://bucket/data")
    with pytest.raises(ValueError, match=f"--config.{name}={scheme}://bucket/data: an address"):
        main.run(config, tmp_path / "run", "train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["s3://bucket/run", "az://bucket/run", "https://host/run"])
def test_an_address_as_workdir(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--workdir=.*: an address"):
        main.run(irra.get_config("debug"), Path(address), "train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_an_address_to_convert(option, capsys):
    given = {"--input": "a.pt", "--output": "b"} | {option: "gs://bucket/c"}
    with pytest.raises(SystemExit, match=f"error: {option}=gs:/+bucket/c: an address"):
        convert.main(["--method=irra", *(f"{key}={value}" for key, value in given.items())])


@pytest.mark.parametrize("given", ["C:/photos", "a:b/c", "./x", "/x", "weights/gs", "x~"])
def test_other_paths_stay(given):
    assert local_path(given, "--workdir") == place(given) == Path(given)


def test_empty_paths_stay_empty():
    config = irra.get_config("debug")
    config.data.vocab = config.init_from = ""
    found = with_local_paths(config)
    assert found.data.vocab == found.init_from == ""
