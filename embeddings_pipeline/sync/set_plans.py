"""What a run would do to each set of an entity, once its texts are as they are to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import Connection

from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import forcing, planning, set_creation, to_encode, vector_sets
from embeddings_pipeline.store.planned_sets import PlannedSets
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.to_encode import Sampled, Terms
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.work import Work, plan_work, waiting_rows
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.token_costs import SAMPLE, TokenCosts, token_costs
from embeddings_pipeline.sync.vectors import WINDOW_TOKENS, window_rows


@dataclass(frozen=True)
class SetPlan:
    """What a run would do to one set, in chunks and texts; `number` is None for a new one.

    `waiting` counts those of its rows whose text stands already, `cached` the texts to encode that
    a cache knows, which have no part in `tokens`. `tokens_estimated` says that these were not
    counted of every text as the model counts them; `frozen`, why a run would leave the set as it
    is.
    """

    number: int | None
    live: bool
    model: str
    rows: int
    waiting: int
    pending: int
    reusable: int
    encode: int
    cached: int
    tokens: int
    tokens_estimated: bool
    seconds: float | None
    cost_usd: float
    frozen: str | None


# gives what the rows of these ids say, for each of these hashes of their texts
ReadTexts = Callable[[Mapping[bytes, str]], Sequence[Sampled]]


def plan_sets(
    target: Connection[Row],
    on: Statements,
    encoders: Encoders,
    request: Request,
    read: ReadTexts,
    planned: PlannedSets,
    *,
    estimated: bool,
) -> list[SetPlan]:
    """The live set and the one of the entity's model, in the order of a run.

    They take over from those that were `planned` before, and are added to them. Of the texts to
    encode some are `read` again, to count their tokens as the model does; that the tokens of all
    were `estimated` before, the plans say too.
    """
    plans: list[SetPlan] = []
    left = request.limit
    for vector_set, identity in sets_of_run(target, on, encoders):
        encoder, frozen = _encoder(encoders, identity)
        usd_per_token = encoders.usd_per_token(identity.model)
        terms = Terms(
            identity.max_tokens,
            planned.origins(target, on, identity),
            first=_first(on, request),
            limit=left,
            begun=request.begun or any(part.encode for part in plans),
            remembered=usd_per_token > 0,
        )
        terms = _renewing(target, on, vector_set, terms, request)
        # a frozen set is given what moves to other rows, like any other
        work = _work(target, on, vector_set, terms, request.keys if encoder else [])
        costs = TokenCosts(0)
        if encoder:
            costs = token_costs(
                work,
                encoder,
                lambda: read(to_encode.sampled_ids(target, SAMPLE)),
                max_tokens=identity.max_tokens,
                remembers=encoder.remembers_documents and not _is_renewed(vector_set, request),
            )
        planned.add(target, on, identity, vector_set)
        left = None if left is None else max(0, left - work.encode)
        rate = planning.throughput(target, on, identity.model)
        plans.append(
            SetPlan(
                number=vector_set.number if vector_set else None,
                live=vector_set is not None and vector_set.state == "live",
                model=identity.model,
                rows=work.rows,
                waiting=0 if frozen else waiting_rows(target),
                pending=work.pending,
                reusable=work.reusable,
                encode=work.encode,
                cached=costs.cached,
                tokens=costs.tokens,
                tokens_estimated=costs.estimated or (estimated and work.encode > 0),
                seconds=costs.tokens / rate if rate else None,
                cost_usd=costs.tokens * usd_per_token,
                frozen=frozen,
            )
        )
    return plans


def _first(on: Statements, request: Request) -> list[str]:
    """The partitions that a run takes before it drains the others."""
    partitions = on.source.entity.partitions
    if request.keys is not None or request.force or isinstance(partitions, HashPartitions):
        return []
    return partitions.recent()


def _is_renewed(vector_set: VectorSet | None, request: Request) -> bool:
    return request.force or (vector_set is not None and vector_set.force_since is not None)


def _renewing(
    target: Connection[Row],
    on: Statements,
    vector_set: VectorSet | None,
    terms: Terms,
    request: Request,
) -> Terms:
    """Forced, or until a forced run is finished, a set takes over nothing but what that gave it."""
    if vector_set is None:
        return replace(terms, origins=()) if request.force else terms
    renew = forcing.since(target, on, vector_set, request.keys) if request.force else None
    since = renew or vector_set.force_since
    if since is None:
        return terms
    renewed = forcing.renewed(on, vector_set, since)
    return replace(terms, renew=renew, origins=[planning.staying(on, renewed)])


def _work(
    target: Connection[Row],
    on: Statements,
    vector_set: VectorSet | None,
    terms: Terms,
    keys: Sequence[str] | None,
) -> Work:
    return plan_work(
        target, on, vector_set, terms, keys, max_rows=window_rows(on), max_tokens=WINDOW_TOKENS
    )


def _encoder(
    encoders: Encoders, identity: ModelIdentity
) -> tuple[CachedEncoder | None, str | None]:
    """The encoder of a set, or why it has none any more."""
    try:
        return encoders.identical(identity), None
    except ConfigurationError as error:
        return None, str(error)


def sets_of_run(
    target: Connection[Row], on: Statements, encoders: Encoders
) -> list[tuple[VectorSet | None, ModelIdentity]]:
    """The sets that a run keeps up to date, the live one first, with their models; None is one
    that it has to make."""
    wanted = encoders.of(on.source.entity).identity
    storage = set_creation.storage_of(on.source.entity, wanted.dimension)
    known = vector_sets.vector_sets(target, on, ("building", "live", "retired"))
    chosen: list[tuple[VectorSet | None, ModelIdentity]] = [
        (s, s.identity) for s in known if s.state == "live"
    ]
    of_wanted = [s for s in known if (s.identity, s.storage) == (wanted, storage)]
    if not any(s.state == "live" for s in of_wanted):
        chosen.append((of_wanted[-1] if of_wanted else None, wanted))
    return chosen
