"""A scheduled run: the partitions that it is for first, then whatever is pending elsewhere."""

from __future__ import annotations

from dataclasses import replace

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.sets import SetsResult, sync_sets


def sync_and_drain(
    database: Postgres, on: Statements, encoders: Encoders, request: Request, *, drain: bool
) -> SetsResult:
    """Encode what is pending in the request's partitions, then, if `drain`, in all others.

    Limits hold for both together; `force` makes all partitions one request. Raises what
    `sync_sets` raises.
    """
    if drain and request.force:
        return sync_sets(database, on, encoders, replace(request, keys=None))
    asked = sync_sets(database, on, encoders, request)
    left = request.less(asked.counts)
    if not drain or request.keys is None or left.limit == 0:
        return asked
    others = replace(left, keys=None, besides=request.keys)
    rest = sync_sets(database, on, encoders, others)
    return SetsResult([*asked.by_set, *rest.by_set], asked.frozen)
