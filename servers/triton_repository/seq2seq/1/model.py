"""A translation model of CTranslate2 (encoder and decoder) behind Triton's Python backend.

``text_input`` is the sentence alone behind its target language as OPUS-MT's models write it, ``>>fr<< Good morning``;
one that names none goes into the language that was chosen when the model was converted. What a model wants around a
sentence is in the ``tokenization.json`` that its conversion left.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import ctranslate2
import sentencepiece
from batching import Answer, Run
from streaming import StreamingModel

MARKED = re.compile(r"\s*>>(\w+)<<\s*(.*)", re.DOTALL)
SPACE = "\u2581"
"""How SentencePiece writes the space before a word."""


class TritonPythonModel(StreamingModel):
    def engine(self, parameters: dict[str, str], device: int | None) -> Run:
        return Translator(
            Path(parameters["model"]), int(parameters["context_tokens"]), int(parameters["threads"]), device
        )


class Translator:
    def __init__(self, directory: Path, context_tokens: int, threads: int, device: int | None) -> None:
        on = {"device": "cpu"} if device is None else {"device": "cuda", "device_index": device}
        self._translator = ctranslate2.Translator(str(directory), intra_threads=threads, **on)
        self._around = json.loads((directory / "tokenization.json").read_text(encoding="utf-8"))
        pieces = directory / self._around["source_pieces"]
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
        self._context_tokens = context_tokens

    def __call__(self, batch: list[Answer]) -> None:
        rows = [(answer, found) for answer in batch if (found := self._source(answer)) is not None]
        if not rows:
            return
        answers = [answer for answer, _ in rows]
        sampling = answers[0].sampling  # those of all rows: Sampling.may_join
        longest = max(answer.sampling.max_tokens for answer in answers)
        if sampling.seed is not None:
            ctranslate2.set_random_seed(sampling.seed % 2**32)
        prefixes = [prefix for _, (_, prefix) in rows]

        def heard(step: ctranslate2.GenerationStepResult) -> bool:
            """Pass one token on; true ends its row."""
            answer = answers[step.batch_id]
            # A prefix that the decoder was given is no part of the translation, but it is a step.
            if step.step < len(prefixes[step.batch_id]) and step.token == prefixes[step.batch_id][step.step]:
                return False
            if step.is_last and step.token == "</s>":
                answer.stop()
            else:
                piece = step.token.replace(SPACE, " ")
                answer.add(piece if answer.tokens else piece.lstrip())
            return answer.ended

        self._translator.translate_batch(
            [source for _, (source, _) in rows],
            target_prefix=prefixes,
            beam_size=1,  # tokens are heard as they come, which several beams do not allow
            max_input_length=0,
            max_decoding_length=longest + max(map(len, prefixes)),
            min_decoding_length=longest if sampling.ignore_eos else 1,
            sampling_topk=1 if sampling.greedy else sampling.top_k,
            sampling_topp=1 if sampling.greedy else sampling.top_p,
            sampling_temperature=1 if sampling.greedy else sampling.temperature,
            callback=heard,
        )

    def _source(self, answer: Answer) -> tuple[list[str], list[str]] | None:
        """The tokens of the source, and those that the translation begins with; None if it cannot be translated."""
        marked = MARKED.fullmatch(answer.text)
        known = self._around["source_prefix"]
        language, sentence = (marked[1], marked[2]) if marked else (self._around["default_target"], answer.text)
        if language not in known:
            answer.fail(f"this model translates into {', '.join(known)}, not into '{language}'")
            return None
        pieces = self._pieces.encode(sentence, out_type=str)
        if len(pieces) > self._context_tokens:
            answer.fail(f"the sentence has {len(pieces)} tokens, more than the model's {self._context_tokens}")
            return None
        return [*known[language], *pieces, *self._around["source_suffix"]], self._around["target_prefix"][language]
