"""The address of a Postgres database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Database:
    """The address of one Postgres database. `repr` does not show the password."""

    host: str
    port: int
    name: str
    user: str
    password: SecretStr

    @property
    def url(self) -> str:
        """A libpq URI with the password. Never log this value."""
        secret = quote(self.password.get_secret_value(), safe="")
        credentials = quote(self.user, safe="") + (f":{secret}" if secret else "")
        name = quote(self.name, safe="")
        if self.host.startswith("/"):
            socket_dir = quote(self.host, safe="")
            return f"postgresql://{credentials}@/{name}?host={socket_dir}&port={self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{credentials}@{host}:{self.port}/{name}"

    @classmethod
    def from_url(cls, variable: str, url: SecretStr) -> Self:
        """Return the database of a libpq URI, the value of an environment variable.

        Raises ConfigurationError, without the URI, for an invalid URI and for further parameters.
        """
        # slow to import
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            parts = conninfo_to_dict(url.get_secret_value())
        except ProgrammingError:
            # libpq's message quotes the URL, and with it the password
            raise ConfigurationError(
                f"{variable} is not a connection URL like postgresql://user:password@host:5432/name"
            ) from None
        extra = sorted(set(parts) - {"host", "port", "dbname", "user", "password"})
        if extra:
            raise ConfigurationError(
                f"{variable}: {', '.join(extra)} cannot be in the URL: set libpq's variables"
                " (PGSSLMODE, PGSSLROOTCERT, …) instead"
            )
        port = str(parts.get("port") or 5432)
        if not port.isdecimal():
            raise ConfigurationError(f"{variable}: port {port!r} is not a single number")
        return cls(
            host=str(parts.get("host") or "localhost"),
            port=int(port),
            name=str(parts.get("dbname") or "postgres"),
            user=str(parts.get("user") or "postgres"),
            password=SecretStr(str(parts.get("password") or "")),
        )

    def __str__(self) -> str:
        return f"{self.name} on {self.host}:{self.port}"
