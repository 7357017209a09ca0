"""Several processes as one run: joining, agreeing, and who writes (`shutdown`: stopping together).

The processes find each other through `jax.distributed`; what they tell each other here goes through
its coordination service, so it needs no device and may wait as long as it must. With one process
everything here is immediate. Functions that say "collective" must be called by every process, in
the same order.
"""

import contextlib
import itertools
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import tqdm

CLUSTERS = ("gcetpu", "gketpu", "slurm", "ompi")  # where JAX knows its peers without flags
PATIENCE_MS = 7 * 24 * 3600 * 1000  # of a live peer; a dead one ends the wait by its heartbeat

_rounds = itertools.count()


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
    preemption: bool = True,
) -> None:
    """Joins the processes that the three arguments name, else the processes of a cluster.

    Call it before anything that touches a device. A machine that is neither told of others nor part
    of a cluster (Cloud TPU slice, SLURM, Open MPI) starts at once, by itself.

    Args:
      coordinator: "host:port" on which process 0 listens; all three arguments or none.
      num_processes, process_id: how many there are, and which of them this one is.
      timeout: seconds to wait for all to join; then this process prints one line and exits with 1.
      preemption: SIGTERM to one process becomes a request that all of them see, see
        `shutdown.StopSignal`.

    Raises:
      ValueError: arguments that do not fit together, or a port that is taken.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    method = "deactivate"
    if num_processes == 1 and coordinator is None:
        return
    if len(missing) == len(given):
        if not (cluster := _detect(timeout)):
            return
        method, coordinator, num_processes, process_id = cluster
    elif missing:
        raise ValueError(
            f"{' and '.join(missing)} missing; --coordinator=HOST:PORT, --num_processes and "
            "--process_id go together (or none of them, where a cluster is detected)"
        )
    assert coordinator is not None and num_processes is not None and process_id is not None
    _check(coordinator, num_processes, process_id)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", preemption)
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    # The C++ client ends a wait in vain with an abort and a stack trace; this comes before it.
    watchdog = threading.Timer(timeout, _give_up, (coordinator, num_processes, process_id, timeout))
    watchdog.daemon = True
    watchdog.start()
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method=method,
        initialization_timeout=timeout + 60,
    )
    watchdog.cancel()
    _check_count(num_processes)
    if process_id != 0:
        _silence()


def _detect(timeout: int) -> tuple[str, str, int, int] | None:
    """(JAX's name, coordinator, processes, this process) of a cluster of more than one process."""
    from jax._src.clusters import ClusterEnv  # jax.distributed does not tell before it connects

    for cluster in ClusterEnv._cluster_types:
        if cluster.name in CLUSTERS and cluster.is_env_present():
            if (count := cluster.get_process_count()) == 1:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(timeout, port)
            return cluster.name, address, count, cluster.get_process_id()
    return None


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator={coordinator}: expected HOST:PORT, as in 10.0.0.1:4321")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} is not one of the {num_processes} processes; "
            f"number them 0 to {num_processes - 1}"
        )
    if process_id == 0:  # the C++ service crashes on a port that is taken
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise ValueError(
                    f"--coordinator={coordinator}: process 0 cannot listen on port {port} "
                    f"({error.strerror}); use a free port, the same for every process"
                ) from None


def _give_up(coordinator: str, num_processes: int, process_id: int, timeout: int) -> None:
    """Ends this process at once, with one line about the process that did not come."""
    host, port = coordinator.rsplit(":", 1)
    others = [i for i in range(num_processes) if i != process_id]
    who = f"process {others[0]}" if len(others) == 1 else f"some of the processes {others}"
    hint = "start every process with the same --coordinator and --num_processes"
    if process_id != 0:
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
            who = f"some other process than 0 and {process_id}" if len(others) > 1 else who
        except OSError as error:
            who = f"process 0 ({coordinator}: {error.strerror or error})"
            hint = "start it, and check address, port and firewall"
    else:
        hint += f", and check that {coordinator} can be reached from their machines"
    message = f"error: waited {timeout} s for {who}, which did not come; {hint} (--peer_timeout)"
    print(message, file=sys.stderr, flush=True)
    os._exit(1)  # the main thread waits in C++ and cannot be interrupted


def _check_count(num_processes: int) -> None:
    """Raises ValueError if process 0 was started with another number of processes."""
    client = service()
    if this_process() == 0:
        client.key_value_set("tipr_jax/num_processes", str(num_processes))
    expected = client.blocking_key_value_get("tipr_jax/num_processes", PATIENCE_MS)
    if int(expected) != num_processes:
        raise ValueError(
            f"--num_processes={num_processes} here, {expected} at process 0; use the same number"
        )


def several() -> bool:
    """True if there are other processes."""
    return jax.process_count() > 1


def is_writer() -> bool:
    """True for process 0, the only one that prints, logs and writes files."""
    return jax.process_index() == 0


def barrier() -> None:
    """Waits until every process is here. Collective."""
    exchange("")


def exchange(text: str) -> list[str]:
    """The `text` of every process, in the order of their numbers. Collective."""
    if not several():
        return [text]
    prefix = f"tipr_jax/{next(_rounds)}"
    service().key_value_set(f"{prefix}/{jax.process_index()}", text)
    return [
        service().blocking_key_value_get(f"{prefix}/{process}", PATIENCE_MS)
        for process in range(jax.process_count())
    ]


def from_writer(make: Callable[[], Any]) -> Any:
    """`make()`, plain data that process 0 alone computes and every process gets. Collective."""
    text = json.dumps(make()) if is_writer() else ""
    return json.loads(exchange(text)[0])


@contextlib.contextmanager
def writer_first() -> Iterator[None]:
    """Process 0 goes through the body first; every other one finds its files. Collective."""
    if not is_writer():
        barrier()
    yield
    if is_writer():
        barrier()


def agree(settings: Mapping[str, Any]) -> None:
    """Checks that all processes were started with the same settings, plain data. Collective.

    Raises:
      ValueError: in every process, naming the settings that differ.
    """
    texts = exchange(json.dumps(settings, sort_keys=True))
    first = json.loads(texts[0])
    for process, text in enumerate(texts):
        other = json.loads(text)
        differing = [k for k in sorted(first | other) if first.get(k) != other.get(k)]
        if differing:
            shown = "; ".join(f"{k} {first.get(k)} and {other.get(k)}" for k in differing[:3])
            raise ValueError(
                f"processes 0 and {process} were started differently, in {len(differing)} "
                f"settings ({shown}); give every process the same command and code"
            )


def _silence() -> None:
    """Only process 0 shows progress and log lines."""
    logging.getLogger("tipr_jax").setLevel(logging.ERROR)
    shown = tqdm.tqdm.__init__
    tqdm.tqdm.__init__ = lambda self, *args, **kwargs: shown(
        self, *args, **(kwargs | {"disable": True})
    )


def service() -> Any:
    """JAX's client of the coordination service, for which it has no public name or type.

    None before `initialize`, and with one process.
    """
    return _global_state().client


def this_process() -> int:
    """The number of this process; unlike `jax.process_index`, it does not start the devices."""
    return _global_state().process_id


def _global_state() -> Any:
    from jax._src import distributed  # JAX has no public name for it

    return distributed.global_state
