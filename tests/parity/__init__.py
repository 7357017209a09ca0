"""The comparisons with golden arrays: one folder per method, one set for all who compare.

pytest runs them on the trimmed copies in tests/golden (test_parity.py), `scripts/check_golden.py`
on whole golden directories. A method is a package in this folder with a function

    groups(report) -> {name: function(report)}

of which each function compares some quantities through `Report.compare` and `Report.exact`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.report import Report

METHODS = tuple(sorted(file.parent.name for file in Path(__file__).parent.glob("*/__init__.py")))


def groups_of(method: str, report: "Report") -> dict[str, Callable[["Report"], None]]:
    """The comparisons of a method with the golden directory of `report`, in printing order."""
    return importlib.import_module(f"parity.{method}").groups(report)
