"""All environment variables of the package, with types and defaults."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError, ReadOnly

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def project_dir() -> Path:
    """The folder of the project in which a command runs.

    That is the nearest one, from the working directory upward, that holds `dbt_project/` or a
    `workspace.yaml`, or is a dbt project itself; the working directory where there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dbt_project" / "dbt_project.yml").is_file():
            return folder
        if (folder / "workspace.yaml").is_file():
            return folder
        # a dbt project of this name belongs to the project around it
        if (folder / "dbt_project.yml").is_file() and folder.name != "dbt_project":
            return folder
    return here


def _default_dbt_project() -> Path:
    project = project_dir()
    return project if (project / "dbt_project.yml").is_file() else project / "dbt_project"


class Settings(BaseSettings):
    """The validated environment and, below it, the project's `.env`. Field names are the variables
    in lower case; relative paths start at the project's folder."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    staging_db_url: SecretStr | None = None
    staging_db_host: str | None = None
    staging_db_port: int = Field(5432, ge=1, le=65_535)
    staging_db_name: str = "postgres"
    staging_db_user: str = "postgres"
    staging_db_password: SecretStr = SecretStr("")

    pgvector_url: SecretStr | None = None
    pgvector_host: str | None = None
    pgvector_port: int = Field(5432, ge=1, le=65_535)
    pgvector_database: str = "postgres"
    pgvector_user: str = "postgres"
    pgvector_password: SecretStr = SecretStr("")
    pgvector_replica_url: SecretStr | None = None
    pgvector_schema: str = Field("analytics_features", min_length=1, max_length=40)

    embedded_data_dir: Path = Field(default_factory=lambda: project_dir() / ".data")

    dbt_project_dir: Path = Field(default_factory=_default_dbt_project)
    dbt_profiles_dir: Path | None = None
    dbt_target: str | None = None
    dbt_manifest: Path | None = None

    embedding_enabled: bool = True
    embedding_model: str = DEFAULT_MODEL
    embedding_model_path: Path | None = None
    # folders of other models, by name: {"my/model": "models/mine"}
    embedding_model_paths: dict[str, Path] = Field(default_factory=dict)
    embedding_model_cache_dir: Path | None = None
    embedding_device: str = "auto"
    embedding_precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    embedding_cpu_kernels: Literal["auto", "exp", "torch"] = "auto"
    embedding_batch_size: int | None = Field(None, ge=1, le=4096)
    embedding_batch_tokens: int | None = Field(None, ge=256, le=1 << 20)
    embedding_requests_in_flight: int = Field(16, ge=1, le=256)
    embedding_requests_per_minute: int | None = Field(None, ge=1)
    embedding_tokens_per_minute: int | None = Field(None, ge=1)
    # names of models, separated by commas
    embedding_trust_remote_code: str = ""
    # US dollars per million tokens, by model: {"my-model": 0.02}
    embedding_prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    embedding_max_cost_usd: float | None = Field(None, ge=0)
    embedding_partitions_per_run: int | None = Field(None, ge=1)

    embedding_redis_url: SecretStr | None = None
    embedding_cache_ttl: int = Field(30 * 24 * 3600, ge=0)
    embedding_query_cache_ttl: int = Field(300, ge=0)
    embedding_cache_grace: int = Field(24 * 3600, ge=0)
    embedding_cache_keep: bool = True
    openai_api_key: SecretStr | None = None
    # no credentials, which logs would show: no user, and only the query that Azure asks for
    openai_base_url: str | None = Field(
        None, pattern=r"^https?://[^@\s?#]+(\?api-version=[\w.-]+)?$"
    )
    openai_encoding_format: Literal["base64", "float", "none"] | None = None
    embedding_image_max_bytes: int = Field(20 << 20, ge=1)
    # hosts, with a port unless it is the scheme's default, and buckets as s3://name
    embedding_image_hosts: str = ""
    embedding_image_root: Path | None = None
    embedding_similarity_top_k: int = Field(10, ge=1, le=1000)
    embedding_similarity_threshold: float | None = Field(None, allow_inf_nan=False)

    search_host: str = "127.0.0.1"
    search_port: int = Field(8000, ge=0, le=65_535)
    search_page_url: str | None = Field(None, pattern=r"^https?://[^@\s?#]+$")
    # name:scope:sha256 of each key, separated by commas
    search_api_keys: SecretStr | None = None
    search_requests_per_minute: int = Field(6000, ge=1)
    # at least the texts of one batch
    search_texts_per_minute: int | None = Field(None, ge=256)
    search_cors_origins: tuple[str, ...] = ()
    search_rerankers: tuple[str, ...] = ()
    search_access_log: bool = False

    dagster_home: Path | None = None

    # the figures of runs, for the textfile collector of node_exporter, which reads *.prom
    run_metrics_file: Path | None = None
    log_format: Literal["text", "json"] = "text"
    dagster_postgres_url: SecretStr | None = None

    @field_validator(
        *(
            "embedded_data_dir",
            "dbt_project_dir",
            "dbt_profiles_dir",
            "dbt_manifest",
            "dagster_home",
            "run_metrics_file",
        ),
        *("embedding_model_path", "embedding_model_cache_dir", "embedding_image_root"),
    )
    @classmethod
    def _from_project(cls, path: Path | None) -> Path | None:
        return None if path is None else project_dir() / path.expanduser()

    @field_validator("embedding_device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("choose auto, cpu, mps, cuda, or a card by its number like cuda:1")
        return device

    @field_validator("embedding_model_paths")
    @classmethod
    def _each_from_project(cls, paths: dict[str, Path]) -> dict[str, Path]:
        return {model: project_dir() / path.expanduser() for model, path in paths.items()}

    @field_validator("run_metrics_file")
    @classmethod
    def _read_by_the_exporter(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".prom":
            raise ValueError("node_exporter reads only files whose names end with .prom")
        return path

    @field_validator("search_cors_origins")
    @classmethod
    def _names_each_origin(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in origins:
            # without keys, any page that somebody on this machine opens could then search
            raise ValueError("name each origin, like https://app.example: * is not supported")
        for origin in origins:
            # a browser sends exactly this, and another text allows nobody
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin: write scheme://host or scheme://host:port in lower"
                    " case, without a path or a slash at its end, like https://app.example"
                )
        return origins

    @field_validator("openai_api_key")
    @classmethod
    def _key_of_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        """Strip the newline of a key read from a file, which an HTTP header must not contain."""
        if key is None:
            return None
        bare = key.get_secret_value().strip()
        if not re.fullmatch(r"[\x21-\x7e]+", bare):
            raise ValueError(
                "the key has characters other than printable ASCII, or spaces (the key is not shown"
                " here): set the key alone, without quotes, line breaks or other text"
            )
        return SecretStr(bare)

    def cost_limit(self, given: float | None) -> float | None:
        """The most US dollars that a run may cost: those given, else EMBEDDING_MAX_COST_USD."""
        return self.embedding_max_cost_usd if given is None else given

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Return these settings, and others of the environment and the project's `.env`.

        Raises ConfigurationError that names each wrong variable.
        """
        try:
            settings = cls(_env_file=project_dir() / ".env", **values)
        except ValidationError as error:
            raise ConfigurationError(f"settings: {_describe(error)}") from None
        except SettingsError as error:
            # the error names the field only in its message
            wrong = [name.upper() for name in cls.model_fields if f'"{name}"' in str(error)]
            raise ConfigurationError(
                f"settings: {', '.join(wrong) or error}: not JSON: write"
                """ prices as {"my-model": 0.02}, a list as ["one", "two"]"""
            ) from None
        if settings.vectors_database is None and settings.staging_database is not None:
            raise ConfigurationError(
                "STAGING_DB_* is configured but PGVECTOR_* is not: set both (they may name the same"
                " database), or neither to use the embedded server"
            )
        if settings.pgvector_replica_url and settings.vectors_database is None:
            raise ConfigurationError(
                "PGVECTOR_REPLICA_URL is set but PGVECTOR_* is not: set the database of which it is"
                " a replica, where runs write"
            )
        return settings

    @property
    def search_page(self) -> str:
        """The address of the search page, for links to it."""
        return self.search_page_url or f"http://{self.search_host}:{self.search_port}"

    @property
    def dagster_folder(self) -> Path:
        """The folder of Dagster's instance: DAGSTER_HOME, or the project's own."""
        return self.dagster_home or self.embedded_data_dir / "dagster"

    def trusts(self, model: str) -> bool:
        """Whether EMBEDDING_TRUST_REMOTE_CODE names the model, so that its own code may run."""
        return model in map(str.strip, self.embedding_trust_remote_code.split(","))

    @property
    def only_searches(self) -> bool:
        """Whether the vectors alone have a configured database, and nothing can be embedded."""
        staging = self.staging_db_url or self.staging_db_host
        return staging is None and self.vectors_database is not None

    @cached_property
    def staging_database(self) -> Database | None:
        """The configured database of the staging models; None means the embedded server.

        Raises ReadOnly where only the database of the vectors is configured.
        """
        if self.only_searches:
            raise ReadOnly(
                "STAGING_DB_* is not configured, so that nothing but searches works: set the"
                " database of the staging models, also where it is the one of PGVECTOR_*"
            )
        if self.staging_db_url:
            return Database.from_url("STAGING_DB_URL", self.staging_db_url)
        if not self.staging_db_host:
            return None
        return Database(
            self.staging_db_host,
            self.staging_db_port,
            self.staging_db_name,
            self.staging_db_user,
            self.staging_db_password,
        )

    @cached_property
    def vectors_database(self) -> Database | None:
        """The configured database of the vectors; None means the embedded server."""
        if self.pgvector_url:
            return Database.from_url("PGVECTOR_URL", self.pgvector_url)
        if not self.pgvector_host:
            return None
        return Database(
            self.pgvector_host,
            self.pgvector_port,
            self.pgvector_database,
            self.pgvector_user,
            self.pgvector_password,
        )

    @property
    def one_database(self) -> bool:
        """Whether the staging models and the vectors are in one database, so that marts can join
        them. False where the database of the staging models is not configured."""
        return not self.only_searches and self.staging_database == self.vectors_database

    @cached_property
    def search_database(self) -> Database | None:
        """The database that searches read: the replica, and that of the vectors where it does not
        answer."""
        primary = self.vectors_database
        if self.pgvector_replica_url is None or primary is None:
            return primary
        replica = Database.from_url("PGVECTOR_REPLICA_URL", self.pgvector_replica_url)
        return replace(replica, fallback=(primary.host, primary.port))


