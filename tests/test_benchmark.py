"""Every suite of scripts/benchmark.py runs at tiny sizes, and its rows hold the promised fields."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import benchmark
from bench import devices, measure, model_suites, ranking

pytestmark = pytest.mark.slow

FIELDS = {"suite", "name", "model", "batch", "rows", "torch", "ms", "ms_min", "ms_max"}
NAMES = {
    "train_step": {"train step"},
    "encode": {"encode image", "encode text"},
    "input": {"input (cache)", "input (files)"},
    "streaming": {"sdm loss plain", "sdm loss streaming"},
    "ranking": {"ranking 60 x 30"},
    "startup": {"start to step 1, cold", "start to step 1, warm"},
}


def run(tmp_path, *arguments):
    out = tmp_path / "rows.json"
    benchmark.main(["--model=debug", "--batch=8", "--rounds=1", f"--json={out}", *arguments])
    return json.loads(out.read_text())


@pytest.fixture(scope="module", autouse=True)
def few_torch_threads():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_rerank_suite_runs(tmp_path):
    (row,) = run(tmp_path, "--suite=rerank")["rows"]
    assert FIELDS <= set(row) and (row["name"], row["rows"]) == ("rerank 8 x 4 of 12", 32)


def test_gallery_suite_runs(tmp_path):
    rows = run(tmp_path, "--suite=gallery")["rows"]
    assert [row["name"] for row in rows] == [
        "gallery add 100 at once",
        "gallery add 1, durable",
        "gallery open 300, search",
        "gallery search 300 x 512",
    ]
    assert rows[-1]["recall_share"] == 1.0 and all(FIELDS <= set(row) for row in rows)


@pytest.mark.parametrize("suite", sorted(set(benchmark.SUITES) - {"rerank", "gallery"}))
def test_suite_runs_against_the_twin(suite, tmp_path, capsys):
    result = run(tmp_path, f"--suite={suite}", "--vs-torch")
    shown = capsys.readouterr().out
    assert {row["name"] for row in result["rows"]} == NAMES[suite]
    for row in result["rows"]:
        assert row["suite"] == suite and FIELDS <= set(row), row
        assert row["ms"] > 0 and row["rows_per_s"] > 0
        assert row["name"] in shown
    twins = [twin for row in result["rows"] for twin in row["torch"].values()]
    assert twins and all(twin["speed_min"] <= twin["speed"] <= twin["speed_max"] for twin in twins)
    assert result["platform"] == "cpu" and "no accelerator here" in shown
    assert "seconds" in result["utilisation_formula"]


def test_sweep_names_the_best_batch_of_each_side(tmp_path, capsys):
    recipes = "--vs-torch=float16,half-fair"
    result = run(tmp_path, "--suite=train_step", "--batch=8,16", recipes)
    assert [row["batch"] for row in result["rows"]] == [8, 16]
    for row in result["rows"]:
        assert set(row["torch"]) == {"float16", "half-fair"}
        assert row["utilisation"] == pytest.approx(row["flops_per_s"] / result["peak_flops"])
    assert "best train step debug" in capsys.readouterr().out


def test_without_torch_our_side_is_measured(tmp_path, capsys, monkeypatch):
    find = benchmark.importlib.util.find_spec
    monkeypatch.setattr(
        benchmark.importlib.util, "find_spec", lambda n, *a: None if n == "torch" else find(n, *a)
    )
    result = run(tmp_path, "--suite=ranking", "--vs-torch")
    assert [row["torch"] for row in result["rows"]] == [{}, {}]
    assert capsys.readouterr().out.count("PyTorch is not installed") == 1


def test_missing_package_skips_a_suite_in_one_line(tmp_path, capsys, monkeypatch):
    def needs_tensorflow(options):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        yield

    monkeypatch.setitem(benchmark.SUITES, "input", needs_tensorflow)
    assert run(tmp_path, "--suite=input")["rows"] == []
    assert "input: the rest is skipped, tensorflow is not installed" in capsys.readouterr().out


def test_a_side_without_memory_is_left_out():
    def full():
        raise RuntimeError("RESOURCE_EXHAUSTED: 3 GB")

    case = measure.Case("s", "n", 1, ours=full, twins={"float16": lambda: None}, batch=4)
    row = measure.measure(case, rounds=2, peak_flops=1e12)
    assert row["out_of_memory"] == ["ours"] and "ms" not in row and row["torch"]["float16"]["ms"]
    assert "ours: out of memory" in measure.line(row)
    assert measure.best_lines([row, row]) == []
    with pytest.raises(ZeroDivisionError):
        measure.measure(measure.Case("s", "n", 1, ours=lambda: 1 / 0), 1, None)


def test_utilisation_counts_flops_per_second_of_the_peak():
    case = measure.Case("s", "n", 1, ours=lambda: None, flops=1e3)
    row = measure.measure(case, rounds=1, peak_flops=1e12)
    assert row["utilisation"] == pytest.approx(1e3 / (row["ms"] / 1e3) / 1e12)


def test_exact_ranking_problem_agrees_with_a_full_sort():
    ranking.check_equal((200, 90, 12))


def test_known_devices_have_a_peak(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "NVIDIA H200"

    monkeypatch.setattr(devices.jax, "devices", lambda: [Device])
    monkeypatch.setattr(devices.jax, "device_count", lambda: 2)
    assert devices.peak_flops()[0] == 2 * 989e12
    Device.device_kind = "TPU v5 lite"
    assert devices.peak_flops()[0] == 2 * 197e12
    Device.device_kind = "TPU v5"
    assert devices.peak_flops()[0] == 2 * 459e12
    Device.device_kind = "Abacus"
    assert devices.peak_flops()[0] is None


@pytest.mark.parametrize("argument", ["--suite=speed", "--model=vgg", "--rounds=0", "--batch=many"])
def test_bad_arguments(argument, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse([argument])
    assert argument.split("=")[0].strip("-") in capsys.readouterr().err


def test_vit_l14_is_a_model():
    config = model_suites.load_config("vit_l14", 8, "float32").model
    assert (config.vision_width, config.vision_depth, config.patch) == (1024, 24, 14)
