"""What a benchmark times, how, and the row of figures that comes out."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]
SETTLE_SECONDS = 0.3  # longer than ONNX Runtime's and OpenMP's threads wait busily


@dataclasses.dataclass
class Case:
    """One line of the table.

    Attributes:
      suite, name: where the line belongs and what it is called.
      model, batch: what was run ("" and 0 where neither applies).
      rows: pairs, images or queries that one call handles.
      ours: does the work once and waits for its end.
      twins: the same work in PyTorch, by recipe.
      flops: floating-point operations of one call of ours, for the utilisation.
      rounds: at most this many timed rounds (slow cases).
      warm_up: call each side once before the timing; False where the first call is the point.
      settle: wait, and call a side untimed before each timed call. Calls of one program follow each
        other in use. The first one after another program's pays for the memory that the other one
        had, and shares the cores with its threads, which go on waiting busily for a while.
      extra: other figures for the row; the calls may add to them.
    """

    suite: str
    name: str
    rows: int
    ours: Call
    twins: dict[str, Call] = dataclasses.field(default_factory=dict)
    model: str = ""
    batch: int = 0
    flops: float | None = None
    rounds: int | None = None
    warm_up: bool = True
    settle: bool = False
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def measure(case: Case, rounds: int, peak_flops: float | None) -> dict[str, Any]:
    """The row of a case: medians over `rounds` alternations of ours and the twins.

    A side that runs out of memory at the warm-up is left out, and the row says so.
    """
    calls = {"ours": case.ours} | case.twins
    row: dict[str, Any] = {
        "suite": case.suite,
        "name": case.name,
        "model": case.model,
        "batch": case.batch,
        "rows": case.rows,
    }
    for side in list(calls) if case.warm_up else ():
        try:
            calls[side]()  # compiles, fills caches
        except Exception as error:
            if not out_of_memory(error):
                raise
            del calls[side]
            row.setdefault("out_of_memory", []).append(side)
    seconds: dict[str, list[float]] = {side: [] for side in calls}
    for _ in range(min(rounds, case.rounds or rounds)):
        for side, call in calls.items():
            if case.settle:
                time.sleep(SETTLE_SECONDS)
                call()
            start = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - start)
    ours = seconds.pop("ours", None)
    if ours:
        row |= _figures(ours, case.rows)
        if case.flops:
            row["flops"] = case.flops
            row["flops_per_s"] = case.flops / statistics.median(ours)
            if peak_flops:
                row["utilisation"] = row["flops_per_s"] / peak_flops
    row["torch"] = {side: _versus(twin, ours, case.rows) for side, twin in seconds.items()}
    return row | case.extra


def out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return "out of memory" in text or "resource_exhausted" in text


def _figures(seconds: list[float], rows: int) -> dict[str, float]:
    median = statistics.median(seconds)
    return {
        "ms": 1e3 * median,
        "ms_min": 1e3 * min(seconds),
        "ms_max": 1e3 * max(seconds),
        "rows_per_s": rows / median,
    }


def _versus(twin: list[float], ours: list[float] | None, rows: int) -> dict[str, float]:
    """Figures of a twin; `speed` is how many times faster we are, median over the pairs."""
    out = _figures(twin, rows)
    if ours:
        ratios = [t / o for o, t in zip(ours, twin, strict=True)]
        out["speed"] = statistics.median(ratios)
        out["speed_min"], out["speed_max"] = min(ratios), max(ratios)
    return out


HEADER = (
    f"{'':28}{'model':>11}{'batch':>7}{'ms':>10}{'rows/s':>11}{'util':>7}  "
    f"vs torch (median of pairs, min-max)"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    left = f"{row['name']:28}{row['model']:>11}{row['batch'] or '':>7}"
    if "ms" in row:
        util = f"{100 * row['utilisation']:6.1f}%" if "utilisation" in row else f"{'':7}"
        left += f"{row['ms']:10.1f}{row['rows_per_s']:11.1f}{util}"
    notes = [
        f"{t['speed']:.2f}x ({t['speed_min']:.2f}-{t['speed_max']:.2f}) {recipe}"
        if "speed" in t
        else f"{recipe} {t['ms']:.1f} ms"
        for recipe, t in row["torch"].items()
    ]
    notes += [f"{side}: out of memory" for side in row.get("out_of_memory", ())]
    notes += [f"{k} {row[k]:.3g}" for k in row if k.endswith(("_mb", "_share"))]
    return f"{left}  {'; '.join(notes)}".rstrip()


def best_lines(rows: list[dict[str, Any]]) -> list[str]:
    """For every case measured at several batch sizes: each side at its best one."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["batch"]:
            groups.setdefault((row["name"], row["model"]), []).append(row)
    out = []
    for (name, model), group in groups.items():
        measured = [row for row in group if "ms" in row]
        if len(group) < 2 or not measured:
            continue
        ours = max(measured, key=lambda row: row["rows_per_s"])
        text = f"best {name} {model}: {ours['rows_per_s']:.1f} rows/s at batch {ours['batch']}"
        for recipe in sorted({r for row in group for r in row["torch"]}):
            twin = max(
                (row for row in group if recipe in row["torch"]),
                key=lambda row: row["torch"][recipe]["rows_per_s"],
            )
            theirs = twin["torch"][recipe]["rows_per_s"]
            text += (
                f"; torch {recipe} {theirs:.1f} at batch {twin['batch']}: "
                f"{ours['rows_per_s'] / theirs:.2f}x"
            )
        out.append(text)
    return out
