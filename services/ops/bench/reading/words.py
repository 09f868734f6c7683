"""Text that packs as badly as real text does: a large vocabulary, its words as unequal as a language's.

A few hundred words again and again would make every figure of memory too good.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from random import Random
from typing import Final

VOCABULARY: Final = 40_000
_LETTERS: Final = "b c d f g h j k l m n p r s t v w br cl dr fl gr pl pr sh sl sp st th tr wh"
_ONSETS: Final = tuple(_LETTERS.split())
_VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oa", "ou")
_ENDS: Final = ("", "", "", "n", "r", "s", "t", "l", "d", "ng", "nt", "st", "rs", "ck")
_CLOSERS: Final = (".", ".", ".", "?", "!", ",", ",", ";")


class Words:
    """Draws words of one made-up language, by Zipf's law: the n-th most frequent is n times as rare as the
    first (G. K. Zipf, "Human Behavior and the Principle of Least Effort", 1949)."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - texts, not secrets
        found: dict[str, None] = {}
        while len(found) < VOCABULARY:
            # The frequent words of a language are its short ones.
            syllables = 1 + (len(found) > 400) + (len(found) > 6000 and random.random() < 0.6)
            found["".join(self._syllable(random) for _ in range(syllables))] = None
        self._words = tuple(found)
        self._weights = list(accumulate(1 / place for place in range(1, VOCABULARY + 1)))

    @staticmethod
    def _syllable(random: Random) -> str:
        return random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_ENDS)

    def text(self, random: Random, size: int = 300) -> str:
        """Sentences of `size` characters in all."""
        words, weights, total = self._words, self._weights, self._weights[-1]
        parts: list[str] = []
        length, begins = 0, True
        while length < size:
            word = words[bisect(weights, random.random() * total)]
            if begins:
                word = word.capitalize()
            begins = random.random() < 0.09
            if begins:
                word += random.choice(_CLOSERS)
            parts.append(word)
            length += len(word) + 1
        return " ".join(parts)[: size - 1].rstrip() + "."
