"""Who may import whom (the tree is the architecture), and what the core must live without."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "tipr_jax").rglob("*.py"))

# Package -> what it may import of the project at module level; everything else is a violation.
ALLOWED = {
    "tipr_jax.nn": {"tipr_jax.nn", "tipr_jax.sharding", "tipr_jax.precision"},
    "tipr_jax.losses": {"tipr_jax.losses"},
    "tipr_jax.metrics": {"tipr_jax.metrics"},
    "tipr_jax.text": {"tipr_jax.text"},
    "tipr_jax.preprocess": {"tipr_jax.preprocess"},
    "tipr_jax.augment": {"tipr_jax.augment", "tipr_jax.preprocess"},
    "tipr_jax.batch": set(),
    "tipr_jax.precision": set(),
    "tipr_jax.sharding": set(),
    "tipr_jax.optim": set(),
    "tipr_jax.models": {
        "tipr_jax.models",
        "tipr_jax.batch",
        "tipr_jax.nn",
        "tipr_jax.losses",
        "tipr_jax.augment",
        "tipr_jax.sharding",
        "tipr_jax.precision",
    },
    "tipr_jax.train_step": {"tipr_jax.models", "tipr_jax.train_state"},
    "configs": {"configs"},
}
FORBIDDEN_EVERYWHERE = {"tests", "scripts"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, nested: bool) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    out = []
    for node in nodes:
        if isinstance(node, ast.Import):
            out += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            out += [f"{node.module}.{a.name}" for a in node.names]
    return out


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", CORE + sorted((ROOT / "configs").glob("*.py")), ids=module_name)
def test_import_direction(path):
    name = module_name(path)
    allowed = next((v for k, v in ALLOWED.items() if inside(name, k)), None)
    for target in imports(path, nested=True):
        top = target.split(".")[0]
        assert top not in FORBIDDEN_EVERYWHERE, f"{name} imports {target}"
        if allowed is not None and top in ("tipr_jax", "data_pipelines", "configs"):
            assert any(inside(target, a) for a in allowed), f"{name} may not import {target}"
    if name.startswith("tipr_jax"):
        heavy = [t for t in imports(path, nested=False) if t.split(".")[0] in HEAVY]
        assert not heavy, f"{name} imports {heavy} at module level"


HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "data_pipelines", "configs"}


def test_core_imports_without_tensorflow_and_torch(tmp_path):
    for package in ("tensorflow", "tensorflow_datasets", "torch"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('poisoned')")
    modules = [module_name(p) for p in CORE if p.name != "__main__.py"]
    code = "import importlib\n" + "".join(f"importlib.import_module({m!r})\n" for m in modules)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_import_takes_seconds():
    code = "import tipr_jax.trainer, tipr_jax.models, tipr_jax.gallery.retriever, time; "
    code += "print(time.process_time())"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    # CPU time, whatever else runs. The bar is 3 s; ten leaves room for slow machines, not for TF.
    assert float(result.stdout) < 10
