"""Snapshots of a running cell, made of the pieces of real judgements."""

from __future__ import annotations

import json
import time
from typing import Any

from harness.judgement import Judgement
from harness.snapshot import LiveClient, Snapshot
from tests import factories
from tests.hostile import hostile


def snapshot(judgement: Judgement | None = None, **changes: Any) -> Snapshot:
    """What would have been seen 40 s into a run of 62 s that ended with this judgement."""
    found = judgement or factories.judgement("chatbot", "vllm-7b-int8-a100", median_s=1.0)
    load = found.load
    facts: dict[str, Any] = {
        "run": found.run or "r",
        "scenario": found.scenario,
        "stack": found.stack,
        "written_at_s": time.time(),
        "elapsed_s": 40.0,
        "warm_up_s": 10.0,
        "run_time_s": 60.0,
        "users": load.users_reached,
        "users_asked": load.users,
        "in_flight": 14,
        "completed": load.requests,
        "failed": sum(each.count for each in found.outcomes if each.outcome != "ok"),
        "judged": load.judged,
        "throughput_rps": load.throughput_rps,
        "output_tokens_per_s": load.output_tokens_per_s,
        "slo_attainment": found.slo_attainment,
        "verdict": found.verdict,
        "sentence": found.sentence,
        "checks": found.checks,
        "distributions": found.distributions,
        "client": LiveClient(hub_lag_p99_s=0.0031, cpu_share_max=0.42),
    }
    return Snapshot(**{**facts, **changes})


def attacked() -> Snapshot:
    """Every free text of it attacks the page, as far as a file can hold it: no lone half of a character."""
    text = json.dumps(hostile(snapshot().model_dump()))
    return Snapshot.model_validate_json(text.replace("\\ud800", ""))
