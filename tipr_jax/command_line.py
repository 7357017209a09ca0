"""What every command shares: one-line mistakes, quiet libraries, the compilation cache."""

import argparse
import contextlib
import difflib
import importlib.util
import itertools
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from tipr_jax import paths

EXAMPLE = "python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=runs/quickstart"
CONFIG_OPTIONS = ("--config", "-config")


def parse(argv: list[str]) -> list[str]:
    """A `flags_parser` for `app.run`: sets the flags, returns what is left of `argv`.

    Raises:
      SystemExit: with one line, for an unknown option, value, config file, variant or field.
    """
    argv = _with_installed_config(argv)
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


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line; example: a call that works, shown with it."""

    def __init__(self, *args, example: str, **kwargs):
        self.example = example
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; for example: {self.example}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):  # pyright: ignore
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._of_command(given)
            known = [option for action in parser._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            parser.error(f"unknown argument {unknown[0]!r}{hint}")
        return given

    def _of_command(self, given: argparse.Namespace) -> argparse.ArgumentParser:
        """The parser of the command that was given, this one if there are no commands."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices.get(getattr(given, action.dest), self)
        return self


def count(text: str) -> int:
    """A whole number of at least 1, for `add_argument(type=...)`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


@contextlib.contextmanager
def mistakes_in_one_line(traceback: bool = False) -> Iterator[None]:
    """Turns an error that the user can mend into an exit with one line; other errors pass.

    traceback: let all of them pass.
    """
    if traceback:
        yield
        return
    try:
        yield
    except BrokenPipeError:  # the reader of the output, as in `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError, ModuleNotFoundError) as error:  # the last: an extra is missing
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")


def check_devices() -> None:
    """Starts JAX's devices. Raises ValueError where JAX_PLATFORMS names devices that are not there.

    To be called after `distributed.initialize`, which JAX must see first.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["no such backend is installed"])[0]
        raise ValueError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: no such device here ({reason}); "
            "unset it, or install JAX for the device, as in pip install 'tipr_jax[cuda]'"
        ) from None


def tolerant_output() -> None:
    """Prints every string: characters that the terminal or UTF-8 lacks are escaped.

    File names are bytes on Linux; Python holds those that are no UTF-8 as lone surrogates.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def check_platform() -> None:
    """Exits with one line on a system that training does not run on."""
    try:
        import fcntl  # noqa: F401  # locks of files, on Unix
    except ImportError:
        sys.exit(
            "error: training runs on Linux and macOS; on Windows use WSL 2 "
            "(https://learn.microsoft.com/windows/wsl/install)"
        )


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

    tolerant_output()
    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
    # Orbax narrates every save, and logs the traceback of every error that it raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    caches = paths.cache_directory()
    if caches.parent == Path(tempfile.gettempdir()):  # no home: matplotlib would warn of its own
        os.environ.setdefault("MPLCONFIGDIR", str(caches / "matplotlib"))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(caches / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
            f"--config={paths.no_such_path(given.partition(':')[0], 'file')}; expected "
            f"FILE.py[:variant], as in --config=configs/irra.py:quickstart, seen from {Path.cwd()}"
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


def _with_installed_config(argv: list[str]) -> list[str]:
    """`argv` in which --config=configs/NAME.py is the installed file where there is none here.

    So the commands of the README work in any directory, without a checkout.
    """
    given = _config_argument(argv)
    path, colon, variant = (given or "").partition(":")
    if not path or Path(path).exists() or Path(path).parts[:1] != ("configs",):
        return argv
    spec = importlib.util.find_spec("configs")
    places = [Path(place).parent for place in (spec and spec.submodule_search_locations) or ()]
    for installed in (place / path for place in places):
        if installed.is_file():
            whole = f"{installed}{colon}{variant}"
            options = {given: whole} | {f"{o}={given}": f"{o}={whole}" for o in CONFIG_OPTIONS}
            return [options.get(argument, argument) for argument in argv]
    return argv


def _config_argument(argv: list[str]) -> str | None:
    """The last value of --config."""
    given = None
    for argument, following in itertools.pairwise([*argv, ""]):
        name, equals, value = argument.partition("=")
        if name in CONFIG_OPTIONS:
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
