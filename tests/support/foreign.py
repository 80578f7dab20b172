"""The Dagster and dbt project of a team that this project has not seen: written file by file, with
nothing of ours in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from embeddings_pipeline.database import Database

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


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their paths below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).strip() + "\n")


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


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the Python environment; its output is one text."""
    return subprocess.run(
        [str(BIN / arguments[0]), *arguments[1:]],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def dbt(*arguments: str, cwd: Path) -> str:
    """Run dbt, and return what it printed."""
    done = command("dbt", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout
