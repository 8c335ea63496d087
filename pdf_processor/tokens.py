"""How many tokens a text has, where the model's own tokenizer is not at hand.

OpenAI's tokenizer fetches its vocabulary from the internet at first use and Gemini's is
not public, so for both the number is estimated. What counts as one token was fitted on
1.7 million characters of PDF text (English, German, Chinese, Japanese, Korean, tables,
formulas) in pieces of 2,000, against three BPE vocabularies (OpenAI's cl100k, those of
DeepSeek and Claude) and BERT's WordPiece. English comes out about a quarter too high;
95 of 100 pieces are at most 6 % too low in any of the four, 99 at most 16 %. Only text
that is no language (keys, base64) has twice as many tokens as estimated.
"""

from __future__ import annotations

import re

_LATIN = "A-Za-z\u00aa-\u024f"

_TOKEN = re.compile(
    rf"""
      [{_LATIN}]{{1,4}}       # four letters of a word
    | [0-9]{{1,2}}            # two digits of a number
    | \n+                     # line breaks in a row
    | [^\s0-9{_LATIN}]        # each sign, each character of any other script
    """,
    re.VERBOSE,
)
_SECOND_TOKEN = re.compile("[\u0f00-\u1cff\u2190-\u2bff\uac00-\uf8ff\U00010000-\U0010ffff]")
"""Tibetan to Khmer and their neighbours, mathematics, Hangul, private use, emoji: one more."""


def estimate_tokens(text: str) -> int:
    """Estimate, on the high side, how many tokens of a BPE or WordPiece tokenizer `text` has.

    Special tokens that a model adds around a text are not counted. Adding text never
    lowers the number, and joining two texts gives their sum or one less. Takes about
    50 microseconds for 1,000 characters.
    """
    count = len(_TOKEN.findall(text))
    return count if text.isascii() else count + len(_SECOND_TOKEN.findall(text))
