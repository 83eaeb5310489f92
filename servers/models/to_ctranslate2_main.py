"""Converts a MarianMT or M2M-100 model in Hugging Face's format for CTranslate2, with its own converter.

Beside the weights it leaves the SentencePiece models and ``tokenization.json``: what a sentence needs around it for a
target language, so that the server needs neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

END = "</s>"
ISO_639_2 = {
    "ar": "ara", "de": "deu", "en": "eng", "es": "spa", "fr": "fra", "hi": "hin", "it": "ita", "ja": "jpn",
    "nl": "nld", "pl": "pol", "pt": "por", "ru": "rus", "sv": "swe", "tr": "tur", "uk": "ukr", "zh": "zho",
}  # fmt: skip
"""What many models of OPUS-MT call a language."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True, help="a directory that is made")
    parser.add_argument("--quantization", default="int8", help="int8, int8_float16, float16 or float32")
    parser.add_argument("--source-language", default="en", help="of the sentences, where a model has to be told")
    parser.add_argument("--default-target", default="fr", help="language of a sentence that names none")
    options = parser.parse_args()

    from ctranslate2.converters import TransformersConverter

    config = json.loads((options.source / "config.json").read_text(encoding="utf-8"))
    kind = config["model_type"]
    if kind not in READERS:
        print(f"cannot convert a model of type '{kind}'; known are {', '.join(READERS)}", file=sys.stderr)
        return 1
    TransformersConverter(str(options.source)).convert(str(options.target), quantization=options.quantization)
    tokenization = READERS[kind](options.source, options.target, options.source_language)
    known = list(tokenization["source_prefix"])
    tokenization["default_target"] = options.default_target if options.default_target in known else known[0]
    text = json.dumps(tokenization, ensure_ascii=False, indent=1, sort_keys=True)
    (options.target / "tokenization.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _marian(source: Path, target: Path, _language: str) -> dict[str, Any]:
    """OPUS-MT: one target language, or a token such as ``>>fr<<`` before the sentence that names it."""
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(source / name, target / name)
    vocabulary = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    markers = {found[1]: token for token in vocabulary if (found := re.fullmatch(r">>(\w+)<<", token))}
    for short, long in ISO_639_2.items():
        if long in markers:
            markers.setdefault(short, markers[long])
    prefixes = {language: [token] for language, token in markers.items()} or {str(settings["target_lang"]): []}
    return {
        "source_pieces": "source.spm",
        "target_pieces": "target.spm",
        "source_prefix": prefixes,
        "source_suffix": [END],
        "target_prefix": {language: [] for language in prefixes},
    }


def _m2m100(source: Path, target: Path, language: str) -> dict[str, Any]:
    """M2M-100: the source's language before the sentence, the target's as the first token of the translation."""
    shutil.copyfile(source / "sentencepiece.bpe.model", target / "pieces.spm")
    vocabulary = json.loads((target / "shared_vocabulary.json").read_text(encoding="utf-8"))
    codes = [found[1] for token in vocabulary if (found := re.fullmatch(r"__(\w+)__", token))]
    if language not in codes:
        raise SystemExit(f"the model does not know the source language '{language}'; it knows {', '.join(codes)}")
    return {
        "source_pieces": "pieces.spm",
        "target_pieces": "pieces.spm",
        "source_prefix": {code: [f"__{language}__"] for code in codes},
        "source_suffix": [END],
        "target_prefix": {code: [f"__{code}__"] for code in codes},
    }


READERS = {"marian": _marian, "m2m_100": _m2m100}
"""``model_type`` of a model's ``config.json`` to what knows its tokens."""


if __name__ == "__main__":
    sys.exit(main())
