"""Builds a model of ONNX Runtime GenAI from a directory in Hugging Face's format, with the library's own builder."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True, help="a directory that is made")
    parser.add_argument("--precision", required=True, help="int4, int8, fp16 or fp32")
    parser.add_argument("--provider", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onnx-builder-", dir=options.target.parent) as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(options.source)]
        command += ["-o", str(options.target), "-p", options.precision, "-e", options.provider, "-c", cache]
        # Its progress bars would push out the lines that matter when it fails.
        variables = {**os.environ, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
