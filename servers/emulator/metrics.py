"""Prometheus text under vLLM's names, so that whatever reads vLLM reads this."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from servers.emulator.sources import ReplicaLoad

TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
E2E_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)


class Metrics(Collector):
    """Gauges are read when asked for; token counts are plain integers, cheap to raise 20,000 times a second."""

    def __init__(self, model: str, loads: Callable[[], list[ReplicaLoad]]) -> None:
        self._model = model
        self._loads = loads
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.prompt_tokens = 0
        self.generated_tokens = 0
        labels = ("model_name",)
        self._success = Counter(
            "vllm:request_success", "Requests answered.", (*labels, "finished_reason"), registry=self._registry
        )
        self.ttft_s = Histogram(
            "vllm:time_to_first_token_seconds", "TTFT.", labels, registry=self._registry, buckets=TTFT_BUCKETS
        ).labels(model)
        self.e2e_s = Histogram(
            "vllm:e2e_request_latency_seconds", "E2E.", labels, registry=self._registry, buckets=E2E_BUCKETS
        ).labels(model)
        for reason in ("stop", "length"):
            self._success.labels(model, reason)

    def succeeded(self, finish_reason: str) -> None:
        self._success.labels(self._model, finish_reason).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not collect to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        labels = ["model_name", "engine"]
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests in the batch.", labels=labels)
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests in the queue.", labels=labels)
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of the KV cache in use.", labels=labels)
        for index, load in enumerate(self._loads()):
            where = [self._model, str(index)]
            running.add_metric(where, load.running)
            waiting.add_metric(where, load.waiting)
            usage.add_metric(where, load.kv_usage)
        prompt = CounterMetricFamily("vllm:prompt_tokens", "Prompt tokens.", labels=labels[:1])
        prompt.add_metric([self._model], self.prompt_tokens)
        generated = CounterMetricFamily("vllm:generation_tokens", "Output tokens.", labels=labels[:1])
        generated.add_metric([self._model], self.generated_tokens)
        return [running, waiting, usage, prompt, generated]
