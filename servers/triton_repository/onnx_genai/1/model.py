"""A decoder of ONNX Runtime GenAI behind Triton's Python backend, one engine an instance.

Continuous batching of ONNX Runtime GenAI needs paged attention, which its builder makes for GPUs only: batches are
static (:mod:`batching`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from batching import Answer, Run
from streaming import StreamingModel


class TritonPythonModel(StreamingModel):
    def engine(self, parameters: dict[str, str], device: int | None) -> Run:
        return Decoder(Path(parameters["model"]), int(parameters["context_tokens"]), int(parameters["threads"]), device)


class Decoder:
    def __init__(self, directory: Path, context_tokens: int, threads: int, device: int | None) -> None:
        og.disable_telemetry_events()
        config = og.Config(str(directory))
        if threads:
            session = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        if device is not None:
            config.clear_providers()
            config.append_provider("cuda")
            config.set_provider_option("cuda", "device_id", str(device))
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        self._ends = frozenset(int(token) for token in self._tokenizer.eos_token_ids)
        self._pad = int(self._tokenizer.pad_token_id)
        self._context_tokens = context_tokens
        self._is_chat = (directory / "chat_template.jinja").is_file() or "chat_template" in json.loads(
            (directory / "tokenizer_config.json").read_text(encoding="utf-8")
        )

    def __call__(self, batch: list[Answer]) -> None:
        rows = [(answer, tokens) for answer in batch if (tokens := self._prompt(answer))]
        if not rows:
            return
        answers = [answer for answer, _ in rows]
        generator = self._generator([tokens for _, tokens in rows], answers)
        streams = [self._tokenizer.create_stream() for _ in rows]
        while not all(answer.ended for answer in answers):
            generator.generate_next_token()
            for answer, stream, token in zip(answers, streams, generator.get_next_tokens(), strict=True):
                if answer.ended:
                    continue
                if int(token) in self._ends:
                    answer.stop()
                else:
                    answer.add(stream.decode(token))

    def _prompt(self, answer: Answer) -> list[int]:
        """The prompt's tokens, of which there is at least one; none if it does not fit."""
        text = answer.text
        if self._is_chat:
            messages = json.dumps([{"role": "user", "content": text}])
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        tokens = [int(token) for token in self._tokenizer.encode(text)]
        wanted = len(tokens) + answer.sampling.max_tokens
        if wanted > self._context_tokens:
            answer.fail(
                f"the prompt's {len(tokens)} tokens and an answer of {answer.sampling.max_tokens} are more than "
                f"the context of {self._context_tokens}"
            )
            return []
        return tokens

    def _generator(self, prompts: list[list[int]], answers: list[Answer]) -> Any:
        longest = max(map(len, prompts))
        until = longest + max(answer.sampling.max_tokens for answer in answers)
        sampling = answers[0].sampling  # those of all rows: Sampling.may_join
        options: dict[str, Any] = {"batch_size": len(prompts), "max_length": until, "do_sample": not sampling.greedy}
        if sampling.ignore_eos:
            options["min_length"] = until
        if not sampling.greedy:
            options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed % 2**31  # the library's is a signed 32-bit number
        params = og.GeneratorParams(self._model)
        params.set_search_options(**options)
        generator = og.Generator(self._model, params)
        padded = np.full((len(prompts), longest), self._pad, dtype=np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt  # the library pads on the right, too
        generator.append_tokens(padded)
        return generator
