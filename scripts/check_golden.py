"""Compares the project with golden arrays: `python scripts/check_golden.py irra DIR`.

Prints one line per quantity and exits with 1 if any fails. Files of the layout that DIR lacks are
listed as absent. The layout is described in the README.md beside the arrays. The comparisons lie
in tests/parity, one folder per method; the tests run the same ones on trimmed copies.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Also runs from a checkout that is not installed; the comparisons lie beside the tests.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import parity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=parity.METHODS)
    parser.add_argument("directory", type=Path)
    args = parser.parse_args()
    if not args.directory.is_dir():
        sys.exit(f"error: {args.directory} is not a directory")
    # The golden arrays are float32 from a CPU; other devices differ in the last digits.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    from parity.report import Report

    report = Report(args.directory)
    for name, group in parity.groups_of(args.method, report).items():
        report.attempt(name, group)
    sys.exit(0 if report.finish() else 1)


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
