"""What every command shares: one-line mistakes, quiet libraries, the compilation cache."""

import itertools
import logging
import os
import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

EXAMPLE = "python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=runs/quickstart"


def parse(argv: list[str]) -> list[str]:
    """A `flags_parser` for `app.run`: sets the flags, returns what is left of `argv`.

    Raises:
      SystemExit: with one line, for an unknown option, value, config file, variant or field.
    """
    try:
        rest = flags.FLAGS(argv)  # --help prints the help and exits here
        problem = _config_problem(argv) or _call_problem(rest)
    except Exception as error:  # a field that does not exist is a KeyError or an AttributeError
        problem = _config_problem(argv) or (isinstance(error, flags.Error) and _last_line(error))
        if not problem:  # a mistake inside the config file: its author needs the traceback
            raise
    if problem:
        raise SystemExit(f"error: {problem}")
    return rest


def use_huge_pages() -> None:
    """Restarts this process once with huge pages for large allocations, which glibc reads at start.

    XLA on CPU takes its temporary buffers from malloc anew at every step; in 4 KiB pages, mapping
    them costs a third of the step (measured: 1.5x the speed with huge pages).
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def setup_process() -> None:
    """Logging and the compilation cache."""
    import jax

    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save
    logging.getLogger("jax").setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path.home() / ".cache" / "tipr_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _call_problem(rest: list[str]) -> str | None:
    if "workdir" in flags.FLAGS and not flags.FLAGS["workdir"].value:
        return f"--workdir is missing, the directory of the run; for example: {EXAMPLE}"
    if len(rest) > 1:
        return f"unexpected {' '.join(rest[1:])!r}; options start with --, for example: {EXAMPLE}"
    return None


def _config_problem(argv: list[str]) -> str | None:
    """What is wrong with --config and the --config.field=value options; None if nothing is."""
    given = _config_argument(argv)
    if not given:
        return f"--config is missing, the config file; for example: {EXAMPLE}"
    if not Path(given.partition(":")[0]).is_file():
        return (
            f"--config={given}: no such file; expected FILE.py[:variant], as in "
            f"--config=configs/irra.py:quickstart, seen from {Path.cwd()}"
        )
    try:
        config = flags.FLAGS["config"].parser.parse(given)
    except (ValueError, TypeError) as error:
        return f"--config={given}: {_last_line(error)}"
    except AttributeError as error:
        if "get_config" not in str(error):
            raise
        config = None
    if not isinstance(config, ConfigDict):
        return f"--config={given}: not a config file; expected get_config() to return a ConfigDict"
    problems = (_field_problem(config, argument) for argument in argv[1:])
    return next(filter(None, problems), None)


def _config_argument(argv: list[str]) -> str | None:
    """The last value of --config."""
    given = None
    for argument, following in itertools.pairwise([*argv, ""]):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            given = value if equals else following
    return given


def _field_problem(config: ConfigDict, argument: str) -> str | None:
    """Names the first part of --config.a.b=value that `config` does not have, and what it has."""
    if not (match := re.match(r"--?(?:no)?config\.([^=]+)", argument)):
        return None
    node, path = config, "config"
    for name in match[1].split("."):
        if not isinstance(node, ConfigDict):
            return f"{argument}: {path} is a value and has no fields; use --{path}=VALUE"
        if name not in node:
            fields = ", ".join(sorted(node)) or "no fields with this --config"
            return f"{argument}: {path} has no field {name!r}; it has {fields}"
        node, path = node[name], f"{path}.{name}"
    return None


def _last_line(error: Exception) -> str:
    """An error's own words; ml_collections puts the whole traceback before them."""
    return re.sub(r"^\w+Error: ", "", str(error).strip().splitlines()[-1])
