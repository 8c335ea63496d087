"""The settings: the only reader of the environment and of `.env`.

Every name stands in `.env.example` with a comment and its default. Only the app and the
commands know `Settings`; all else takes plain values.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

MIN_SECRET_CHARACTERS = 32
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigurationError(Exception):
    """The configuration is wrong."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _either(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What an operator can set. Names are the environment's, in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    # the queue
    redis_url: str = Field(default="redis://localhost:6379/0", repr=False)
    redis_password: SecretStr = SecretStr("")
    redis_queue_name: Annotated[str, Field(min_length=1, pattern=r"^[^{}]+$")] = (
        "queue:upload_tasks"
    )

    # gRPC
    go_grpc_ingest_addr: Annotated[str, Field(min_length=1)] = "localhost:50051"
    grpc_server_port: Port = 50052
    grpc_embedding_port: Port = 50053
    grpc_bind: str = "127.0.0.1"
    grpc_auth_token: SecretStr = SecretStr("")
    grpc_tls_cert: FilePath | None = None
    grpc_tls_key: FilePath | None = None
    grpc_tls_client_ca: FilePath | None = None
    grpc_allow_insecure: bool = False
    grpc_reflection: bool = False
    ingest_tls_ca: FilePath | None = None
    ingest_auth_token: SecretStr = SecretStr("")
    ingest_stall_seconds: Seconds = 300

    # where documents may come from
    bucket_endpoint: str = Field(
        default="", validation_alias=_either("BUCKET_ENDPOINT", "S3_ENDPOINT")
    )
    bucket_access_id: SecretStr = Field(
        default=SecretStr(""), validation_alias=_either("BUCKET_ACCESS_ID", "S3_ACCESS_KEY")
    )
    bucket_access_key: SecretStr = Field(
        default=SecretStr(""), validation_alias=_either("BUCKET_ACCESS_KEY", "S3_SECRET_KEY")
    )
    bucket_name: str = Field(default="", validation_alias=_either("BUCKET_NAME", "S3_BUCKET_NAME"))
    storage_type: Literal["minio", "s3"] = "minio"
    allowed_buckets: Names = ()
    allowed_download_hosts: Names = ()
    allow_file_urls: bool = False

    # reading
    temp_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"pdf-processor-{os.getuid()}"
    )
    max_file_bytes: Positive = 256 * 1024 * 1024
    max_pages: Positive = 5000
    parse_timeout_seconds: Seconds = 900
    page_timeout_seconds: Seconds = 60
    parser_memory_bytes: Annotated[int, Field(ge=256 * 1024 * 1024)] = 1024 * 1024 * 1024
    parser_processes: Positive = Field(default_factory=lambda: max(1, os.cpu_count() or 1))

    # the worker
    max_concurrent_tasks: Positive = 8
    max_attempts: Positive = 5
    lease_seconds: Annotated[float, Field(ge=1)] = 15
    retry_base_seconds: Seconds = 2
    retry_max_seconds: Seconds = 300
    shutdown_grace_seconds: Annotated[float, Field(ge=0)] = 30
    done_ttl_seconds: Positive = 86_400
    status_ttl_seconds: Positive = 7 * 86_400
    pod_name: str = ""

    # key hand-off
    api_key_timeout_seconds: Seconds = 30
    api_key_ttl_seconds: Positive = 86_400
    key_encryption_secret: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)] = ()

    # vectors
    embedding_provider: str = "handoff"
    openai_api_key: SecretStr = SecretStr("")
    openai_base_url: str = ""
    openai_embedding_model: str = "text-embedding-3-small"
    gemini_api_key: SecretStr = SecretStr("")
    gemini_base_url: str = ""
    gemini_embedding_model: str = "gemini-embedding-001"
    local_embedding_model: str = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    embedding_dimension: Annotated[int, Field(ge=0)] = 0

    # seeing
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: str) -> str:
        """What redis-py would stumble over later, with the password in its words."""
        parts = urlsplit(url)
        try:
            usable = parts.scheme == "unix" or (parts.port != 0 and bool(parts.hostname))
        except ValueError:
            usable = False
        if parts.scheme not in {"redis", "rediss", "unix"} or not usable:
            message = (
                "redis://[:password@]host[:port][/database] is wanted, with every special "
                "character of the password percent-encoded; or set REDIS_PASSWORD"
            )
            raise ValueError(message)
        return url

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("key_encryption_secret")
    @classmethod
    def _long_enough(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS for secret in secrets):
            message = f"each secret needs {MIN_SECRET_CHARACTERS} characters or more"
            raise ValueError(message)
        return secrets

    @model_validator(mode="after")
    def _grpc_in_the_open(self) -> Self:
        guarded = self.grpc_auth_token.get_secret_value() or self.grpc_tls_client_ca
        if self.grpc_bind not in LOOPBACK and not guarded and not self.grpc_allow_insecure:
            message = (
                "GRPC_BIND is beyond loopback: set GRPC_AUTH_TOKEN or GRPC_TLS_CLIENT_CA, "
                "or GRPC_ALLOW_INSECURE=true where the network is trusted"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if bool(self.grpc_tls_cert) != bool(self.grpc_tls_key):
            message = "GRPC_TLS_CERT and GRPC_TLS_KEY are set together or not at all"
            raise ValueError(message)
        if self.grpc_tls_client_ca and not self.grpc_tls_cert:
            message = "GRPC_TLS_CLIENT_CA needs GRPC_TLS_CERT and GRPC_TLS_KEY"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _provider_has_its_key(self) -> Self:
        key = self.service_keys.get(self.embedding_provider)
        if key is not None and not key.get_secret_value():
            name = f"{self.embedding_provider.upper()}_API_KEY"
            message = f"EMBEDDING_PROVIDER={self.embedding_provider} needs {name}"
            raise ValueError(message)
        return self

    @property
    def service_keys(self) -> dict[str, SecretStr]:
        """The service's own keys, by provider; empty ones too."""
        return {"openai": self.openai_api_key, "gemini": self.gemini_api_key}


def load(**overrides: object) -> Settings:
    """Read the environment and `.env`; `overrides` win.

    Raises:
        ConfigurationError: one line per problem: name, value (secrets masked), what is
            allowed.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except UnicodeDecodeError:
        raise ConfigurationError(".env is not text in UTF-8") from None
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def without_environment(**values: object) -> Settings:
    """Return the defaults and these values; neither the environment nor `.env` is read."""
    return _Defaults(_env_file=None, **values)  # type: ignore[arg-type]


class _Defaults(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _explain(error: ValidationError) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        what = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:
            lines.append(what)
            continue
        name = str(detail["loc"][0]).upper()
        lines.append(f"{name}={_shown(name, detail['input'])}: {what}")
    return "\n".join(lines)


def _shown(name: str, value: object) -> str:
    field = Settings.model_fields.get(name.lower())
    secret = field is None or not field.repr or "Secret" in str(field.annotation)
    return "********" if secret else str(value)
