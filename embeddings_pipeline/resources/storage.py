"""Chooses where Dagster keeps its runs and events, which dagster.yaml cannot choose by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded

# the event log gets a dozen commits a step; the last ones before a crash may be lost
_OPTIONS = "?options=-csynchronous_commit%3Doff"


class Storage(DagsterStorage, ConfigurableClass):
    """Makes a storage of another class: Postgres at DAGSTER_POSTGRES_URL where that is set.

    Without it, the embedded Postgres. Where PGVECTOR_* is set, SQLite files: Dagster's tables do
    not belong in that database.
    """

    @classmethod
    def config_type(cls) -> Any:
        """Nothing is configured in dagster.yaml."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Any:
        """The storage that the environment configures."""
        settings = Settings.load()
        if settings.dagster_postgres_url:
            url = settings.dagster_postgres_url.get_secret_value()
        elif settings.vectors_database:
            home = settings.dagster_home or settings.embedded_data_dir / "dagster"
            return DagsterSqliteStorage.from_local(str(home / "storage"))
        else:
            server = embedded.start(settings.embedded_data_dir)
            url = replace(server, name=embedded.DAGSTER_DATABASE).url + _OPTIONS
        if not event.contains(Pool, "checkout", _refuse_lost):
            event.listen(Pool, "checkout", _refuse_lost)
        # SQLAlchemy would choose psycopg 3, with which dagster-postgres does not work
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
        return DagsterPostgresStorage(url, inst_data=inst_data)


def _refuse_lost(connection: Any, record: Any, proxy: Any) -> None:
    """Make the pool take another connection where the server has closed this one: a run, and its
    events, survive the restart of a database."""
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("select 1")
    # the driver has several classes for it
    except Exception as error:
        raise DisconnectionError from error
