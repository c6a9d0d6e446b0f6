"""The server's metrics, for Prometheus. Replicas return their times with each batch, so one process counts all."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.dispatch import Drawn

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts and times of requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "canny2image_seconds",
            "Time of a picture request by stage: queue, generation (the batch that it was in) and total",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "canny2image_batch_size",
            "Requests generated together, seen from each request",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.requests = Counter("canny2image_requests", "Requests", ["path", "status"], registry=self.registry)
        self.failures = Counter("canny2image_failures", "Requests with an error", ["type"], registry=self.registry)
        self.queue = Gauge("canny2image_queue_length", "Requests that wait for a replica", registry=self.registry)
        self.retries = Counter("canny2image_retries", "Batches sent to another replica", registry=self.registry)

    def drawn(self, results: list[Drawn]) -> None:
        """Count the pictures of one request."""
        self.seconds.labels("queue").observe(max(drawn.queued for drawn in results))
        self.seconds.labels("generation").observe(max(drawn.generated for drawn in results))
        for drawn in results:
            self.batch.observe(drawn.batch)

    def text(self, waiting: int) -> bytes:
        """Return all values in Prometheus' format."""
        self.queue.set(waiting)
        return generate_latest(self.registry)
