"""A sentence-transformers model run by ONNX Runtime, without torch.

A model is a directory, as sentence-transformers writes it:

- `modules.json`: the steps, here a transformer, a pooling and perhaps a normalisation;
- `sentence_bert_config.json`, `tokenizer_config.json`: the most tokens it reads;
- `tokenizer.json`: the tokenizer; `1_Pooling/config.json`: how tokens become one vector;
- `onnx/model.onnx` or `model.onnx`: the transformer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import onnxruntime
import structlog
from huggingface_hub.utils.tqdm import disable_progress_bars
from tokenizers import Tokenizer

from pdf_processor.errors import EmbeddingUnavailable

logger = structlog.get_logger()

Floats = npt.NDArray[np.float32]
Pooling = Callable[[Floats, Floats], Floats]

_ONNX_FILES = ("onnx/model.onnx", "model.onnx")
_WANTED_FILES = ["*.json", "onnx/model.onnx*", "model.onnx*"]
_KNOWN_STEPS = {"Transformer", "Pooling", "Normalize"}
_PAD_TOKENS = ("[PAD]", "<pad>")
_DEFAULT_MAX_TOKENS = 512
_UNLIMITED = 1_000_000
"""Tokenizers without a limit say 1e30."""


def locate(name: str) -> Path:
    """Return the directory of a model: `name` itself, or a download of it from a hub.

    `HF_HUB_OFFLINE=1` keeps it to what was downloaded before.

    Raises:
        EmbeddingUnavailable: it is no directory, and no hub has it or can be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    disable_progress_bars()
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_WANTED_FILES))
    except Exception as error:  # noqa: BLE001 -- a hub fails in many ways
        raise EmbeddingUnavailable(
            f"The local model {name} is no directory and could not be downloaded "
            f"({type(error).__name__}): set LOCAL_EMBEDDING_MODEL to a directory with a "
            "sentence-transformers model that has an ONNX file"
        ) from None


class SentenceModel:
    """A loaded model. `embed` may run in any one thread, `count_tokens` in any.

    Duties: read the model's own files for what it does; count tokens; turn texts into
    vectors just as sentence-transformers would.
    """

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        """Use at most `threads` threads: by default half of the cores, for parsers need some.

        Raises:
            EmbeddingUnavailable: a file is missing or unfit, and which.
        """
        try:
            self._read(directory, threads or max(1, (os.cpu_count() or 1) // 2))
        except EmbeddingUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime and tokenizers raise anything
            logger.warning("local model not loaded", directory=str(directory), error=str(error))
            missing = error.filename if isinstance(error, FileNotFoundError) else None
            problem = f"{Path(missing).name} is missing" if missing else type(error).__name__
            raise EmbeddingUnavailable(
                f"The local model in {directory.name} cannot be loaded ({problem}): see "
                "LOCAL_EMBEDDING_MODEL"
            ) from None

    def _read(self, directory: Path, threads: int) -> None:
        modules = _json(directory / "modules.json")
        steps = {step["type"].rsplit(".", 1)[-1]: directory / step["path"] for step in modules}
        if unknown := steps.keys() - _KNOWN_STEPS:
            raise EmbeddingUnavailable(
                f"The local model in {directory.name} has steps that are not supported: "
                f"{', '.join(sorted(unknown))}"
            )
        self._normalize = "Normalize" in steps
        self._pool = _pooling(_json(steps["Pooling"] / "config.json"))
        self._tokenizer = _tokenizer(steps["Transformer"])
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self.max_tokens = _max_tokens(steps["Transformer"]) - special
        self._session = _session(steps["Transformer"], threads)
        self._inputs = {node.name for node in self._session.get_inputs()}

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text`, without those that the model adds around it."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, none of which is longer than `max_tokens`."""
        encoded = self._tokenizer.encode_batch(list(texts))
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        feeds = {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([one.type_ids for one in encoded], dtype=np.int64),
        }
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        tokens: Floats = self._session.run(None, feeds)[0]
        vectors = self._pool(tokens, mask[:, :, np.newaxis].astype(np.float32))
        if self._normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
        rows: list[list[float]] = vectors.tolist()
        return rows


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _tokenizer(directory: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    pad_ids = {token: tokenizer.token_to_id(token) for token in _PAD_TOKENS}
    pad_token = next(token for token, pad_id in pad_ids.items() if pad_id is not None)
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=pad_ids[pad_token], pad_token=pad_token)
    return tokenizer


def _max_tokens(directory: Path) -> int:
    """Return the most tokens the model reads, special ones included."""
    for file, name in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        path = directory / file
        limit = _json(path).get(name) if path.exists() else None
        if limit and limit < _UNLIMITED:
            return int(limit)
    return _DEFAULT_MAX_TOKENS


def _session(directory: Path, threads: int) -> onnxruntime.InferenceSession:
    found = [directory / file for file in _ONNX_FILES if (directory / file).exists()]
    if not found:
        raise EmbeddingUnavailable(
            f"The local model in {directory.name} has no ONNX file: "
            f"it must be {' or '.join(_ONNX_FILES)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would otherwise spin, at the cost of the parsers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(found[0]), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _pooling(config: dict[str, Any]) -> Pooling:
    """Return how the vectors of tokens become one: (texts, tokens, length), mask → (texts, length).

    Newer files name the mode; older ones set a flag for each.
    """
    flags = [key for key, value in config.items() if key.startswith(_FLAG) and value]
    modes = [config["pooling_mode"]] if "pooling_mode" in config else flags
    names = [re.sub(rf"{_FLAG}|_tokens?$", "", mode) for mode in modes]
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise EmbeddingUnavailable(
            f"The local model pools by {' and '.join(names)}; supported is one of "
            f"{', '.join(_POOLINGS)}"
        )
    return _POOLINGS[names[0]]


def _mean(tokens: Floats, mask: Floats) -> Floats:
    mean: Floats = (tokens * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1e-9)
    return mean


def _first(tokens: Floats, mask: Floats) -> Floats:  # noqa: ARG001 -- one signature for all
    return tokens[:, 0]


def _largest(tokens: Floats, mask: Floats) -> Floats:
    largest: Floats = np.where(mask > 0, tokens, np.float32(-1e9)).max(axis=1)
    return largest


_FLAG = "pooling_mode_"
_POOLINGS: dict[str, Pooling] = {"mean": _mean, "cls": _first, "max": _largest}
