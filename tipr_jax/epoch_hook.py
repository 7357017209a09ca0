"""Runs a method's `EpochHook`, which works something out about every pair before an epoch."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

from tipr_jax.data import Data
from tipr_jax.evaluator import Interrupted
from tipr_jax.experiment import Experiment
from tipr_jax.models.method import Params
from tipr_jax.sharding import process_rows, put_batch
from tipr_jax.train_state import TrainState

_KEYS = 1 << 30  # the passes' keys begin here, far from every other use of the initialisation key


class PairPass:
    """Passes all training pairs through the model, and keeps the hook's result in the state.

    A pure function of (state, epoch), the same on every mesh. `should_stop` is asked before every
    batch; True ends the pass with `Interrupted`, and the state is as it was.
    """

    def __init__(self, exp: Experiment, data: Data, should_stop: Callable[[], bool]):
        self.exp, self.data, self.should_stop = exp, data, should_stop
        method, config = exp.method, exp.model_config
        assert method.epoch_hook, f"{config.__class__.__module__} asks for no pass over all pairs"
        hook = self._hook = method.epoch_hook

        def score(weights: Params, batch: dict, key: jax.Array) -> dict[str, jax.Array]:
            inputs = method.prepare_inputs(batch, key, config)
            scores = hook.score(nnx.merge(exp.graphdef, weights), inputs, config)
            return {**scores, "pair_id": batch["pair_id"], "valid": batch["valid"]}

        self._score = jax.jit(
            score,
            in_shardings=(exp.param_shardings, exp.batch_sharding, exp.replicated),
            out_shardings=exp.replicated,
        )

    def __call__(self, state: TrainState, epoch: int) -> TrainState:
        """`state` with the `pairs` of `epoch`."""
        scores: dict[str, np.ndarray] = {}
        count, key = self.data.num_pairs, jax.random.fold_in(self.exp.keys[0], _KEYS + epoch)
        rows = process_rows(self.exp.batch_sharding, self.exp.config.data.batch_size)
        batches = self.data.pair_pass(epoch, rows, self.exp.column_specs)
        with tqdm(total=count, desc="pass over all pairs", leave=False, disable=None) as bar:
            for number, batch in enumerate(batches):
                if self.should_stop():
                    raise Interrupted
                batch |= {name: of[batch["pair_id"]] for name, of in _on_host(state.pairs).items()}
                placed = put_batch(batch, self.exp.batch_sharding)
                found = self._score(state.weights, placed, jax.random.fold_in(key, number))
                found = jax.device_get(found)
                valid, pair_id = found.pop("valid"), found.pop("pair_id")
                for name, values in found.items():
                    scores.setdefault(name, np.zeros(count, values.dtype))
                    scores[name][pair_id[valid]] = values[valid]
                bar.update(int(valid.sum()))
        config = self.exp.config
        pairs = self._hook.summarise(scores, epoch, config.seed, self.exp.model_config)
        # Process 0's for all: another machine may round a score differently.
        pairs = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(pairs))
        return dataclasses.replace(state, pairs=jax.device_put(pairs, self.exp.replicated))


def _on_host(pairs: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in pairs.items()}
