"""Collects comparisons: one printed line per quantity, and which stored arrays were read."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Limit = Callable[[np.ndarray], Any]  # golden array -> largest allowed absolute error


def absolute(x: float) -> Limit:
    return lambda golden: x


def relative(x: float) -> Limit:
    return lambda golden: x * np.abs(golden)


def of_largest(x: float, floor: float = 0.0) -> Limit:
    """x times the largest entry of the array, plus `floor`."""
    return lambda golden: x * np.max(np.abs(golden), initial=0.0) + floor


def loss(x: float) -> Limit:
    return lambda golden: x * np.maximum(1.0, np.abs(golden))


EXACT = absolute(0.0)


class Arrays(Mapping):
    """An npz file that remembers which of its arrays were read."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self._arrays = dict(file)
        self.name, self.unread = path.name, set(self._arrays)

    def __getitem__(self, key: str) -> np.ndarray:
        self.unread.discard(key)
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """{rest of the name: array} of all names that begin with `prefix`."""
        return {k.removeprefix(prefix): self[k] for k in self if k.startswith(prefix)}


class Report:
    """Prints a line per quantity; `finish` prints the summary and says whether all passed."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.passed = self.failed = 0
        self.absent: list[str] = []
        self.worst = (0.0, "")  # error / limit
        self._files: dict[str, Arrays] = {}
        self._row("quantity", "arrays", "max abs", "max rel", "tolerance", "result")

    def arrays(self, name: str) -> Arrays | None:
        """The npz file, or None (listed as absent)."""
        if name not in self._files:
            if not self._present(name):
                return None
            self._files[name] = Arrays(self.directory / name)
        return self._files[name]

    def json(self, name: str) -> Any:
        """The content of the json file, or None (listed as absent)."""
        if not self._present(name):
            return None
        return json.loads((self.directory / name).read_text(encoding="utf-8"))

    def _present(self, name: str) -> bool:
        present = (self.directory / name).is_file()
        if not present and name not in self.absent:
            self.absent.append(name)
        return present

    def compare(
        self,
        quantity: str,
        ours: Mapping[str, Any],
        golden: Mapping[str, Any],
        limit: Limit,
        tolerance: str,
    ) -> None:
        """One line: every array of `golden` against the one of that name in `ours`."""
        abs_error = rel_error = 0.0
        wrong = [f"{name} is not in the golden data" for name in ours if name not in golden]
        for name, value in golden.items():
            want = np.asarray(value, np.float64)
            got = np.asarray(ours[name], np.float64) if name in ours else np.nan
            if np.shape(got) != want.shape:
                wrong.append(f"{name}: shape {np.shape(got)}, golden {want.shape}")
                continue
            error = np.abs(got - want)
            allowed = np.broadcast_to(limit(want), want.shape)
            if not np.all(error <= allowed):  # NaN fails too
                wrong.append(f"{name}: off by {np.max(error, initial=0):.3g}")
            abs_error = max(abs_error, np.max(error, initial=0.0))
            nonzero = np.abs(want) > 0
            rel_error = max(rel_error, np.max(error[nonzero] / np.abs(want[nonzero]), initial=0.0))
            used = np.max(error[allowed > 0] / allowed[allowed > 0], initial=0.0)
            self.worst = max(self.worst, (float(used), f"{quantity} {name}"))
        errors = f"{abs_error:.2e}", f"{rel_error:.2e}"
        self._result(quantity, len(golden), *errors, tolerance, wrong)

    def exact(self, quantity: str, rows: Mapping[str, tuple[Any, Any]]) -> None:
        """One line: every (ours, golden) pair must be equal."""
        differing = [
            f"{name}: {str(ours)[:60]} != {str(golden)[:60]}"
            for name, (ours, golden) in rows.items()
            if not np.array_equal(ours, golden)
        ]
        self._result(quantity, len(rows), "-", "-", "exact", differing)

    def attempt(self, part: Callable, *args: Any) -> Any:
        """part(report, *args); if it breaks, that is a FAIL of its own and the result None."""
        try:
            return part(self, *args)
        except Exception as error:
            self.error(part.__name__, f"{type(error).__name__}: {str(error)[:200]}")

    def error(self, quantity: str, problem: str) -> None:
        """A comparison that could not be made."""
        self._result(quantity, 0, "-", "-", "-", [problem])

    def _row(self, name, count, abs_error, rel_error, tolerance, result) -> None:
        print(f"{name:46} {count:>6} {abs_error:>9} {rel_error:>9}  {tolerance:24} {result}")

    def _result(self, quantity, count, abs_error, rel_error, tolerance, wrong: list[str]) -> None:
        self.passed, self.failed = self.passed + (not wrong), self.failed + bool(wrong)
        self._row(quantity, count, abs_error, rel_error, tolerance, "FAIL" if wrong else "PASS")
        for problem in wrong[:5]:
            print(f"    {problem}")
        if len(wrong) > 5:
            print(f"    and {len(wrong) - 5} more of {count}")

    def finish(self) -> bool:
        for name in self.absent:
            print(f"absent: {name}")
        for file in self._files.values():
            if file.unread:
                names = sorted(file.unread)
                print(f"not compared: {file.name} {', '.join(names[:6])} ({len(names)} in all)")
        print(
            f"{self.passed} PASS, {self.failed} FAIL, {len(self.absent)} files absent; "
            f"closest to its limit: {self.worst[1]} at {self.worst[0]:.1%}"
        )
        return self.failed == 0
