"""The Dagster and dbt project of a team that this project has not seen: written file by file, with
nothing of ours in it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import patch

import execnet
import psycopg
import pytest

from embeddings_pipeline.database import Database
from tests.support import foreign_location
from tests.support.databases import copy_of
from tests.support.wheel import Installed

BIN = Path(sys.executable).parent

PROFILE = """
    acme:
      target: dev
      outputs:
        dev:
          type: postgres
          host: "{{ env_var('ACME_HOST') }}"
          port: "{{ env_var('ACME_PORT') | as_number }}"
          dbname: "{{ env_var('ACME_DATABASE') }}"
          user: "{{ env_var('ACME_USER') }}"
          password: "{{ env_var('ACME_PASSWORD') }}"
          schema: "{{ env_var('ACME_SCHEMA', 'acme') }}"
          threads: 2
"""

DBT_PROJECT = {
    "profiles.yml": PROFILE,
    "dbt_project.yml": """
        name: acme
        version: "1.0"
        profile: acme
        flags: {send_anonymous_usage_stats: false}
        models:
          acme:
            staging: {+materialized: table, +schema: staging}
            marts: {+materialized: view, +schema: marts}
    """,
    "packages.yml": """
        packages:
          - local: people
    """,
    # schemas are named by a rule of the team's own
    "macros/generate_schema_name.sql": """
        {% macro generate_schema_name(custom_schema_name, node) -%}
            {{ target.schema }}{{ '_' ~ custom_schema_name if custom_schema_name }}
        {%- endmacro %}
    """,
    "models/staging/sources.yml": """
        sources:
          - name: raw
            config: {meta: {owner: platform, contains_pii: true}}
            tables:
              - name: tickets
                config: {meta: {grain: ticket}}
    """,
    "models/groups.yml": """
        groups:
          - name: support
            owner: {name: Support, email: support@acme.example}
    """,
    "models/staging/stg_ticket_v1.sql": """
        select id as ticket_id, title from {{ source('raw', 'tickets') }}
    """,
    "models/staging/stg_ticket_v2.sql": """
        select id as ticket_id, title, priority from {{ source('raw', 'tickets') }}
    """,
    "models/staging/stg_ticket.yml": """
        models:
          - name: stg_ticket
            latest_version: 2
            config:
              group: support
              meta:
                embedding:
                  id: ticket_id
                  include: [title]
                  partitions: {count: 2}
            columns:
              - name: ticket_id
                data_tests: [unique]
            versions:
              - v: 1
              - v: 2
    """,
    # not an entity: the model is disabled
    "models/staging/stg_old.sql": "select 1 as id, 'old' as title",
    "models/staging/stg_old.yml": """
        models:
          - name: stg_old
            config: {enabled: false, meta: {embedding: {id: id}}}
    """,
    "models/marts/embeddings.yml": """
        sources:
          - name: embeddings
            schema: "{{ env_var('PGVECTOR_SCHEMA', 'analytics_features') }}"
            tables:
              - name: ticket_embeddings
                config: {meta: {dagster: {asset_key: [ticket, embeddings]}}}
    """,
    "models/marts/ticket_search.sql": """
        select t.ticket_id, t.title, e.embedding
        from {{ ref('stg_ticket') }} as t
        inner join {{ source('embeddings', 'ticket_embeddings') }} as e using (ticket_id)
    """,
    "people/dbt_project.yml": """
        name: people
        version: "1.0"
        models: {people: {+materialized: view, +schema: staging}}
    """,
    "people/models/stg_person.sql": "select 1 as person_id, 'Ada, who plans the garden' as bio",
    "people/models/stg_person.yml": """
        models:
          - name: stg_person
            config:
              meta:
                dagster: {owners: [team:people]}
                embedding: {id: person_id, include: [bio], partitions: {count: 1}}
    """,
}

RAW = """
    create schema raw;
    create table raw.tickets (id int, title text, priority int);
    insert into raw.tickets values
        (1, 'The printer is on fire', 1), (2, 'Cannot log in', 2), (3, 'Password is forgotten', 2),
        (4, 'Screen stays black', 1), (5, 'Mail does not arrive', 3), (6, 'Phone has no signal', 3);
"""


def environment(database: Database) -> dict[str, str]:
    """The variables of the team's profile, and those of ours."""
    return {
        "ACME_HOST": database.host,
        "ACME_PORT": str(database.port),
        "ACME_DATABASE": database.name,
        "ACME_USER": database.user,
        "ACME_PASSWORD": database.password.get_secret_value(),
        "STAGING_DB_URL": database.url,
        "PGVECTOR_URL": database.url,
    }


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their paths below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).strip() + "\n")


class Project:
    """The project in a folder, on a database of its own, with the wheel of ours in its
    environment."""

    def __init__(self, folder: Path, installed: Installed, database: Database) -> None:
        self.folder = folder
        self.installed = installed
        self.database = database
        self._imported = folder / "imported.txt"

    def run(self, *arguments: str, cwd: str = ".") -> str:
        """Run a program of the environment, and return what it printed."""
        done = subprocess.run(
            arguments,
            cwd=self.folder / cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def assert_only_the_wheel_was_imported(self) -> None:
        """Every process that loaded the definitions had our package from the wheel."""
        wheel = self.installed.package / "__init__.py"
        assert {*self._imported.read_text().splitlines()} == {str(wheel)}


class Location:
    """A process of the project's environment that loads its definitions and runs its jobs."""

    def __init__(self, project: Project, module: str) -> None:
        self._module = module
        python = project.installed.programs / "python"
        self._gateway = execnet.makegateway(f"popen//python={python}//chdir={project.folder}")
        source = inspect.getsource(foreign_location)
        self._channel = self._gateway.remote_exec(f"{source}\nserve(channel)\n")

    def describe(self) -> dict[str, Any]:
        """Load the definitions again, and say what they have."""
        description: dict[str, Any] = self._call("describe")
        return description

    def execute(self, job: str, first: str, last: str, **variables: str) -> list[str]:
        """Run a job over a range of partitions, with these variables. Returns its steps."""
        tags = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
        steps: list[str] = self._call("execute", job, tags, variables)
        return steps

    def refusal(self) -> str:
        """Load the definitions again, and return why that fails; nothing where it does not."""
        return str(self._call("refusal"))

    def close(self) -> None:
        self._gateway.exit()

    def _call(self, function: str, *arguments: Any) -> Any:
        self._channel.send((function, self._module, *arguments))
        return self._channel.receive()


@contextmanager
def project(
    folder: Path, files: Mapping[str, str], installed: Installed, template: Database, dbt: Path
) -> Iterator[Project]:
    """The project with these files beside its dbt project, which is parsed by this dbt, on a
    copy of the database. The environment of this process, and of each process that it starts, is
    the project's meanwhile."""
    write(folder / "dbt", DBT_PROJECT)
    write(folder, files)
    write(folder / "home", {"dagster.yaml": "telemetry: {enabled: false}"})
    with copy_of(template) as database, pytest.MonkeyPatch.context() as patched:
        made = Project(folder, installed, database)
        variables = installed.environment(
            **environment(database),
            DAGSTER_HOME=str(folder / "home"),
            IMPORTED=str(folder / "imported.txt"),
        )
        variables["PATH"] = f"{dbt.parent}{os.pathsep}{variables['PATH']}"
        patched.chdir(folder)
        with patch.dict(os.environ, variables, clear=True):
            made.run("dbt", "deps", cwd="dbt")
            made.run("dbt", "parse", cwd="dbt")
            made.sql(RAW)
            yield made
