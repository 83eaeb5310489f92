"""One process that scores: answers as JSON lines on its input, one JSON list of scores on its output.

It reads to the end before it works and has no other business, so it ends with its parent, whatever ended that.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from harness.expected import Expected
from harness.quality import SCORERS, Answer, score


def answer_of(output: dict[str, Any]) -> Answer:
    """From a line of ``outputs.jsonl``."""
    expected = Expected.model_validate(output.get("expected", {}))
    return Answer(output["text"], output["prompt"], expected, output["finish_reason"])


def main() -> None:
    """``scores``: one object an answer; ``corpus``: the figures over all of them, with their signatures."""
    answers = [answer_of(json.loads(line)) for line in sys.stdin]
    if sys.argv[1:] == ["corpus"]:
        found = {name: made for name, each in SCORERS.items() if each.corpus and (made := each.corpus(answers))}
        told: Any = {"corpus": found, "signatures": {name: SCORERS[name].signature() for name in found}}
    else:
        told = [{"says_something": each.expected.says_something, **score(each)} for each in answers]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
