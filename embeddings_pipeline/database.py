"""The address of a Postgres database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError

# what a URL may say of the encryption of a connection
_TLS = frozenset(
    {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation", "channel_binding"}
)


@dataclass(frozen=True)
class Database:
    """The address of one Postgres database. `repr` does not show the password.

    `tls` are libpq's parameters of encryption. `fallback` is the host and port of another server
    of the same database, which libpq tries where the first does not answer.
    """

    host: str
    port: int
    name: str
    user: str
    password: SecretStr
    tls: tuple[tuple[str, str], ...] = ()
    fallback: tuple[str, int] | None = None

    @property
    def url(self) -> str:
        """A libpq URI with the password. Never log this value."""
        secret = quote(self.password.get_secret_value(), safe="")
        credentials = quote(self.user, safe="") + (f":{secret}" if secret else "")
        name = quote(self.name, safe="")
        parameters = dict(self.tls)
        if self.fallback or self.host.startswith("/"):
            servers = [(self.host, self.port), *([self.fallback] if self.fallback else [])]
            address = ""
            parameters["host"] = ",".join(host for host, _ in servers)
            parameters["port"] = ",".join(str(port) for _, port in servers)
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            address = f"{host}:{self.port}"
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"postgresql://{credentials}@{address}/{name}{query}"

    @classmethod
    def from_url(cls, variable: str, url: SecretStr) -> Self:
        """Return the database of a libpq URI, the value of an environment variable.

        Raises ConfigurationError, without the URI, for an invalid URI and for parameters other than
        those of encryption.
        """
        # slow to import
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            parts = conninfo_to_dict(url.get_secret_value())
        except ProgrammingError as error:
            # a parameter of another client, such as Prisma's pgbouncer=true, and no part of a
            # password with a question mark
            unknown = re.match(r'invalid URI query parameter: "(\w{1,40})"', str(error))
            if unknown and "@" in url.get_secret_value().partition("?")[0]:
                raise ConfigurationError(
                    f"{variable}: {unknown[1]} cannot be in the URL, which may have"
                    f" {', '.join(sorted(_TLS))} after the name: remove it"
                ) from None
            # libpq's message quotes the URL, and with it the password
            raise ConfigurationError(
                f"{variable} is not a connection URL like postgresql://user:password@host:5432/name"
            ) from None
        if "," in f"{parts.get('host')}{parts.get('port')}":
            raise ConfigurationError(
                f"{variable} names several servers: name one, or an address that leads to the"
                " primary"
            )
        if "service" in parts:
            raise ConfigurationError(
                f"{variable}: service cannot be in the URL: write what the service file says,"
                " postgresql://user:password@host:5432/name"
            )
        extra = sorted(set(parts) - {"host", "port", "dbname", "user", "password"} - _TLS)
        if extra:
            raise ConfigurationError(
                f"{variable}: {', '.join(extra)} cannot be in the URL, which may have"
                f" {', '.join(sorted(_TLS))} after the name: remove it, or set libpq's variables"
                " (PGOPTIONS, PGTARGETSESSIONATTRS, …) instead"
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
            tls=tuple((name, str(parts[name])) for name in sorted(_TLS & parts.keys())),
        )

    def __str__(self) -> str:
        other = " or {}:{}".format(*self.fallback) if self.fallback else ""
        return f"{self.name} on {self.host}:{self.port}{other}"
