"""Every comparison with golden arrays, on the trimmed copies in tests/golden: a test per group.

quantities.json beside the arrays says how many quantities of each group the copy holds, so that
none is lost unseen; 0 means that the copy leaves the group's files out.
"""

import json
from pathlib import Path

import pytest

import parity
from parity.report import Report

GOLDEN = Path(__file__).parents[1] / "golden"


def quantities(method: str) -> dict[str, int]:
    return json.loads((GOLDEN / method / "quantities.json").read_text())


@pytest.mark.parametrize(
    "method, group", [(method, group) for method in parity.METHODS for group in quantities(method)]
)
def test_parity(method, group):
    report = Report(GOLDEN / method)
    parity.groups_of(method, report)[group](report)
    assert not report.problems, "\n".join(report.problems)
    expected = quantities(method)[group]
    assert report.passed == expected or not expected
    assert not report.absent or not expected


@pytest.mark.parametrize("method", parity.METHODS)
def test_every_group_is_listed(method):
    groups = parity.groups_of(method, Report(GOLDEN / method))
    assert list(quantities(method)) == list(groups)
