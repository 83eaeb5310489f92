"""Metric names of each kind of server, mapped onto the one vocabulary of :mod:`harness.series`.

A new server is one more entry of :data:`SERVERS`. What a server does not count is left out: it is absent from the
run, not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Native:
    """A server's own metric: its name, and the labels that a sample of it must carry."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Term:
    """How one series is read: the first alternative that is there as a whole; its metrics are added up.

    Samples of one metric (one per model, replica, finish reason) are joined by ``joined``.
    """

    alternatives: tuple[tuple[Native, ...], ...]
    joined: Callable[[Iterable[float]], float] = sum


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server: the prefix of its names, and its terms by name of the vocabulary."""

    prefix: str
    terms: Mapping[str, Term]


def _one(*names: str, joined: Callable[[Iterable[float]], float] = sum) -> Term:
    """A term that is one metric; more names are those of other versions."""
    return Term(tuple((Native(name),) for name in names), joined)


def _labelled(name: str, label: str, value: str, joined: Callable[[Iterable[float]], float] = sum) -> Term:
    return Term(((Native(name, {label: value}),),), joined)


_TRITON_FINISHED = Term(
    (
        (Native("nv_inference_request_success"), Native("nv_inference_request_failure")),
        (Native("nv_inference_request_success"),),
    )
)

SERVERS: dict[str, Dialect] = {
    # Also the emulator, which takes vLLM's names, and Triton's vLLM backend. Version 0 had gpu_cache_usage_perc and
    # gpu_prefix_cache_*; hits of the prefix cache are counted in tokens.
    "vllm": Dialect(
        "vllm:",
        {
            "running": _one("vllm:num_requests_running"),
            "waiting": _one("vllm:num_requests_waiting"),
            "kv_use": _one("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", joined=fmean),
            "prompt_tokens_total": _one("vllm:prompt_tokens_total"),
            "cached_tokens_total": _one("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
            "output_tokens_total": _one("vllm:generation_tokens_total"),
            "preemptions_total": _one("vllm:num_preemptions_total"),
            "finished_total": _one("vllm:request_success_total"),
        },
    ),
    # Its prompt counter leaves out what came from the cache; older ones had no counter of that.
    "llamacpp": Dialect(
        "llamacpp:",
        {
            "running": _one("llamacpp:requests_processing"),
            "waiting": _one("llamacpp:requests_deferred"),
            "kv_use": _one("llamacpp:kv_cache_usage_ratio"),
            "prompt_tokens_total": Term(
                (
                    (Native("llamacpp:prompt_tokens_total"), Native("llamacpp:prompt_tokens_cached_total")),
                    (Native("llamacpp:prompt_tokens_total"),),
                )
            ),
            "cached_tokens_total": _one("llamacpp:prompt_tokens_cached_total"),
            "output_tokens_total": _one("llamacpp:tokens_predicted_total"),
        },
    ),
    # The TensorRT-LLM backend's batch manager, where it reports; Triton's own counters beside it.
    "triton-trtllm": Dialect(
        "nv_trt_llm_",
        {
            "running": _labelled("nv_trt_llm_request_metrics", "request_type", "scheduled"),
            "waiting": _labelled("nv_trt_llm_request_metrics", "request_type", "waiting"),
            "kv_use": _labelled("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction", fmean),
            "finished_total": _TRITON_FINISHED,
        },
    ),
    # Of a plain model Triton knows who waits, not how many it works on, and no tokens.
    "triton": Dialect(
        "nv_inference_",
        {
            "waiting": _one("nv_inference_pending_request_count"),
            "finished_total": _TRITON_FINISHED,
        },
    ),
}
"""Kind to dialect. The first whose prefix appears is the server's kind: Triton's own names stand beside a backend's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One scrape in our words; ``kind`` is empty where no name was known."""

    kind: str
    values: Mapping[str, float]


def kind_of(lines: Iterable[str]) -> str:
    """The kind of server whose metrics these are; empty for one we do not know."""
    lines = list(lines)
    for kind, dialect in SERVERS.items():
        if any(line.startswith(dialect.prefix) for line in lines):
            return kind
    return ""


def read(text: str) -> Reading:
    """Translate a metrics page. What is unknown is ignored, what is missing or no number is left out.

    Raises
    ------
    ValueError
        When a line that we need is not of Prometheus's format.
    """
    page = text.splitlines()
    kind = kind_of(page)
    if not kind:
        return Reading("", {})
    terms = SERVERS[kind].terms
    wanted = {native.name for term in terms.values() for way in term.alternatives for native in way}
    # Hundreds of histogram buckets would take most of the time, once a second.
    prefixes = tuple(wanted)
    lines = [line for line in page if line.startswith(prefixes)]
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name in wanted and abs(sample.value) < float("inf"):
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    values = {name: value for name, term in terms.items() if (value := _value(term, samples)) is not None}
    return Reading(kind, values)


def _value(term: Term, samples: Mapping[str, list[tuple[Mapping[str, str], float]]]) -> float | None:
    for way in term.alternatives:
        found = [
            [value for labels, value in samples.get(native.name, ()) if native.labels.items() <= labels.items()]
            for native in way
        ]
        if all(found):
            return sum(term.joined(values) for values in found)
    return None
