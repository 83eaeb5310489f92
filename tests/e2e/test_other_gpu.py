"""A stack on GPUs, started for real on a machine that has others: refused, or run and marked.

The GPU is a stand-in for the module ``pynvml``, first on the path of the child processes; the engine is llama.cpp.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.judgement import Mark
from servers.environments import ENVIRONMENTS, problems
from tests.e2e.processes import ROOT, assert_no_trace, assert_nothing_left, harness, judgement_of, manifest_of

pytestmark = pytest.mark.skipif(
    bool(problems(ENVIRONMENTS["llamacpp"])), reason="no llama.cpp here: make engine-llamacpp"
)

FAKE = """
from types import SimpleNamespace as _Facts
class NVMLError(Exception): pass
NVML_ERROR_LIBRARY_NOT_FOUND = 12
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "570.1"
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return "NVIDIA H200"
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
def nvmlDeviceGetMemoryInfo(handle): return _Facts(total=int(139.8 * 2**30), used=[100 << 30, 1 << 30][handle])
def nvmlDeviceGetCudaComputeCapability(handle): return 9, 0
def nvmlDeviceGetMigMode(handle): raise NVMLError("Not Supported")
def nvmlDeviceGetComputeRunningProcesses(handle): return []
def _unsupported(*_): raise NVMLError("Not Supported")
def __getattr__(name):
    if name.startswith("nvml"): return _unsupported
    if name.startswith("NVML_"): return 0
    raise AttributeError(name)
"""
STACK = """
kind: stack
name: smollm2-t4
title: SmolLM2 on one T4
engine: llamacpp
model: {name: SmolLM2-135M, parameters: 134.5e+6, layers: 30, hidden: 576, kv_heads: 3, head_dim: 64, weight_bytes: 2}
hardware: {gpu: t4}
price: {kind: hourly, usd_per_gpu_hour: 0.35, source: {text: a test}}
launch: {served_model: smollm2, threads: 1}
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str | Path, ...]:
    (tmp_path / "pynvml.py").write_text(FAKE)
    (tmp_path / "stack.yaml").write_text(STACK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    load = ("--users", "1", "--think-time", "0.2", "--output-tokens", "4", "--run-time", "5")
    return ("run", "chatbot", "--catalog", tmp_path / "stack.yaml", "--stack", "smollm2-t4", "--real", *load)


def test_refused_and_nothing_started(options: tuple[str | Path, ...], tmp_path: Path) -> None:
    ended = harness(*options, "--run-dir", tmp_path / "run")
    assert ended.code == 3
    assert "wants 1 x NVIDIA T4 16 GB, this machine has 2 x NVIDIA H200; --allow-other-gpu" in ended.err
    assert_no_trace(ended.out, ended.err)
    assert_nothing_left(tmp_path / "run")


def test_allowed_and_marked(options: tuple[str | Path, ...], tmp_path: Path) -> None:
    ended = harness(*options, "--allow-other-gpu", "--run-dir", tmp_path / "run")
    assert_no_trace(ended.out, ended.err)
    judgement, manifest = judgement_of(tmp_path / "run"), manifest_of(tmp_path / "run")
    assert judgement.marks[0] is Mark.OTHER_GPU
    assert "[OTHER GPU]" in ended.out
    assert judgement.cost is None
    assert (manifest.other_gpu, manifest.gpu and manifest.gpu.name) == ("1 x NVIDIA H200", "h200")
    assert manifest.gpus == ("NVIDIA H200, 139.8 GiB, compute capability 9.0, driver 570.1",) * 2
    [facts] = manifest.gpu_facts  # the other one is in use
    assert (facts.index, facts.driver, facts.compute_capability) == (1, "570.1", 9.0)
    assert manifest.server.gpus == (1,)
    assert str(manifest.server.details["model_digest"]).startswith("sha256:b179c952")
    assert_nothing_left(tmp_path / "run")
