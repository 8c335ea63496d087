"""The local model: a tiny one made here, run by the real ONNX Runtime and tokenizers.

Its transformer looks each token up in a table of random vectors, so that what must come
out can be said without running it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from pdf_processor.embedding.bound import BoundEmbedder
from pdf_processor.embedding.local import LocalProvider
from pdf_processor.embedding.sentence_model import SentenceModel
from pdf_processor.errors import EmbeddingInvalid, EmbeddingRejected, EmbeddingUnavailable

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "valve", "closes", "under", "pressure"]
DIMENSION = 6
TABLE = np.random.default_rng(7).normal(size=(len(WORDS), DIMENSION)).astype(np.float32)
TABLE[0] = 10  # what pads a batch must not show in any vector
MAX_SEQUENCE = 8
TEXTS = ["the valve closes", "pressure", "under pressure the valve"]


def rows(text: str) -> np.ndarray[Any, Any]:
    """Return what the transformer makes of a text: (tokens, DIMENSION)."""
    return TABLE[[WORDS.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]]


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    unit_vector: np.ndarray[Any, Any] = vector / np.sqrt((vector**2).sum())
    return unit_vector


def write_onnx(path: Path) -> None:
    shape = ["batch", "tokens"]
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph(
        [node],
        "lookup",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, [*shape, DIMENSION]
            )
        ],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def write_model(
    directory: Path,
    *,
    pooling: dict[str, Any] | None = None,
    steps: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    onnx_file: str = "onnx/model.onnx",
) -> Path:
    """Write a directory as sentence-transformers does."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"path": paths.get(step, f"2_{step}"), "type": f"sentence_transformers.models.{step}"}
        for step in steps
    ]
    write_onnx(directory / onnx_file)
    (directory / "1_Pooling").mkdir()
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps(pooling or {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    (directory / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": MAX_SEQUENCE})
    )
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # What is trained is often saved with a limit of its own, which must not cut anything.
    tokenizer.enable_truncation(3)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def embedder(provider: LocalProvider) -> BoundEmbedder:
    return BoundEmbedder(provider, name="local", model=provider.default_model, api_key=None)


async def test_vectors_are_the_normalized_mean_of_the_tokens(tmp_path: Path) -> None:
    provider = LocalProvider(model=str(write_model(tmp_path / "tiny")))
    vectors = await embedder(provider).embed(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        assert vector == pytest.approx(unit(rows(text).mean(axis=0)), abs=1e-6)
    await provider.aclose()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, lambda tokens: tokens.mean(axis=0)),
        ({"pooling_mode_cls_token": True}, lambda tokens: tokens[0]),
        ({"pooling_mode_max_tokens": True}, lambda tokens: tokens.max(axis=0)),
        ({"pooling_mode": "max"}, lambda tokens: tokens.max(axis=0)),
    ],
)
def test_tokens_are_pooled_as_the_model_says(
    tmp_path: Path, pooling: dict[str, Any], expected: Any
) -> None:
    model = SentenceModel(
        write_model(tmp_path / "tiny", pooling=pooling, steps=("Transformer", "Pooling"))
    )
    for vector, text in zip(model.embed(TEXTS), TEXTS, strict=True):
        assert vector == pytest.approx(expected(rows(text)), abs=1e-6)


def test_the_onnx_file_may_stand_at_the_top(tmp_path: Path) -> None:
    model = SentenceModel(write_model(tmp_path / "tiny", onnx_file="model.onnx"))
    assert len(model.embed(["valve"])[0]) == DIMENSION


async def test_tokens_are_counted_by_the_models_own_tokenizer(tmp_path: Path) -> None:
    provider = LocalProvider(model=str(write_model(tmp_path / "tiny")))
    async with embedder(provider) as ready:
        assert ready.model == "tiny"
        assert ready.count_tokens("the valve closes under") == 4
        assert ready.limits.max_tokens_per_text == MAX_SEQUENCE - 2
    await provider.aclose()


async def test_a_text_of_just_the_limit_is_embedded_and_a_longer_one_refused(
    tmp_path: Path,
) -> None:
    provider = LocalProvider(model=str(write_model(tmp_path / "tiny")))
    longest = " ".join(["valve"] * (MAX_SEQUENCE - 2))
    assert len(await embedder(provider).embed([longest])) == 1
    with pytest.raises(EmbeddingRejected, match="7 tokens is too long: tiny reads 6"):
        await embedder(provider).embed(["valve", f"{longest} valve"])
    await provider.aclose()


async def test_another_dimension_than_configured_is_refused(tmp_path: Path) -> None:
    provider = LocalProvider(model=str(write_model(tmp_path / "tiny")), dimension=384)
    with pytest.raises(EmbeddingInvalid):
        await embedder(provider).embed(["valve"])
    await provider.aclose()


async def test_the_model_is_loaded_once_and_runs_off_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    threads: set[threading.Thread] = set()
    load, embed = SentenceModel.__init__, SentenceModel.embed

    def loading(self: SentenceModel, directory: Path) -> None:
        loads.append(directory)
        threads.add(threading.current_thread())
        load(self, directory)

    def embedding(self: SentenceModel, texts: list[str]) -> list[list[float]]:
        threads.add(threading.current_thread())
        return embed(self, texts)

    monkeypatch.setattr(SentenceModel, "__init__", loading)
    monkeypatch.setattr(SentenceModel, "embed", embedding)
    provider = LocalProvider(model=str(write_model(tmp_path / "tiny")))
    await asyncio.gather(*(embedder(provider).embed([text]) for text in TEXTS))
    assert len(loads) == 1
    assert threading.main_thread() not in threads
    await provider.aclose()


async def test_a_missing_extra_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pdf_processor.embedding.sentence_model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    provider = LocalProvider(model=str(tmp_path))
    with pytest.raises(EmbeddingUnavailable, match="`uv sync --extra local`"):
        await provider.prepare()


async def test_a_model_that_is_nowhere_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    provider = LocalProvider(model="nobody/no-such-model")
    with pytest.raises(EmbeddingUnavailable, match="set LOCAL_EMBEDDING_MODEL to a directory"):
        await embedder(provider).__aenter__()


async def test_a_model_downloaded_before_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--nobody--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    write_model(cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    provider = LocalProvider(model="nobody/tiny")
    assert len(await embedder(provider).embed(["valve"])) == 1
    assert provider.default_model == "nobody/tiny"
    await provider.aclose()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"onnx_file": "other.onnx"}, "has no ONNX file"),
        ({"steps": ("Transformer", "Pooling", "Dense")}, "steps that are not supported: Dense"),
        ({"pooling": {"pooling_mode_lasttoken": True}}, "pools by last"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            "pools by mean and max",
        ),
    ],
)
def test_a_model_that_cannot_be_run_says_why(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(EmbeddingUnavailable, match=says):
        SentenceModel(write_model(tmp_path / "tiny", **change))


def test_a_directory_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingUnavailable, match=r"modules\.json is missing"):
        SentenceModel(tmp_path)
