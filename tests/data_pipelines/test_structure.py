"""The modules of data_pipelines form no circle, and its packages ship what they need."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import setuptools

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "data_pipelines").rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """The modules of data_pipelines that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # "from package import module" needs the module, and of the package only that it exists.
            found |= names & MODULES.keys() or {node.module}
    return found & MODULES.keys()


def circle(name: str, above: tuple[str, ...], done: set[str]) -> tuple[str, ...]:
    if name in above:
        return (*above[above.index(name) :], name)
    if name not in done:
        for target in imports(MODULES[name]):
            if found := circle(target, (*above, name), done):
                return found
        done.add(name)
    return ()


def test_no_circle_of_imports():
    done: set[str] = set()
    assert [found for name in MODULES if (found := circle(name, (), done))] == []
    assert len(done) == len(MODULES) > 50


def test_every_package_and_readme_is_installed():
    packages = setuptools.find_packages(str(ROOT), include=["data_pipelines", "data_pipelines.*"])
    folders = {path.parent for path in MODULES.values()}
    assert {ROOT.joinpath(*name.split(".")) for name in packages} == folders
    readmes = set((ROOT / "data_pipelines").rglob("README.md"))
    patterns = ("README.md", "synth_pedes/README.md", "tfds/*/README.md")
    assert all(f'"{pattern}"' in (ROOT / "setup.py").read_text() for pattern in patterns)
    installed = {file for pattern in patterns for file in (ROOT / "data_pipelines").glob(pattern)}
    assert installed == readmes and len(readmes) == 6


def test_programs_start_without_tensorflow_and_warnings(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not to be imported')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for module in ("check", "columns.attributes", "manifest", "synth_pedes"):
        command = [sys.executable, "-W", "error", "-m", f"data_pipelines.{module}", "--help"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
