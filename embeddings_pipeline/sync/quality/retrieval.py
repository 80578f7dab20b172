"""Measures a vector set by golden queries: before it is published, and in the check `retrieval`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Retrieval
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Interrupted
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.index.build import VectorIndex
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import quality
from embeddings_pipeline.sync.checks import CheckResult
from embeddings_pipeline.sync.quality.qrels import Qrels, mean_interval, ndcg, read_golden, recall

logger = logging.getLogger(__name__)

K = 10
# a set is measured again when this share of its rows changed
_MEASURE_AGAIN = 0.1


class GoldenQueries:
    """The golden queries of an entity, read from its file when they are first needed.

    No connection is held while a model encodes them.
    """

    def __init__(
        self,
        declared: Retrieval,
        folders: Sequence[Path],
        encoders: Encoders,
        database: Postgres,
        names: TableNames,
    ) -> None:
        """`folders` are where the file may be, the first that has it counts."""
        self.declared = declared
        self._folders = folders
        self._encoders = encoders
        self._database = database
        self._names = names

    def measure(self, vector_set: VectorSet) -> CheckResult:
        """Measure a set, and beside it the one that it replaces or has replaced. What was measured
        is stored, and measured again only where that is due."""
        try:
            qrels, missing = self.qrels()
            scores = self._scores(vector_set, qrels)
        except Interrupted:
            raise
        except EmbeddingsError as error:
            return CheckResult(False, f"retrieval: {error}", self.declared.severity)
        other = self._compared(vector_set)
        others = self._scores_if_possible(other, qrels) if other else None
        return self._judged(vector_set, missing, scores, other, others)

    def check(self) -> CheckResult:
        """The check of the set that waits to be published, or else of the live one."""
        shown = self._shown()
        if shown is None:
            return CheckResult(False, "no set is built yet", "warn")
        return self.measure(shown)

    @resumed
    def _shown(self) -> VectorSet | None:
        with open_tables(self._database, self._names) as tables:
            sets = vector_sets.read(tables, ("live", "building"))
            building = [s for s in sets if s.state == "building"]
            waiting = [s for s in building if quality.read_scores(tables, s)]
        return waiting[0] if waiting else vector_sets.served(sets)

    @resumed
    def _compared(self, vector_set: VectorSet) -> VectorSet | None:
        """The live set for one that waits to be published; for the live set the one before it."""
        with open_tables(self._database, self._names) as tables:
            if vector_set.state == "building":
                return vector_sets.live_set(tables)
            former = [s for s in vector_sets.read(tables, ("retired",)) if s.published_at]
        return max(former, key=lambda s: (s.published_at, s.number), default=None)

    def _scores_if_possible(self, other: VectorSet, qrels: Qrels) -> Scores | None:
        """The scores of a set; None where its model cannot encode the queries: an earlier model may
        be gone, or refuse."""
        try:
            return self._scores(other, qrels)
        except Interrupted:
            raise
        except EmbeddingsError as error:
            logger.warning("set %d is not measured: %s", other.number, error)
            return None

    def _judged(
        self,
        vector_set: VectorSet,
        missing: Sequence[str],
        scores: Scores,
        other: VectorSet | None,
        others: Scores | None,
    ) -> CheckResult:
        gain, gain_low, gain_high = mean_interval(scores.ndcg_at_10)
        found, found_low, found_high = mean_interval(scores.recall_at_10)
        bound = self.declared.ndcg_at_10
        count = len(scores.ndcg_at_10)
        parts = [
            f"nDCG@10 of {count:,} golden queries is {gain:.3f} ({gain_low:.3f} to"
            f" {gain_high:.3f}) in set {vector_set.number}, the bound is {bound}"
        ]
        metadata = {
            "vector_set": vector_set.number,
            "queries": count,
            "ndcg_at_10": gain,
            "ndcg_at_10_low": gain_low,
            "ndcg_at_10_high": gain_high,
            "recall_at_10": found,
            "recall_at_10_low": found_low,
            "recall_at_10_high": found_high,
            "bound": bound,
            "golden_ids_without_text": len(missing),
        }
        if other and others:
            change, low, high = mean_interval(
                [new - old for new, old in zip(scores.ndcg_at_10, others.ndcg_at_10, strict=True)]
            )
            parts.append(f"{change:+.3f} ({low:+.3f} to {high:+.3f}) against set {other.number}")
            metadata |= {"compared_with": other.number, "ndcg_at_10_change": change}
            metadata |= {"ndcg_at_10_change_low": low, "ndcg_at_10_change_high": high}
        if missing:
            parts.append(
                f"{len(missing):,} ids without a text, such as {missing[0]!r}, are left out"
            )
        return CheckResult(gain >= bound, "; ".join(parts), self.declared.severity, metadata)

    def _scores(self, vector_set: VectorSet, qrels: Qrels) -> Scores:
        """The scores of a set by exact search, measured again only where that is due.

        Raises SetDropped where another run drops the set meanwhile.
        """
        digest = hashlib.sha256(json.dumps([*qrels.relevant.items()]).encode()).hexdigest()
        if stored := self._stored(vector_set, digest):
            return stored
        ranked = rankings(self._database, self._names, self._encoders, vector_set, qrels, K)
        scores = Scores(
            [ndcg(ids, qrels.relevant[query], K) for query, ids in ranked.items()],
            [recall(ids, qrels.relevant[query], K) for query, ids in ranked.items()],
        )
        self._store(vector_set, digest, scores)
        return scores

    @resumed
    def _stored(self, vector_set: VectorSet, digest: str) -> Scores | None:
        with open_tables(self._database, self._names) as tables:
            stored = quality.read_scores(tables, vector_set)
            if stored is None or stored.golden_hash != digest:
                return None
            drift = VectorIndex(tables, vector_set).drift(stored.measured_at)
        return Scores.of(stored.scores) if drift.share(stored.rows) <= _MEASURE_AGAIN else None

    @resumed
    def _store(self, vector_set: VectorSet, digest: str, scores: Scores) -> None:
        with open_tables(self._database, self._names) as tables:
            quality.store_scores(tables, vector_set, digest, scores.pairs)

    @resumed
    def qrels(self) -> tuple[Qrels, list[str]]:
        """The queries, and the ids that answer them as they are stored; and the ids without a text,
        which are left out: a row that is gone says nothing of a set.

        Raises ConfigurationError for a missing or wrong file, for an id that is not of the type of
        the entity's ids, and where no id has a text.
        """
        file = self._file()
        golden = read_golden(file)
        ids = [*{row_id: None for grades in golden.relevant.values() for row_id in grades}]
        stored = dict(zip(ids, self._names.source.canonical_ids(ids), strict=True))
        every = sorted({*stored.values()})
        with open_tables(self._database, self._names) as tables:
            missing = quality.ids_without_text(tables, every)
        if len(missing) == len(every):
            raise ConfigurationError(f"none of the {len(every):,} ids in {file} has a text")
        gone = {*missing}
        return golden.among({i: key for i, key in stored.items() if key not in gone}), missing

    def _file(self) -> Path:
        places = [folder / self.declared.queries for folder in self._folders]
        for place in places:
            if place.is_file():
                return place
        raise ConfigurationError(
            f"there is no file {self.declared.queries!r} (looked for:"
            f" {', '.join(map(str, places))})"
        )


@dataclass(frozen=True)
class Scores:
    """nDCG@10 and recall@10 of each query, from 0 to 1."""

    ndcg_at_10: list[float]
    recall_at_10: list[float]

    @classmethod
    def of(cls, pairs: Sequence[Sequence[float]]) -> Scores:
        """The scores of (nDCG, recall) pairs."""
        return cls([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(nDCG, recall) of each query."""
        return [*zip(self.ndcg_at_10, self.recall_at_10, strict=True)]


def rankings(
    database: Postgres,
    names: TableNames,
    encoders: Encoders,
    vector_set: VectorSet,
    qrels: Qrels,
    k: int,
) -> Mapping[str, list[str]]:
    """For each query the ids of the k nearest rows of a set by exact search, nearest first.

    Raises ConfigurationError where the model cannot encode a query.
    """
    queries = [*qrels.queries.values()]
    encodings = encoders.for_identity(vector_set.identity).encode_query(queries).raise_if_stopped()
    for number, why in encodings.failures.items():
        raise ConfigurationError(f"query {queries[number]!r} cannot be encoded: {why}")
    nearest = _nearest(database, names, vector_set, encodings.vectors, k)
    return dict(zip(qrels.queries, nearest, strict=True))


@resumed
def _nearest(
    database: Postgres, names: TableNames, vector_set: VectorSet, vectors: Vectors, k: int
) -> list[list[str]]:
    with open_tables(database, names) as tables:
        return [quality.nearest_rows(tables, vector_set, vector, k) for vector in vectors]
