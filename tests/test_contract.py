"""Generic code knows no paper: it names no method, no field of its config, none of its parameters.

Papers live in models/, configs/ and pretrained/<source>.py. Everything else is read here as source
code, so that the test works without importing it.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / "tipr_jax" / "models" / "method.py"

# Of pretrained/, what serves every source.
GENERIC_PRETRAINED = {
    "__init__.py",
    "converter.py",
    "files.py",
    "key_table.py",
    "start.py",
    "torch_pickle.py",
}
# Blocks that several papers share. Their arguments are called width or embed_dim, as the fields of
# configs are; so here only names of methods, and fields read from a config, count.
BLOCKS = {"nn", "losses", "augment", "metrics", "text", "preprocess"}
# Scripts that are about certain papers: experiments, the PyTorch twin of IRRA and its benchmark.
PAPER_SCRIPTS = {"ablation.py", "noise_table.py", "torch_twin.py", "torch_input.py"}
# A hint may show a command with one paper's config file, weights or address.
EXAMPLE = re.compile(r"configs/\w+\.py|--method=\w+|(runs|weights)/\w+|https?://\S+")
CONFIG_NAMES = {"config", "model_config", "cfg", "c", "model"}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def generic_files() -> list[Path]:
    core = [
        path
        for path in python_files("tipr_jax")
        if "models" not in path.relative_to(ROOT).parts
        and ("pretrained" not in path.parts or path.name in GENERIC_PRETRAINED)
    ]
    scripts = [
        path
        for path in python_files("scripts")
        if path.name not in PAPER_SCRIPTS and path.parent.name not in ("bench", "golden")
    ]
    return core + python_files("data_pipelines") + scripts


@functools.cache
def method_names() -> set[str]:
    return {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"}


def config_fields(paths: list[Path]) -> set[str]:
    """Names of the annotated fields of every class called Config or ModelConfig."""
    return {
        item.target.id
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name in ("Config", "ModelConfig")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


@functools.cache
def paper_fields() -> set[str]:
    """Fields of the papers' configs, without the ones that the contract has."""
    papers = [path for path in python_files("tipr_jax/models") if path != CONTRACT]
    return config_fields(papers) - (config_fields([CONTRACT]) if CONTRACT.exists() else set())


@functools.cache
def module_parameters() -> set[str]:
    """Top-level names of the papers' parameters: what their modules assign to self."""
    names = set()
    for path in python_files("tipr_jax/models"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in ast.walk(ast.Tuple(targets, ast.Store())) if targets else ():
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    names |= {target.attr} if target.value.id == "self" else set()
    # Words that mean something else, too.
    return names - {"kernel", "bias", "dtype", "dense", "ln", "fc", "encoder", "temperature"}


def is_config(node: ast.expr) -> bool:
    """Whether an expression is called like a model's config: config.model, exp.model_config, c."""
    return (isinstance(node, ast.Name) and node.id in CONFIG_NAMES) or (
        isinstance(node, ast.Attribute) and node.attr in ("model", "model_config")
    )


def docstrings(tree: ast.AST) -> set[int]:
    """Identities of the string nodes that are docstrings: prose may name a paper as its source."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            found.add(id(node.body[0].value))
    return found


def findings(source: str, *, block: bool) -> Iterator[str]:
    """What a generic file knows of a paper, as "line: word"."""
    methods, fields, parameters = method_names(), paper_fields(), module_parameters()
    distinctive = {name for name in fields if "_" in name}
    as_word = re.compile(rf"\b({'|'.join(sorted(methods | {'rde'}))})\b", re.IGNORECASE)
    tree = ast.parse(source)
    prose = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if match := as_word.search(EXAMPLE.sub("", node.value)):
                yield f"{line}: names the method {match[0]}"
            if not block and node.value.split("/")[0] in parameters | distinctive:
                yield f"{line}: knows {node.value!r}"
            for name in re.findall(r"config\.model\.(\w+)", node.value):
                if name in fields:
                    yield f"{line}: knows config.model.{name}"
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or node.name
            if name.split(".")[-1].lower() in methods:
                yield f"{line}: names the method {name}"
            if isinstance(node, ast.Attribute) and is_config(node.value) and name in fields:
                yield f"{line}: reads the field {name}"
            elif not block and isinstance(node, ast.Attribute) and name in distinctive:
                yield f"{line}: knows the field {name}"


@pytest.mark.parametrize("path", generic_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_generic_code_knows_no_paper(path):
    block = bool(BLOCKS & set(path.relative_to(ROOT).parts[:2]))
    found = list(findings(path.read_text(), block=block))
    assert not found, f"{path.relative_to(ROOT)} knows a paper:\n  " + "\n  ".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "if config.method == 'ivt': pass",
        "from tipr_jax.models import irra",
        "size = getattr(model_config, 'itm_group_size', 1)",
        "size = exp.config.model.itm_group_size",
        "can = 'itm_head' in params",
        "n = params['classifier']['bias'].shape[0]",
        "raise ValueError('use --config.micro_batches=2 (IRRA, IVT)')",
        "hint = '--config.model.mim_ratio=0.5'",
        "depth = config.model.vision_depth",
    ],
)
def test_the_test_finds_what_it_looks_for(source):
    assert list(findings(source, block=False))


def test_there_is_something_to_look_for():
    assert {"irra", "ivt", "bi_irra"} <= method_names()
    assert {"itm_group_size", "mlm_prob", "fusion_depth"} <= paper_fields()
    assert {"itm_head", "classifier", "image_encoder"} <= module_parameters()
    assert not {"image_size", "losses", "vocab_size"} & paper_fields()
