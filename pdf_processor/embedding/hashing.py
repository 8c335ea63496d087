"""A stand-in for an embedding model, for demonstrations: no language model at all."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.embedding.provider import Provider

DIMENSION = 256

_WORD = re.compile(r"\w+")
_N_GRAM = 3
_N_GRAM_WEIGHT = 0.5


class HashingProvider(Provider):
    """Counts hashed words and letter triples: **not a language model**.

    Two texts come out alike if they share words or parts of words, and for no other
    reason: it knows no meanings, synonyms or languages. It needs no key, no download and
    no network, and is there so that the whole processor can be tried. Never use it for
    search that matters.

    The features are signed and hashed into 256 dimensions (Weinberger et al., "Feature
    Hashing for Large Scale Multitask Learning", 2009), with BLAKE2b, so that vectors are
    the same in every process; then scaled to length 1.
    """

    needs_key = False
    default_model = "feature-hashing-256"
    dimension = DIMENSION
    limits = BatchLimits(max_texts=64, max_tokens=32_000, max_tokens_per_text=8_192)

    def accepts(self, model: str) -> bool:
        """There is but one."""
        return model == self.default_model

    async def embed_batch(
        self,
        texts: Sequence[str],
        *,
        model: str,  # noqa: ARG002 -- there is but one
        api_key: SecretStr | None,  # noqa: ARG002 -- none is needed
    ) -> Sequence[Sequence[float]]:
        """Return one vector of length 1 for each text."""
        return await asyncio.to_thread(lambda: [_vector(text) for text in texts])


def _vector(text: str) -> list[float]:
    sums = [0.0] * DIMENSION
    for feature, weight in _features(text.lower()).items():
        place = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        sign = 1.0 if place[3] & 1 else -1.0
        sums[int.from_bytes(place[:3], "big") % DIMENSION] += sign * weight
    length = math.hypot(*sums)
    return [value / length for value in sums] if length else [1.0, *sums[1:]]


def _features(text: str) -> dict[str, float]:
    """Return the weight of each word and letter triple: the square root of its count."""
    words = _WORD.findall(text) or [text]
    weights = {f"word {word}": math.sqrt(count) for word, count in Counter(words).items()}
    triples = Counter(triple for word in words for triple in _triples(f"<{word}>"))
    for triple, count in triples.items():
        weights[f"part {triple}"] = _N_GRAM_WEIGHT * math.sqrt(count)
    return weights


def _triples(word: str) -> Iterator[str]:
    yield from (word[at : at + _N_GRAM] for at in range(len(word) - _N_GRAM + 1))
