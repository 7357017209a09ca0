"""Who may import whom (the tree is the architecture), and what the core must live without."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "tipr_jax").rglob("*.py"))
PROJECT = ("tipr_jax", "data_pipelines", "configs")
FILES = [path for top in PROJECT for path in (ROOT / top).rglob("*.py")]

# Module or package -> what it may import of the project besides itself, at any level of nesting.
# The longest matching name counts, and every module must have one.
CORE_LAWS = {
    "": set(),  # tipr_jax/__init__.py
    "batch": set(),
    "bucket": set(),
    "command_line": {"paths"},
    "distributed": set(),
    "interrupt": set(),
    "languages": set(),
    "param_tree": set(),
    "paths": {"bucket", "hub"},
    "hub": set(),
    "precision": set(),
    "sharding": set(),
    # Blocks, and the papers made of them.
    "augment": set(),
    "losses": set(),
    "metrics": set(),
    "preprocess": {"paths"},
    "text": {"bucket", "paths"},
    "nn": {"precision", "sharding"},
    "models": {"augment", "batch", "losses", "nn", "param_tree", "precision", "sharding"},
    "pretrained": {"nn.pos_embed", "param_tree"},
    "pretrained.start": {
        "languages",
        "models",
        "param_tree",
        "pretrained",
        "run_files",
        "sharding",
    },
    "convert": {
        *("checkpoints", "command_line", "interrupt", "models", "param_tree", "paths"),
        *("pretrained", "run_files"),
    },
    "optim": {"param_tree"},
    # A run: its directory, its results, its state, its step.
    "data": {"batch", "text"},
    "shutdown": {"distributed", "interrupt"},
    "run_lock": {"bucket"},
    "run_identity": {"data", "run_files", "text.language"},
    "run_files": {"distributed", "languages", "paths"},
    "metric_writer": {"bucket", "paths", "run_files"},
    "meter": {"metric_writer", "optim"},
    "results": {"languages", "paths", "run_files"},
    "result_table": {"results"},
    "report": {"bucket", "paths", "preprocess", "result_table", "results", "run_files"},
    "train_state": {"models", "param_tree", "precision"},
    "train_step": {"models.method", "train_state"},
    "checkpoints": {"bucket", "distributed", "paths", "results", "run_files", "train_state"},
    "experiment": {
        *("batch", "checkpoints", "languages", "models", "optim", "precision", "pretrained.start"),
        *("run_files", "sharding", "train_state", "train_step"),
    },
    "inference": {
        *("__version__", "batch", "checkpoints", "experiment", "languages", "metrics", "models"),
        *("param_tree", "paths", "precision", "preprocess", "run_files", "sharding", "text"),
        *("command_line", "hub", "interrupt", "pretrained.converter", "result_table"),
        "train_state",
    },
    "evaluator": {
        *("batch", "data", "distributed", "experiment", "inference", "metrics", "models.method"),
        *("report", "results", "sharding"),
    },
    "epoch_hook": {
        *("data", "evaluator", "experiment", "models.method", "sharding", "train_state"),
    },
    "analysis": {
        *("experiment", "models.method", "precision", "sharding", "train_state", "train_step"),
    },
    "analysis.chips": set(),
    "analysis.hlo": set(),
    "analysis.collectives": {"analysis.hlo"},
    "analysis.traffic": {"analysis.chips", "analysis.hlo"},
    "analysis.aot": {"analysis", "experiment", "trainer"},
    "trainer": {
        *(
            "analysis.cost",
            "batch",
            "checkpoints",
            "data",
            "distributed",
            "epoch_hook",
            "evaluator",
        ),
        *(
            "experiment",
            "meter",
            "optim",
            "metric_writer",
            "results",
            "run_files",
            "run_identity",
            "sharding",
        ),
        *("shutdown", "text", "train_state", "train_step"),
    },
    "interpolation": {"models.method"},
    # Commands.
    "gallery": {
        *("command_line", "inference", "interrupt", "metrics", "paths", "preprocess", "report"),
        *("data", "sharding"),
    },
    "serving": {
        *("__version__", "command_line", "gallery", "inference", "interrupt", "paths"),
        *("preprocess", "text.language"),
    },
    "main": {
        *("checkpoints", "command_line", "data", "distributed", "evaluator", "experiment"),
        *("inference", "interpolation", "languages", "metrics", "models", "paths"),
        *("pretrained.start", "report", "text"),
        *("result_table", "results", "run_files", "run_lock", "shutdown", "train_state", "trainer"),
        *("bucket", "interrupt"),
    },
}
DATA_LAWS = {
    "": set(),  # data_pipelines/__init__.py
    "data_config": set(),
    "random_streams": set(),
    "datasets": set(),
    "images": {"data_config", "datasets"},
    "columns": {"datasets", "random_streams"},
    "columns.attributes": {"columns", "datasets", "tipr_jax.command_line", "tipr_jax.interrupt"},
    "manifest": {"datasets", "tipr_jax.command_line", "tipr_jax.interrupt"},
    "ldat": {"datasets", "synth_pedes", "tipr_jax.command_line", "tipr_jax.interrupt"},
    "ldat.ray_engine": {"ldat", "tipr_jax.gallery.ray_cluster"},
    "noise": {"datasets", "tipr_jax.command_line", "tipr_jax.interrupt"},
    "sampler": {"data_config", "datasets"},
    "vocabulary": {"datasets"},
    "pipeline": {"columns", "data_config", "datasets", "images", "sampler"},
    "data_module": {
        *("columns", "data_config", "datasets", "manifest", "pipeline", "random_streams"),
        "synth_pedes",
    },
    "check": {
        *("check_entries", "datasets", "manifest", "tipr_jax.command_line", "tipr_jax.interrupt"),
    },
    "check_entries": {"manifest"},
    "synth_pedes": {"datasets", "tipr_jax.command_line", "tipr_jax.interrupt"},
    "synth_pedes.synth_pedes_dataset_builder": {"synth_pedes", "tfds.base"},
    "tfds": {"datasets", "images"},
}
# What every part of the data pipelines may use of the core.
DATA_USES = {
    f"tipr_jax.{name}" for name in ("batch", "bucket", "languages", "paths", "preprocess", "text")
}
# main.py is where the engine meets the data.
MAIN_USES = {
    f"data_pipelines.{name}"
    for name in ("check", "data_config", "data_module", "datasets.layouts", "vocabulary")
}


def qualified(package: str, laws: dict[str, set[str]], more: set[str]) -> dict[str, set[str]]:
    """The laws with full names of modules, and with what all of them may use."""
    return {
        f"{package}.{name}".rstrip("."): {
            target if target.startswith("tipr_jax.") else f"{package}.{target}"
            for target in targets
        }
        | more
        for name, targets in laws.items()
    }


ALLOWED = {
    **qualified("tipr_jax", CORE_LAWS, set()),
    **qualified("data_pipelines", DATA_LAWS, DATA_USES),
    "configs": {"tipr_jax.models"},
}
# `calibrate` measures on a labelled data set.
ALLOWED["tipr_jax.gallery.commands"] = ALLOWED["tipr_jax.gallery"] | {
    "tipr_jax.gallery",
    "data_pipelines.datasets.annotations",
}
ALLOWED["tipr_jax.main"] |= MAIN_USES | {"tipr_jax.__version__"}


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


def law(name: str) -> set[str]:
    """What a module may import besides its own room: the law with the longest matching name."""
    matching = [prefix for prefix in ALLOWED if inside(name, prefix)]
    # The law of a package's top stands for its __init__.py alone.
    matching = [p for p in matching if p not in ("tipr_jax", "data_pipelines") or p == name]
    assert matching, f"{name} has no law; add it to the table"
    room = max(matching, key=len)
    return ALLOWED[room] | ({room} if room != "tipr_jax" else set())


@pytest.mark.parametrize("path", sorted(FILES), ids=module_name)
def test_import_direction(path):
    name = module_name(path)
    allowed = law(name)
    for target in imports(path, nested=True):
        top = target.split(".")[0]
        assert top not in ("tests", "scripts"), f"{name} imports {target}"
        if top in PROJECT:
            assert any(inside(target, a) for a in allowed), f"{name} may not import {target}"
    if name.startswith("tipr_jax"):
        heavy = [t for t in imports(path, nested=False) if t.split(".")[0] in HEAVY]
        assert not heavy, f"{name} imports {heavy} at module level"


def test_one_paper_does_not_import_another():
    papers = {p.stem for p in (ROOT / "tipr_jax" / "models").iterdir()} - {"__init__", "method"}
    for path in (ROOT / "tipr_jax" / "models").rglob("*.py"):
        for target in imports(path, nested=True):
            parts = target.split(".")
            if parts[:2] == ["tipr_jax", "models"] and parts[2] in papers:
                assert inside(module_name(path), ".".join(parts[:3])), f"{path}: {target}"


def import_graph() -> dict[str, set[str]]:
    """Module -> modules that it imports, at any level of nesting. An import of a package counts."""
    modules = {module_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        edges = set()
        for target in imports(path, nested=True):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            edges |= {target} if target else set()
        graph[module_name(path)] = edges - {module_name(path)}
    return graph


def test_imports_run_in_no_circle():
    graph = import_graph()
    assert len(graph) > 100
    # TopologicalSorter names the modules of a circle in its error.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)


HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "data_pipelines", "configs"}


def test_core_imports_without_tensorflow_and_torch(tmp_path):
    for package in ("tensorflow", "tensorflow_datasets", "torch"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('poisoned')")
    modules = [module_name(p) for p in CORE if p.name != "__main__.py"]
    code = "import importlib\n" + "".join(f"importlib.import_module({m!r})\n" for m in modules)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that are loaded after `code` ran in a new interpreter."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return set(result.stdout.split())


def test_training_and_search_load_no_heavy_package_at_import():
    loaded = loaded_by("import tipr_jax.trainer, tipr_jax.models, tipr_jax.gallery.retriever")
    assert "jax" in loaded
    # The report draws with matplotlib only when there is one to draw; tensorboard likewise.
    assert not loaded & {"tensorflow", "tensorflow_datasets", "torch", "matplotlib", "tensorboard"}


def test_help_loads_little():
    """--help answers in two seconds because it loads neither models nor checkpoints."""
    loaded = loaded_by("import tipr_jax.main")
    assert "absl" in loaded
    assert not loaded & {"flax", "orbax", "optax", "tensorflow", "torch", "PIL", "matplotlib"}
