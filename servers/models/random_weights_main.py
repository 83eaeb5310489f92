"""Makes a model of a given shape with random weights, without a network: latency does not depend on what weights say.

Run by any Python that has torch, transformers, safetensors and tokenizers, on a GPU where there is one:
``python random_weights_main.py --shape 7b --target DIRECTORY [--dtype float16] [--source DIRECTORY]``.

The answers are noise. Their length is always the one asked for: the row of ``lm_head`` that belongs to the end of an
answer is zero, and a logit of 0 is never the largest of thousands of random ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARD_BYTES = 4 << 30
"""A shard is held in memory until it is written."""
INITIAL_STD = 0.02
SEED = 20260101
END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A Llama architecture."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int


SHAPES = {
    "7b": Shape(32, 4096, 32, 32, 11008, 32000, 4096),
    "13b": Shape(40, 5120, 40, 40, 13824, 32000, 4096),
    "tiny": Shape(2, 64, 4, 2, 128, 1024, 4096),
}
"""7b and 13b are Llama 2's (Touvron et al. 2023); tiny is for tests."""


def config_of(shape: Shape, vocabulary: int, dtype: str, end_id: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
        "dtype": dtype,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": INITIAL_STD,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocabulary,
    }


def tensors_of(shape: Shape, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and size of every tensor, in the order in which they are written."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (vocabulary, shape.hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (shape.hidden,)
        yield prefix + "self_attn.q_proj.weight", (shape.hidden, shape.hidden)
        yield prefix + "self_attn.k_proj.weight", (kv, shape.hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, shape.hidden)
        yield prefix + "self_attn.o_proj.weight", (shape.hidden, shape.hidden)
        yield prefix + "post_attention_layernorm.weight", (shape.hidden,)
        yield prefix + "mlp.gate_proj.weight", (shape.intermediate, shape.hidden)
        yield prefix + "mlp.up_proj.weight", (shape.intermediate, shape.hidden)
        yield prefix + "mlp.down_proj.weight", (shape.hidden, shape.intermediate)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (vocabulary, shape.hidden)


def write_weights(target: Path, shape: Shape, vocabulary: int, dtype: str, end_id: int, device: str) -> int:
    """Write all shards and their index; return the number of parameters."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    kind = getattr(torch, dtype)
    sizes = list(tensors_of(shape, vocabulary))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, size in sizes:
        need = math.prod(size) * kind.itemsize
        if shards[-1] and filled + need > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, size))
        filled += need
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        held = {}
        for name, size in shard:
            tensor = torch.empty(size, dtype=kind, device=device)
            if len(size) == 1:
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, INITIAL_STD)
            if name == "lm_head.weight":
                tensor[end_id].zero_()
            held[name] = tensor.cpu()
            places[name] = file
        save_file(held, target / file, metadata={"format": "pt"})
        print(f"{file}: {sum(each.nbytes for each in held.values()) / 1e9:.1f} GB", flush=True)
    parameters = sum(math.prod(size) for _, size in sizes)
    index = {"metadata": {"total_size": parameters * kind.itemsize}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return parameters


def build_tokenizer(vocabulary: int) -> Any:
    """Byte pairs learnt from the texts of Python's own help, which every Python holds.

    They reach a few thousand; the rest of the vocabulary are made-up words that no prompt contains, so that whatever
    a random model says is text.
    """
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([topics[name] for name in sorted(topics)], trainer)
    document = json.loads(tokenizer.to_str())
    known = document["model"]["vocab"]
    for number in range(len(known), vocabulary):
        known[f"Ġword{number}"] = number
    return Tokenizer.from_str(json.dumps(document))


def write_tokenizer(target: Path, source: Path | None, vocabulary: int) -> tuple[int, int]:
    """Write tokenizer and chat template; return the size of the vocabulary and the id that ends an answer."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if source is not None:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            raise SystemExit(f"the tokenizer in {source} has no chat template or no token that ends an answer")
    else:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=build_tokenizer(vocabulary), eos_token=END, pad_token=END, bos_token=END
        )
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(target)
    return max(vocabulary, len(tokenizer)), int(tokenizer.eos_token_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--target", type=Path, required=True, help="a directory that is made")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--source", type=Path, help="whose tokenizer is taken; default: one is built")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import torch

    began = time.monotonic()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[options.shape]
    options.target.mkdir(parents=True)
    vocabulary, end_id = write_tokenizer(options.target, options.source, shape.vocabulary)
    config = config_of(shape, vocabulary, options.dtype, end_id)
    (options.target / "config.json").write_text(json.dumps(config, indent=1))
    generation = {"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": end_id}
    (options.target / "generation_config.json").write_text(json.dumps(generation, indent=1))
    parameters = write_weights(options.target, shape, vocabulary, options.dtype, end_id, device)
    took_s = time.monotonic() - began
    print(
        f"{parameters / 1e9:.3f} billion parameters in {options.dtype}, made on {device} in {took_s:.1f} s", flush=True
    )


if __name__ == "__main__":
    main()
