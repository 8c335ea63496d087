"""The estimate, beside counts of real tokenizers that were noted when it was fitted."""

from __future__ import annotations

import itertools

import pytest

from pdf_processor.tokens import estimate_tokens

ENGLISH = (
    "The processor reads each document page by page and streams what it has found to the "
    "receiver, long before the last page is parsed."
)
GERMAN = (
    "Die Verarbeitung beginnt, sobald die erste Seite gelesen wurde; Zwischenüberschriften "
    "und Aufzählungen bleiben erhalten."
)
FRENCH = (
    "Dès que la première page est lue, les sections sont envoyées au récepteur avec leurs "
    "numéros et leurs titres."
)
CHINESE = "处理器逐页读取文档,并在解析最后一页之前很久就把找到的章节发送给接收方。"
JAPANESE = "プロセッサーは文書をページごとに読み取り、見つけた節を受信側に送ります。"
KOREAN = "프로세서는 문서를 한 페이지씩 읽고 찾은 절을 수신자에게 보냅니다."
TABLE = "| 2024-01-31 | 1,250.00 | 17.5 % |\n| 2024-02-29 | 980.40 | 3.25 % |\n"

# text, tokens by OpenAI's cl100k, by the vocabulary of DeepSeek
COUNTED = [
    (ENGLISH, 26, 26),
    (GERMAN, 31, 32),
    (FRENCH, 29, 29),
    (CHINESE, 38, 21),
    (JAPANESE, 38, 26),
    (KOREAN, 34, 26),
    (TABLE, 42, 42),
]


@pytest.mark.parametrize(("text", "cl100k", "deepseek"), COUNTED)
def test_is_close_to_real_tokenizers_and_hardly_below(
    text: str, cl100k: int, deepseek: int
) -> None:
    estimate = estimate_tokens(text)
    assert estimate >= 0.94 * max(cl100k, deepseek)
    assert estimate <= 1.7 * cl100k


def test_nothing_has_no_tokens() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens(" \t ") == 0


def test_joining_texts_gives_their_sum_or_one_less() -> None:
    texts = [text for text, *_ in COUNTED] + ["", "\n", "Wort", "7", "7.", " "]
    for first, second in itertools.product(texts, repeat=2):
        apart = estimate_tokens(first) + estimate_tokens(second)
        assert apart - 1 <= estimate_tokens(first + second) <= apart


def test_more_text_never_has_fewer_tokens() -> None:
    text = "".join(text for text, *_ in COUNTED)
    counts = [estimate_tokens(text[:end]) for end in range(len(text) + 1)]
    assert counts == sorted(counts)


def test_emoji_and_hangul_count_twice() -> None:
    assert estimate_tokens("🙂") == 2
    assert estimate_tokens("한글") == 4