def _describe(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        variable = "_".join(str(part) for part in problem["loc"]).upper()
        secret = "PASSWORD" in variable or "URL" in variable or "KEY" in variable
        value = "" if secret else f" is {problem['input']!r}"
        own = problem["type"] == "value_error"
        message = problem["ctx"]["error"] if own else problem["msg"]
        problems.append(f"{variable}{value}: {message}")
    return "; ".join(problems)


def written_variables() -> set[str]:
    """The names of all variables of the environment and of the project's `.env`, in capitals."""
    from dotenv import dotenv_values

    file = project_dir() / ".env"
    return {
        name.upper() for name in {*os.environ, *(dotenv_values(file) if file.is_file() else ())}
    }


def user_cache_dir() -> Path:
    """The package's folder below XDG_CACHE_HOME, by default `~/.cache`. It may not exist, and
    writing to it may fail: a service account often has no home."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # without a home `~` stays as it is: relative, it would be a folder where the command is called
    return Path("/", caches, "embeddings-pipeline")


def opentelemetry_exporter() -> tuple[str, str] | None:
    """The exporter of metrics and the protocol that OpenTelemetry's own variables name; None where
    they configure none (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables).

    Its SDK reads the environment of the process alone, so these are no settings of `.env`.
    """
    given = os.environ.get
    if given("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    endpoint = given("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or given("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = given("OTEL_METRICS_EXPORTER") or ("otlp" if endpoint else "none")
    protocol = given("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL") or given("OTEL_EXPORTER_OTLP_PROTOCOL")
    return None if exporter == "none" else (exporter, protocol or "http/protobuf")


def counts_in_files() -> bool:
    """Whether prometheus_client counts in files that several processes share, as `serve --workers`
    makes it."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ
