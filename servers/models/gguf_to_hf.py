"""Converts a GGUF file into a directory in Hugging Face's format: run by the Python of the transformers environment."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--target", type=Path, required=True, help="a directory that is made")
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(options.source.parent), options.source.name
    options.target.mkdir(parents=True)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(options.target)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # An engine must not quantise again what has been dequantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(options.target)


if __name__ == "__main__":
    main()
