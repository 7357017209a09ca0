"""Saving, keeping, choosing and restoring checkpoints."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from tipr_jax import report, results, run_files, sharding
from tipr_jax.checkpoints import Checkpoints, load_params, load_run_params, save_params
from tipr_jax.results import Criterion, evaluation_row
from tipr_jax.train_state import TrainState

ON_TEST = Criterion("test", "R1")


def make_state(value: float = 1.0) -> TrainState:
    params = {"tower": {"kernel": jnp.full((8, 4), value), "bias": jnp.arange(4.0)}}
    return TrainState(jnp.int32(7), params, (jnp.zeros(3), {"m": jnp.ones(2)}))


def abstract(state, place=None):
    place = place or (lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state)


def test_keeps_the_newest_and_the_earliest_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, criterion=ON_TEST) as c:
        for step, rank1 in enumerate([None, 30.0, None, 30.0, None, 20.0, None], 1):
            c.save(step, make_state(step), rank1 and evaluation_row({"test": scores(rank1)}))
            c.wait()
            assert c.is_evaluated(step) == (rank1 is not None)
        assert (c.best_step(), c.latest_step()) == (2, 7)
        assert run_files.saved_steps(tmp_path) == [2, 6, 7]
    assert load_run_params(tmp_path)[0] == 7  # without a config nobody says what the best is
    write_config(tmp_path)
    step, params = load_run_params(tmp_path)
    assert step == 2
    np.testing.assert_array_equal(params["tower"]["kernel"], 2.0)


def write_config(workdir: Path, **evaluation) -> ConfigDict:
    """What the trainer writes, as far as it matters here; the config."""
    fields = {"select_on": "test", "select_by": "R1", "gallery": "unique"} | evaluation
    languages = {"languages": (), "source": "en", "target": "zh"}
    data = {"image_size": (8, 4), "text_length": 8} | languages
    config = ConfigDict({"method": "any", "model": {}, "data": data, "eval": fields})
    config.init_from = ""
    run_files.save_config(config, workdir, {})
    return config


class Run:
    """A run that only evaluates and saves, each line and checkpoint as the trainer does it."""

    def __init__(self, workdir: Path):
        self.workdir = workdir

    def train(self, evaluations: dict[int, dict], *, candidates: int = 0, **criterion) -> None:
        """One start of the run, with changes of `config.eval`; {step: {split: R1, ...}}."""
        self.config = write_config(self.workdir, **criterion)
        chosen = results.criterion_of(self.config.eval)
        with Checkpoints(self.workdir, keep_last=1, criterion=chosen) as checkpoints:
            for step, values in evaluations.items():
                row = evaluation_row({s: scores(v) for s, v in values.items()}, candidates)
                with (self.workdir / run_files.METRICS).open("a") as file:
                    file.write(json.dumps({"step": step} | row) + "\n")
                if step:
                    checkpoints.save(step, make_state(step), row)
                    checkpoints.wait()

    def best(self) -> int:
        """The step on which weights, results.json and report agree."""
        summary = results.write_results(self.workdir, self.config)
        step, params = load_params(self.workdir)
        assert float(params["tower"]["kernel"][0, 0]) == step
        assert json.loads((self.workdir / run_files.RESULTS).read_text())["step"] == step
        page = report.write_report(self.workdir).read_text()
        assert f"selected on {summary['selected_on']}: step {step}" in page
        return step


def scores(value: float | tuple[float, ...]) -> dict:
    """Directions of a split: cosine R1; with three numbers also its mAP and the re-ranked R1."""
    if not isinstance(value, tuple):
        return {"t2i": {"R1": value, "mAP": value}, "i2t": {"R1": value, "mAP": value}}
    cosine, average_precision, reranked = value
    out = scores(cosine)
    out["t2i"]["mAP"] = average_precision
    return out | {"t2i_rerank": {"R1": reranked, "mAP": average_precision}}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def test_another_metric_after_a_resume(run):
    """By R1 step 1 is the best; by mAP the newest, which must survive what follows."""
    run.train({0: {"test": (1, 1, 1)}, 1: {"test": (30, 10, 30)}, 2: {"test": (20, 20, 20)}})
    assert run.best() == 1
    run.train({}, select_by="mAP")
    assert run.best() == 2
    run.train({3: {"test": (10, 15, 10)}}, select_by="mAP")
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2, 3]
    run.train({4: {"test": (60, 5, 60)}}, select_by="mAP")
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2, 4]


def test_another_number_of_candidates_after_a_resume(run):
    """Re-ranked metrics of other numbers of candidates do not compare: the cosine decides."""
    run.train({1: {"test": (30, 0, 50)}, 2: {"test": (20, 0, 60)}}, candidates=32)
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2]
    run.train({3: {"test": (15, 0, 90)}}, candidates=64)
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2, 3]
    run.train({4: {"test": (25, 0, 55)}}, candidates=64)
    assert run.best() == 4 and run_files.saved_steps(run.workdir) == [4]
    run.train({5: {"test": (22, 0, 58)}}, candidates=64)  # these two compare
    assert run.best() == 5 and run_files.saved_steps(run.workdir) == [5]
    run.train({6: {"test": 21}})  # without re-ranking
    assert run.best() == 5 and run_files.saved_steps(run.workdir) == [5, 6]


def test_another_split_after_a_resume(run):
    run.train({1: {"test": 30, "val": 10}, 2: {"test": 20, "val": 20}})
    assert run.best() == 1
    run.train({3: {"test": 10, "val": 15}}, select_on="val")
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2, 3]


def test_a_step_is_evaluated_again_for_another_split(tmp_path):
    with Checkpoints(tmp_path, criterion=ON_TEST) as c:
        c.save(1, make_state(1), evaluation_row({"test": scores(3.0)}))
        c.wait()
    with Checkpoints(tmp_path, criterion=ON_TEST.on("val")) as c:
        assert not c.is_evaluated(1) and c.best_step() is None
        c.save(1, make_state(1), evaluation_row({"val": scores(4.0), "test": scores(3.0)}))
        c.wait()
        assert c.is_evaluated(1) and c.best_step() == 1


def test_unknown_metric_is_refused_before_the_save(tmp_path):
    with Checkpoints(tmp_path, criterion=Criterion("test", "R2")) as c:
        with pytest.raises(ValueError, match="select_by is 'R2'"):
            c.save(1, make_state(), evaluation_row({"test": scores(3.0)}))
        assert c.latest_step() is None


def test_the_best_of_every_language_is_kept_and_loaded(run):
    """English is best at step 1, Chinese at 2, French nowhere evaluated."""
    run.train(
        {
            1: {"val": 9, "val_zh": 1, "test": 30, "test_zh": 10},
            2: {"val": 9, "val_zh": 1, "test": 20, "test_zh": 30},
            3: {"val": 9, "val_zh": 2, "test": 25, "test_zh": 20},
            4: {"val": 9, "val_zh": 1, "test": 15, "test_zh": 15},
        }
    )
    assert run_files.saved_steps(run.workdir) == [1, 2, 4]
    assert run.best() == 1
    for language, expected in (("", 1), ("en", 1), ("zh", 2), ("fr", 1)):
        step, params = load_params(run.workdir, language)
        assert step == expected == float(params["tower"]["kernel"][0, 0])
    languages = results.write_results(run.workdir, run.config)["languages"]
    assert [languages[name]["best"]["step"] for name in ("en", "zh")] == [1, 2]


def test_runs_that_saved_a_score_alone_are_ranked_by_their_metrics_file(run):
    """What earlier versions of the package wrote; the newly selected step is kept from then on."""
    run.train({1: {"test": (30, 10, 30)}, 2: {"test": (20, 20, 20)}}, candidates=32)
    for step, score in ((1, 30.0), (2, 20.0)):
        saved = run.workdir / "checkpoints" / str(step) / "metrics" / "metrics"
        assert "eval/test/t2i/R1" in saved.read_text()
        saved.write_text(json.dumps({"score": score, "step": step}))
    assert run.best() == 1
    run.train({}, select_by="mAP")
    assert run.best() == 2
    run.train({3: {"test": (10, 15, 10)}}, select_by="mAP", candidates=32)
    assert run.best() == 2 and run_files.saved_steps(run.workdir) == [2, 3]


def test_restores_bit_exactly_onto_another_mesh(tmp_path):
    state = make_state(0.1)
    with Checkpoints(tmp_path) as c:
        c.save(1, state)
        c.wait()
        mesh = sharding.make_mesh(4, 2)

        def place(x):
            return NamedSharding(mesh, P("data") if x.ndim == 2 else P())

        step, restored = c.restore_latest(abstract(state, place))
    assert step == 1
    assert restored.params["tower"]["kernel"].sharding.spec == P("data")
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_a_damaged_step_is_set_aside_and_named(tmp_path, caplog):
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state(1.0))
        c.save(2, make_state(2.0))
        c.wait()
        for file in (c.directory / "2" / "default" / "d").rglob("*"):
            file.write_bytes(b"")
        step, _ = c.restore_latest(abstract(make_state()))
        assert step == 1
        assert "checkpoints/2" in caplog.text and "unreadable_2" in caplog.text
        c.save(2, make_state(3.0))
        c.wait()
        assert c.latest_step() == 2


def test_a_step_without_its_commit_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state())
        c.wait()
        (c.directory / "2.orbax-checkpoint-tmp-1").mkdir()
    with Checkpoints(tmp_path) as c:
        assert c.latest_step() == 1


def test_another_model_is_an_error_with_names_and_shapes(tmp_path):
    other = make_state()
    other.params["tower"]["kernel"] = jnp.zeros((8, 5))
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state())
        c.wait()
        with pytest.raises(ValueError, match=r"tower/kernel: saved \(8, 4\), configured \(8, 5\)"):
            c.restore_latest(abstract(other))


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        load_run_params(tmp_path)


def test_params_round_trip_and_refuse_to_overwrite(tmp_path):
    params = {"a": {"b": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
    save_params(tmp_path / "x", params, {"method": "irra", "model": {"sizes": (3, 4)}})
    step, loaded = load_params(tmp_path / "x")
    np.testing.assert_array_equal(loaded["a"]["b"], params["a"]["b"])
    assert step == 0 and run_files.model_fields(tmp_path / "x") == ("irra", {"sizes": (3, 4)})
    with pytest.raises(ValueError, match="not empty"):
        save_params(tmp_path / "x", params, {})
    with pytest.raises(ValueError, match="tipr_jax.convert"):
        load_params(tmp_path)
