"""Collects comparisons: one printed line per quantity, and which stored arrays were read."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


class Thinned(NamedTuple):
    """What a trimmed golden file keeps of a large array: every n-th value, and the shape."""

    values: np.ndarray  # [ceil(size / step)]
    step: int
    shape: tuple[int, ...]

    @property
    def name_suffix(self) -> str:
        """How the file names it: "key@9@384x128x3" is every ninth value of `key`."""
        return f"@{self.step}@{'x'.join(map(str, self.shape))}"


@functools.cache
def read_arrays(path: Path) -> dict[str, np.ndarray | Thinned]:
    """The arrays of an npz file by name; read once per process."""
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    arrays = {}
    for key, value in stored.items():
        name, *thinned = key.split("@")
        if thinned:
            step, shape = thinned
            value = Thinned(value, int(step), tuple(map(int, shape.split("x"))))
        arrays[name] = value
    return arrays


def at_stored_places(ours: Any, golden: Any) -> tuple[Any, Any] | None:
    """(ours, golden) at the places that golden keeps; None if the shapes differ."""
    if np.shape(ours) != shape_of(golden):
        return None
    if isinstance(golden, Thinned):
        return np.reshape(ours, -1)[:: golden.step], golden.values
    return ours, golden


def shape_of(golden: Any) -> tuple[int, ...]:
    return golden.shape if isinstance(golden, Thinned) else np.shape(golden)


def equal(ours: Any, golden: Any) -> bool:
    pair = at_stored_places(ours, golden) if isinstance(golden, Thinned) else (ours, golden)
    return pair is not None and np.array_equal(*pair)


class Arrays(Mapping):
    """An npz file that remembers which of its arrays were read."""

    def __init__(self, path: Path):
        self._arrays = read_arrays(path)
        self.name, self.unread = path.name, set(self._arrays)

    def __getitem__(self, key: str) -> Any:
        self.unread.discard(key)
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def under(self, prefix: str) -> dict[str, Any]:
        """{rest of the name: array} of all names that begin with `prefix`."""
        return {k.removeprefix(prefix): self[k] for k in self if k.startswith(prefix)}


class Report:
    """Prints a line per quantity that is compared, and keeps what failed."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.passed = self.failed = 0
        self.problems: list[str] = []  # "quantity: what is wrong"
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
            pair = at_stored_places(ours[name], value) if name in ours else None
            if pair is None:
                shape = np.shape(ours[name]) if name in ours else "missing"
                wrong.append(f"{name}: shape {shape}, golden {shape_of(value)}")
                continue
            got, want = (np.asarray(x, np.float64) for x in pair)
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
            if not equal(ours, golden)
        ]
        self._result(quantity, len(rows), "-", "-", "exact", differing)

    def attempt(self, name: str, group: "Callable[[Report], None]") -> None:
        """Runs a group of comparisons; if it breaks, that is a FAIL of its own."""
        try:
            group(self)
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
            self._result(name, 0, "-", "-", "-", [problem])

    def _row(self, name, count, abs_error, rel_error, tolerance, result) -> None:
        print(f"{name:46} {count:>6} {abs_error:>9} {rel_error:>9}  {tolerance:24} {result}")

    def _result(self, quantity, count, abs_error, rel_error, tolerance, wrong: list[str]) -> None:
        wrong = wrong or ([] if count else ["nothing was compared"])
        self.passed, self.failed = self.passed + (not wrong), self.failed + bool(wrong)
        self._row(quantity, count, abs_error, rel_error, tolerance, "FAIL" if wrong else "PASS")
        self.problems += [f"{quantity}: {problem}" for problem in wrong]
        for problem in wrong[:5]:
            print(f"    {problem}")
        if len(wrong) > 5:
            print(f"    and {len(wrong) - 5} more of {count}")

    def finish(self) -> bool:
        """Prints the summary; True if something was compared and nothing failed."""
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
        return self.passed > 0 and self.failed == 0
