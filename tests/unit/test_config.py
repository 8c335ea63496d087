from __future__ import annotations

import re
from pathlib import Path

import pytest

from pdf_processor import config
from pdf_processor.config import ConfigurationError, Settings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"
SECRET = "canary-4711"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Neither a developer's environment nor a `.env` reaches these tests."""
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def example() -> dict[str, str]:
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]", line))


def problems(monkeypatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        config.load()
    return str(caught.value).splitlines()


def test_the_example_names_every_setting_and_no_other():
    assert set(example()) == {field.upper() for field in Settings.model_fields}


def test_the_example_states_the_defaults(tmp_path):
    defaults = config.load()
    (tmp_path / ".env").write_text(EXAMPLE.read_text())
    assert config.load() == defaults


def test_a_value_from_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("MAX_ATTEMPTS=3\nLEASE_SECONDS=7\n")
    monkeypatch.setenv("MAX_ATTEMPTS", "4")
    settings = config.load()
    assert (settings.max_attempts, settings.lease_seconds) == (4, 7)


@pytest.mark.parametrize(
    ("older", "name"),
    [
        ("S3_ENDPOINT", "bucket_endpoint"),
        ("S3_BUCKET_NAME", "bucket_name"),
    ],
)
def test_older_names_are_understood(monkeypatch, older, name):
    monkeypatch.setenv(older, "value")
    assert getattr(config.load(), name) == "value"


def test_lists_are_split_at_commas(monkeypatch):
    monkeypatch.setenv("ALLOWED_BUCKETS", "one, two,")
    assert config.load().allowed_buckets == ("one", "two")


def test_each_problem_has_a_line_with_name_value_and_what_is_allowed(monkeypatch):
    port, lease = problems(monkeypatch, GRPC_SERVER_PORT="http", LEASE_SECONDS="0")
    assert port.startswith("GRPC_SERVER_PORT=http: ")
    assert "integer" in port
    assert lease == "LEASE_SECONDS=0: Input should be greater than or equal to 1"


def test_a_secret_is_masked_in_the_problem(monkeypatch):
    [line] = problems(monkeypatch, KEY_ENCRYPTION_SECRET=SECRET)
    assert SECRET not in line
    assert line.startswith("KEY_ENCRYPTION_SECRET=********: ")


def test_no_secret_stands_in_the_repr(monkeypatch):
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@localhost")
    for name in ("REDIS_PASSWORD", "OPENAI_API_KEY", "GRPC_AUTH_TOKEN", "BUCKET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("KEY_ENCRYPTION_SECRET", SECRET * 4)
    assert SECRET not in repr(config.load())


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.5", "::"])
def test_beyond_loopback_a_token_or_client_ca_is_required(monkeypatch, address):
    [line] = problems(monkeypatch, GRPC_BIND=address)
    assert "GRPC_AUTH_TOKEN" in line
    monkeypatch.setenv("GRPC_AUTH_TOKEN", SECRET)
    assert config.load().grpc_bind == address


def test_an_open_port_has_to_be_asked_for(monkeypatch):
    monkeypatch.setenv("GRPC_BIND", "0.0.0.0")
    monkeypatch.setenv("GRPC_ALLOW_INSECURE", "true")
    assert config.load().grpc_bind == "0.0.0.0"


def test_a_provider_of_the_service_needs_its_key(monkeypatch):
    [line] = problems(monkeypatch, EMBEDDING_PROVIDER="gemini")
    assert line == "EMBEDDING_PROVIDER=gemini needs GEMINI_API_KEY"


def test_half_a_certificate_is_refused(monkeypatch):
    Path("cert.pem").touch()
    [line] = problems(monkeypatch, GRPC_TLS_CERT="cert.pem")
    assert "GRPC_TLS_KEY" in line


def test_a_certificate_that_is_not_there_is_refused(monkeypatch):
    [line] = problems(monkeypatch, INGEST_TLS_CA="nowhere.pem")
    assert line.startswith("INGEST_TLS_CA=nowhere.pem: ")


def test_without_environment_nothing_of_it_is_read(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("MAX_ATTEMPTS=3\n")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    settings = config.without_environment(lease_seconds=3)
    assert (settings.max_attempts, settings.lease_seconds) == (5, 3)
    assert "elsewhere" not in settings.redis_url


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_used_by_the_parts(field):
    """What is set and read by nobody would mislead an operator."""
    package = Path(config.__file__).parent
    used = "".join((package / f"{name}.py").read_text() for name in ("app", "parts", "cli"))
    checked = Path(config.__file__).read_text()
    assert f"settings.{field}" in used or f"self.{field}" in checked
