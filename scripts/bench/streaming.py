"""Suite streaming: SDM forward and backward, dense against block by block."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bench.measure import Case
from tipr_jax.losses import dense, streaming
from tipr_jax.losses.contrastive import sdm_loss

SIZES = (2048, 8192)
TINY = (64,)
WIDTH = 512
IMPLEMENTATIONS = {"plain": dense.softmax_terms, "streaming": streaming.softmax_terms}


def cases(options: Any) -> Iterator[Case]:
    for size in TINY if options.tiny else SIZES:
        rng = np.random.default_rng(0)
        image, text = rng.standard_normal((2, size, WIDTH), np.float32)
        person_id = rng.integers(0, max(1, size // 4), size).astype(np.int32)
        for name, softmax_terms in IMPLEMENTATIONS.items():

            def loss(image, text, person_id, softmax_terms=softmax_terms):
                return sdm_loss(
                    image, text, person_id, logit_scale=50.0, implementation=softmax_terms
                )

            arrays = jax.device_put((image, text, person_id))
            gradient = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
            memory = gradient.memory_analysis()
            assert memory, "XLA tells the memory of its programs on every platform we run on"
            twins = {}
            if options.recipes and name == "plain":
                twins["plain"] = torch_call(image, text, person_id)
            yield Case(
                "streaming",
                f"sdm loss {name}",
                rows=size,
                ours=lambda f=gradient, a=arrays: jax.block_until_ready(f(*a)),
                twins=twins,
                batch=size,
                extra={"temp_mb": memory.temp_size_in_bytes / 2**20},
            )


def torch_call(image: np.ndarray, text: np.ndarray, person_id: np.ndarray) -> Any:
    """The plain loss and its gradient in PyTorch, float32."""
    import torch
    from torch_twin import sdm_loss as torch_sdm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, texts = (torch.tensor(x, device=device, requires_grad=True) for x in (image, text))
    person = torch.tensor(person_id, device=device)

    def call() -> None:
        torch.autograd.grad(torch_sdm(images, texts, person), (images, texts))
        if device == "cuda":
            torch.cuda.synchronize()

    return call
