"""Ray itself, for `ray_adding`: importing it, its processes, its errors and its chatter."""

import contextlib
import importlib
import logging
import os
import secrets
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAIT_S = 10  # for a cluster to answer


def import_ray() -> Any:
    """Ray with Ray Data. Raises ModuleNotFoundError where the extra is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:
        # Ray listens on every network interface; without this token, nobody else gives it work.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "engine=ray needs Ray Data: pip install 'tipr_jax[ray]'"
        ) from None
    return ray


@contextlib.contextmanager
def cluster(ray: Any) -> Iterator[None]:
    """Ray's processes: of the cluster, of whoever started Ray before, or of this machine."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    quiet = dict(log_to_driver=False, logging_level=logging.CRITICAL)
    if address := os.environ.get("RAY_ADDRESS"):
        connect(ray, address, **quiet)
    else:
        # One more than there are: Ray's filter of finished rows holds one, but hardly uses it.
        cores = max(2, os.cpu_count() or 1) + 1
        ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def connect(ray: Any, address: str, **options: Any) -> None:
    """Uses a cluster. Raises OSError where there is none, or it does not let us in."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), WAIT_S).close()
        except (OSError, OverflowError) as error:
            raise OSError(
                f"RAY_ADDRESS={address}: no Ray there ({error}); start one (ray start --head), or "
                "unset RAY_ADDRESS to use this machine alone"
            ) from None
    try:
        ray.init(address, **options)
    except ConnectionError:
        raise OSError(
            f"RAY_ADDRESS={address}: Ray lets nobody in; if the cluster has a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as there"
        ) from None


def workers(ray: Any) -> tuple[int, dict[str, int]]:
    """How many workers, and what each takes.

    One for each GPU, or for each machine without any, because JAX uses all cores of a machine.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if gpus:
        return gpus, {"num_gpus": 1, "num_cpus": 1}
    least = min(cores, default=1)
    # With more than half of a machine's cores there is one worker on it.
    return len(cores) or 1, {"num_cpus": least // 2 + 1 if least > 2 else 1}


@contextlib.contextmanager
def in_words(ray: Any, log: Path) -> Iterator[None]:
    """Turns Ray's errors into what the worker raised, or into an OSError of one line."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        for kind in (ValueError, OSError, ModuleNotFoundError):
            if isinstance(error.cause, kind):  # Ray adds lines of its own
                raise kind(str(error.cause).splitlines()[0]) from None
        raise
    except ray.exceptions.RayError as error:
        line = str(error).strip().splitlines()[0]
        raise OSError(
            f"Ray: {line} The same command goes on where this one ended; Ray printed to {log}, and "
            "wrote more to the folder session_latest/logs of its own"
        ) from None


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[None]:
    """What Ray prints goes to a file, its warnings nowhere; our own bars still to the terminal."""
    before, kept = sys.stderr, [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if before is sys.__stderr__:
        sys.stderr = os.fdopen(os.dup(kept[1]), "w", errors="backslashreplace", buffering=1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.stdout.flush()
        sys.stderr = before
        for number, terminal in enumerate(kept, 1):
            os.dup2(terminal, number)
            os.close(terminal)
