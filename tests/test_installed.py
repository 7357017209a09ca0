"""What a wheel holds, and that the README's commands work from it in any directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tipr_jax", "data_pipelines", "configs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The contents of a wheel of this checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=without)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    return target


def run(installed: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)


def test_a_wheel_holds_every_file_of_the_packages(installed):
    """Templates, styles, vocabularies and licences as well as modules."""
    for name in PACKAGES:
        files = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        want = {path for path in files if "__pycache__" not in path.parts}
        missing = sorted(str(path) for path in want if not (installed / path).is_file())
        assert not missing
    assert not (installed / "tests").exists() and not (installed / "scripts").exists()
    done = run(installed, ROOT.parent, "site")  # the copy is imported, not this checkout
    assert done.returncode == 0 and str(installed) in done.stdout
    (facts,) = installed.glob("tipr_jax-*.dist-info/METADATA")
    assert "Provides-Extra: serve" in facts.read_text()


@pytest.mark.parametrize(
    "config", ["--config=configs/irra.py:debug", "--config configs/ivt.py:debug"]
)
def test_a_config_of_the_package_is_found_where_no_checkout_is(installed, tmp_path, config):
    options = [*config.split(" "), "--workdir=run", "--mode=eval", "--config.dry_run"]
    done = run(installed, tmp_path, "tipr_jax.main", *options)
    assert done.returncode == 0 and "nothing was run" in done.stdout, done.stderr
    assert (tmp_path / "data").is_dir()  # the generated pedestrians lie here, not in the package


def test_a_file_in_this_directory_goes_first(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "irra.py").write_text("def get_config(variant=''):\n    return 3\n")
    options = ["--config=configs/irra.py:debug", "--workdir=run"]
    done = run(installed, tmp_path, "tipr_jax.main", *options)
    assert "not a config file" in done.stderr


@pytest.mark.parametrize("name", ["configs/no_such.py", "my_configs/irra.py", "irra.py"])
def test_other_paths_are_looked_up_here_alone(installed, tmp_path, name):
    done = run(installed, tmp_path, "tipr_jax.main", f"--config={name}", "--workdir=run")
    assert done.returncode == 1 and f"--config={name}: no such file" in done.stderr


def test_the_page_of_the_service_is_installed(installed, tmp_path):
    done = run(installed, tmp_path, "tipr_jax.serving", "--help")
    assert done.returncode == 0 and "--gallery" in done.stdout
