"""The demonstration's embedder is deterministic and knows shared words, no more."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys

import pytest

from pdf_processor.embedding.hashing import DIMENSION, HashingProvider

TEXTS = ["The valve closes under pressure.", "A valve under pressure", "Invoices are due in May"]


async def vectors(*texts: str) -> list[list[float]]:
    provider = HashingProvider()
    return [
        list(vector)
        for vector in await provider.embed_batch(texts, model=provider.default_model, api_key=None)
    ]


def cosine(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("text", [*TEXTS, "", "...", "处理器逐页读取文档", "\ud800"])
async def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    [vector] = await vectors(text)
    assert len(vector) == DIMENSION
    assert math.hypot(*vector) == pytest.approx(1)


async def test_shared_words_make_texts_alike() -> None:
    about_valves, too, about_money = await vectors(*TEXTS)
    assert cosine(about_valves, too) > 0.5
    assert cosine(about_valves, about_money) < 0.2


async def test_parts_of_words_count_too() -> None:
    one, many, other = await vectors("pressurisation", "pressurised", "invoice")
    assert cosine(one, many) > cosine(one, other) + 0.2


async def test_capitals_make_no_difference() -> None:
    lower, upper = await vectors("valve", "VALVE")
    assert lower == upper


def test_vectors_are_the_same_in_every_process() -> None:
    code = (
        "import asyncio; from pdf_processor.embedding.hashing import HashingProvider as H; "
        "print(asyncio.run(H().embed_batch(['valve'], model='', api_key=None)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{asyncio.run(vectors('valve'))}\n"}
