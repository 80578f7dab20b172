"""The `claims` table: the hashes that a run is about to encode, so that no text is paid for twice.

A claim is a lease on the server's clock. The run renews it, and it ends with the session that
renewed it last. Claims save work; correctness does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.connection import asynchronous_commit
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import StoredIdentity
from embeddings_pipeline.store.wire import hash_array, number_array

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0


@dataclass(frozen=True)
class Claim:
    """Hashes that a run has claimed, in the order of the request, and the version under which they
    are encoded. Each claim has its own version."""

    hashes: Sequence[bytes]
    version: int


class Claims:
    """The claims of one run on the texts of one model identity."""

    def __init__(self, tables: EntityTables, stored: StoredIdentity, run_id: str) -> None:
        self._tables = tables
        self._names: dict[str, sql.Composable] = {
            "cache": tables.table(stored.cache_table),
            "identity": Literal(stored.number),
            "run": Literal(run_id),
            "versions": Literal(tables.table("embedding_versions").as_string(tables.connection)),
            "until": sql.SQL("clock_timestamp() + make_interval(secs => {})").format(
                Literal(LEASE_SECONDS)
            ),
        }

    def take(self, hashes: Sequence[bytes], floors: Sequence[int]) -> Claim:
        """Claim the hashes that no other run has claimed, and that lack a cache entry at these
        floors."""
        with asynchronous_commit(self._tables.connection):
            # concurrent claims take turns, so that the second run sees the claims of the first
            self._tables.execute(
                "select pg_advisory_xact_lock(hashtextextended('claims/' || {schema} || '/'"
                " || {identity}, 0))",
                schema=Literal(self._tables.schema),
                **self._names,
            )
            self._tables.execute(
                "delete from {claims} c where identity = {identity} and run_id <> {run} and ("
                "leased_until < clock_timestamp()"
                " or not exists (select from pg_stat_activity a where a.pid = c.pid))",
                **self._names,
            )
            places, version = self._tables.one(
                """
                with free as (
                    select h.text_hash, h.place
                    from unnest(%s::uuid[], %s::bigint[]) with ordinality
                        as h (text_hash, floor, place)
                    -- a scalar subquery makes the planner use the index of a small cache, too
                    where coalesce(
                        (select c.version from {cache} c where c.text_hash = h.text_hash) < h.floor,
                        true
                    ) and h.text_hash not in (
                        select unnest(hashes) from {claims}
                        where identity = {identity} and run_id <> {run}
                    )
                ),
                taken as (
                    insert into {claims} (identity, run_id, version, hashes, leased_until, pid)
                    select {identity}, {run}, nextval({versions}), array_agg(text_hash), {until},
                        pg_backend_pid()
                    from free having count(*) > 0
                    returning version
                )
                select coalesce(array_agg(place::int4 order by place), '{{}}'),
                    coalesce((select version from taken), 0)
                from free
                """,
                (hash_array(hashes), number_array(floors)),
                **self._names,
            )
        return Claim([hashes[place - 1] for place in places], version)

    def end(self, versions: Sequence[int]) -> None:
        """End claims whose texts are all written."""
        self._tables.execute(
            "delete from {claims} where identity = {identity} and run_id = {run}"
            " and version = any(%s::bigint[])",
            (list(versions),),
            **self._names,
        )

    def renew(self) -> None:
        """Extend the leases of the run."""
        self._tables.execute(
            "update {claims} set leased_until = {until}, pid = pg_backend_pid()"
            " where identity = {identity} and run_id = {run}",
            **self._names,
        )

    def release(self) -> None:
        """End all claims of the run."""
        self._tables.execute(
            "delete from {claims} where identity = {identity} and run_id = {run}", **self._names
        )
