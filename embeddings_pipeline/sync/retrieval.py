"""Measures a vector set by golden queries: before it is published, and in the check `retrieval`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Retrieval
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Interrupted
from embeddings_pipeline.store import comparison, vector_sets
from embeddings_pipeline.store.index.build import VectorIndex
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync.checks import CheckResult
from embeddings_pipeline.sync.qrels import Qrels, mean_interval, ndcg, read_golden, recall

K = 10
# a set is measured again when this share of its rows changed
_MEASURE_AGAIN = 0.1


class GoldenQueries:
    """The golden queries of an entity, read from its file when they are first needed."""

    def __init__(self, declared: Retrieval, folders: Sequence[Path], encoders: Encoders) -> None:
        """`folders` are where the file may be, the first that has it counts."""
        self.declared = declared
        self._folders = folders
        self._encoders = encoders

    def reasons(self, tables: EntityTables, building: VectorSet) -> list[str]:
        """Measure a set that is ready, and the live one beside it; return the reason why it may not
        be published, if any."""
        if self.declared.severity == "warn":
            return []
        result = self._result(tables, building)
        return [] if result.passed else [result.description]

    def check(self, tables: EntityTables) -> CheckResult:
        """The check of the set that waits to be published, or else of the live one."""
        sets = vector_sets.read(tables, ("live", "building"))
        waiting = [s for s in sets if s.state == "building" and comparison.read_scores(tables, s)]
        shown = waiting[0] if waiting else vector_sets.served(sets)
        if shown is None:
            return CheckResult(False, "no set is built yet", "warn")
        return self._result(tables, shown)

    def _result(self, tables: EntityTables, vector_set: VectorSet) -> CheckResult:
        try:
            qrels, missing = self.qrels(tables)
            scores = self._scores(tables, vector_set, qrels)
        except Interrupted:
            raise
        except EmbeddingsError as error:
            return CheckResult(False, f"retrieval: {error}", self.declared.severity)
        other, others = _compared(tables, vector_set), None
        if other:
            # the model of an earlier set may be gone
            with suppress(ConfigurationError):
                others = self._scores(tables, other, qrels)
        return self._judged(vector_set, missing, scores, other, others)

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
        said = [
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
            said.append(f"{change:+.3f} ({low:+.3f} to {high:+.3f}) against set {other.number}")
            metadata |= {"compared_with": other.number, "ndcg_at_10_change": change}
            metadata |= {"ndcg_at_10_change_low": low, "ndcg_at_10_change_high": high}
        if missing:
            said.append(
                f"{len(missing):,} ids without a text, such as {missing[0]!r}, are left out"
            )
        return CheckResult(gain >= bound, "; ".join(said), self.declared.severity, metadata)

    def _scores(self, tables: EntityTables, vector_set: VectorSet, qrels: Qrels) -> Scores:
        """The scores of a set, measured again only where that is due."""
        digest = hashlib.sha256(json.dumps([*qrels.relevant.items()]).encode()).hexdigest()
        stored = comparison.read_scores(tables, vector_set)
        if stored and stored.golden_hash == digest:
            drift = VectorIndex(tables, vector_set).drift(stored.measured_at)
            if drift.share(stored.rows) <= _MEASURE_AGAIN:
                return Scores.of(stored.scores)
        scores = measure(tables, self._encoders, vector_set, qrels)
        comparison.store_scores(tables, vector_set, digest, scores.pairs)
        return scores

    def qrels(self, tables: EntityTables) -> tuple[Qrels, list[str]]:
        """The queries, and the ids that answer them as they are stored; and the ids without a text,
        which are left out: a row that is gone says nothing of a set.

        Raises ConfigurationError for a missing or wrong file, for an id that is not of the type of
        the entity's ids, and where no id has a text.
        """
        file = self._file()
        golden = read_golden(file)
        canonical = {
            query: tables.source.canonical_ids([*ids]) for query, ids in golden.relevant.items()
        }
        every = sorted({row_id for ids in canonical.values() for row_id in ids})
        missing = comparison.ids_without_text(tables, every)
        if len(missing) == len(every):
            raise ConfigurationError(f"none of the {len(every):,} ids in {file} has a text")
        gone = {*missing}
        relevant = {
            query: left
            for query, ids in canonical.items()
            if (left := dict.fromkeys([i for i in ids if i not in gone], 1))
        }
        return Qrels({query: query for query in relevant}, relevant), missing

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


def measure(
    tables: EntityTables, encoders: Encoders, vector_set: VectorSet, qrels: Qrels
) -> Scores:
    """The scores of a set by exact search with the vectors of the queries.

    Raises ConfigurationError where the model cannot encode a query.
    """
    ranked = rankings(tables, encoders, vector_set, qrels, K)
    return Scores(
        [ndcg(ids, qrels.relevant[query], K) for query, ids in ranked.items()],
        [recall(ids, qrels.relevant[query], K) for query, ids in ranked.items()],
    )


def rankings(
    tables: EntityTables, encoders: Encoders, vector_set: VectorSet, qrels: Qrels, k: int
) -> Mapping[str, list[str]]:
    """For each query the ids of the k nearest rows of a set by exact search, nearest first.

    Raises ConfigurationError where the model cannot encode a query.
    """
    encodings = encoders.for_identity(vector_set.identity).encode_query([*qrels.queries.values()])
    for why in encodings.failures.values():
        raise ConfigurationError(f"a golden query cannot be encoded: {why}")
    return {
        query: comparison.nearest_rows(tables, vector_set, vector, k)
        for query, vector in zip(qrels.queries, encodings.vectors, strict=True)
    }


def _compared(tables: EntityTables, vector_set: VectorSet) -> VectorSet | None:
    """The live set for a set that waits to be published; for the live set the one before it."""
    if vector_set.state == "building":
        return next(iter(vector_sets.read(tables, ("live",))), None)
    former = [s for s in vector_sets.read(tables, ("retired",)) if s.published_at]
    return max(former, key=lambda s: (s.published_at, s.number), default=None)
