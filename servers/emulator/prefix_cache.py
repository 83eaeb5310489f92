"""Automatic prefix caching, as vLLM does it: the KV of whole blocks is found again by a hash of all that precedes.

Simplified: a prompt's blocks count as computed as soon as it arrives, and requests that run take nothing from the
cache's memory, so that what this shows is the most that a prefix cache can spare.
"""

from __future__ import annotations

from collections import OrderedDict

from servers.emulator.wire import CHARACTERS_PER_TOKEN

BLOCK_TOKENS = 16
_BLOCK = BLOCK_TOKENS * CHARACTERS_PER_TOKEN


class PrefixCache:
    """Blocks of prompts, the least recently used forgotten first."""

    def __init__(self, capacity_tokens: int) -> None:
        self._most = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def recall(self, prompt: str) -> int:
        """Tokens at the prompt's start that were there already; from now on all its whole blocks are."""
        found = behind = 0
        unbroken = True
        for start in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
            behind = hash((behind, prompt[start : start + _BLOCK]))
            unbroken = unbroken and behind in self._blocks
            found += unbroken
            self._blocks[behind] = None
            self._blocks.move_to_end(behind)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return found * BLOCK_TOKENS
