"""Providers by name: built in, installed, unknown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import SecretStr

from pdf_processor.embedding import providers as providers_module
from pdf_processor.embedding.provider import Provider
from pdf_processor.embedding.providers import ENTRY_POINT_GROUP, Providers, built_in
from pdf_processor.errors import EmbeddingAuth, EmbeddingRejected, EmbeddingUnavailable

BUILT_IN = built_in(
    openai_base_url="",
    openai_model="text-embedding-3-small",
    gemini_base_url="",
    gemini_model="gemini-embedding-001",
    local_model="sentence-transformers/some-model",
)

ONE_FILE = """
from pdf_processor.embedding.provider import Provider

class Constant(Provider):
    default_model = "constant-1"

    async def embed_batch(self, texts, *, model, api_key):
        return [[float(len(text)), 1.0] for text in texts]
"""


class Fixed(Provider):
    needs_key = False
    default_model = "fixed-1"

    def __init__(self) -> None:
        self.closed = 0

    async def embed_batch(
        self, texts: Sequence[str], *, model: str, api_key: SecretStr | None
    ) -> Sequence[Sequence[float]]:
        assert (model, api_key) == ("fixed-1", None)
        return [[1.0]] * len(texts)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a provider as another package would: `install(name, "module:Class")`."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(
        providers_module,
        "entry_points",
        lambda *, group: [one for one in found if one.group == group],
    )
    return lambda name, value: found.append(EntryPoint(name, value, ENTRY_POINT_GROUP))


def test_the_built_in_names_are_known() -> None:
    assert Providers(BUILT_IN).names() >= {"openai", "gemini", "local", "hashing", "none"}


def test_which_providers_need_a_key() -> None:
    providers = Providers(BUILT_IN)
    assert {name for name in providers.names() if providers.needs_key(name)} == {
        "openai",
        "gemini",
    }


@pytest.mark.parametrize("name", ["cohere", "", "none"])
def test_an_unknown_name_is_rejected_with_the_known_ones(name: str) -> None:
    with pytest.raises(EmbeddingRejected, match="known are gemini, hashing, local, openai"):
        Providers(BUILT_IN).open(name, api_key=SecretStr("k"))


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr("  ")])
def test_a_missing_key_is_refused_without_a_call(key: SecretStr | None) -> None:
    with pytest.raises(EmbeddingAuth, match="openai needs an API key"):
        Providers(BUILT_IN).open("openai", api_key=key)


def test_the_configured_model_is_the_default() -> None:
    providers = Providers(BUILT_IN)
    key = SecretStr("k")
    assert providers.open("openai", api_key=key).model == "text-embedding-3-small"
    assert providers.open("openai", api_key=key, model="other").model == "other"
    assert providers.open("openai", api_key=key).provider == "openai"


@pytest.mark.parametrize(
    ("name", "model"),
    [("local", "/etc"), ("local", "evil/model"), ("hashing", "x"), ("gemini", "../x"),
     ("gemini", "x?key=1")],
)  # fmt: skip
def test_a_model_that_may_not_be_asked_for_is_rejected(name: str, model: str) -> None:
    with pytest.raises(EmbeddingRejected, match="does not serve this model"):
        Providers(BUILT_IN).open(name, api_key=SecretStr("k"), model=model)


def test_no_sdk_is_imported_before_a_call() -> None:
    Providers(BUILT_IN).open("openai", api_key=SecretStr("k"))
    code = (
        "import sys; import pdf_processor.embedding.providers as p; "
        "print({'openai', 'google.genai', 'httpx2', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


async def test_a_provider_is_built_once_and_closed_at_the_end() -> None:
    built: list[Fixed] = []

    def build() -> Fixed:
        built.append(Fixed())
        return built[-1]

    async with Providers({"fixed": build}) as providers:
        assert built == []
        for _ in range(2):
            async with providers.open("fixed", api_key=SecretStr("unused")) as embedder:
                assert await embedder.embed(["a"]) == [(1.0,)]
        assert built[0].closed == 0
    assert [one.closed for one in built] == [1]


async def test_one_file_with_one_method_is_a_provider(
    install: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constant_embedder.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    install("constant", "constant_embedder:Constant")
    async with Providers(BUILT_IN) as providers:
        assert "constant" in providers.names()
        assert providers.needs_key("constant")
        async with providers.open("constant", api_key=SecretStr("k")) as embedder:
            assert embedder.model == "constant-1"
            assert embedder.count_tokens("four") == 1
            assert embedder.limits.max_texts > 1
            assert await embedder.embed(["ab", "c"]) == [(2.0, 1.0), (1.0, 1.0)]


def test_an_installed_provider_does_not_replace_a_built_in_one(
    install: Callable[[str, str], None],
) -> None:
    install("hashing", "no.such:Module")
    assert not Providers(BUILT_IN).needs_key("hashing")


def test_an_installed_provider_that_cannot_be_loaded_says_so(
    install: Callable[[str, str], None],
) -> None:
    install("broken", "no_such_module:Thing")
    install("wrong", "builtins:dict")
    providers = Providers(BUILT_IN)
    with pytest.raises(EmbeddingUnavailable, match=r"broken cannot be loaded \(ModuleNotFound"):
        providers.open("broken", api_key=SecretStr("k"))
    with pytest.raises(EmbeddingUnavailable, match="wrong is no Provider"):
        providers.open("wrong", api_key=SecretStr("k"))
