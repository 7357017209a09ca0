"""What `/metrics` shows to Prometheus: requests, batches, the queue, compilations."""

import time

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tipr_jax.serving import compilations

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Histogram(
            "tipr_request_seconds",
            "Time from a request's head to the last byte of its answer.",
            ("route", "method", "status"),
            registry=registry,
            buckets=SECONDS,
        )
        self.batches = Histogram(
            "tipr_batch_jobs",
            "Jobs of one kind that were answered together.",
            ("kind",),
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.waiting = Gauge("tipr_queue_jobs", "Jobs that wait.", registry=registry)
        self.items = Gauge("tipr_gallery_items", "Items that searches find.", registry=registry)
        self._compiled_before: int | None = None
        Gauge("tipr_compilations", "Programs that XLA compiled.", registry=registry).set_function(
            compilations.count
        )
        Gauge(
            "tipr_compilations_after_ready",
            "Programs that XLA compiled after the warm-up; more than 0 is a defect.",
            registry=registry,
        ).set_function(lambda: self.compilations_after_ready)

    def ready(self) -> None:
        """From now on, a compilation is a defect."""
        self._compiled_before = compilations.count()

    @property
    def compilations_after_ready(self) -> int:
        before = self._compiled_before
        return 0 if before is None else compilations.count() - before

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Timed:
    """Middleware that measures every request, by its route and not by its path, which has ids."""

    def __init__(self, app: ASGIApp, measures: Measures):
        self._app, self._measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            labels = (route, scope["method"], str(status))
            self._measures.requests.labels(*labels).observe(time.perf_counter() - start)
