"""How many programs XLA compiled in this process; one from the cache on disk counts, too."""

import itertools
from typing import Any

import jax

EVENT = "/jax/core/compile/backend_compile_duration"

_numbers = itertools.count(1)
_last = 0


def count() -> int:
    """Compilations since this module was imported."""
    return _last


def _listen(event: str, duration_secs: float, **kwargs: Any) -> None:
    global _last
    if event == EVENT:
        _last = next(_numbers)


jax.monitoring.register_event_duration_secs_listener(_listen)
