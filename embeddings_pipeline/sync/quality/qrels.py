"""Queries with relevance judgements (qrels), from files in the layouts of BEIR and TREC or from a
CSV file of golden queries, and their measures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from embeddings_pipeline.errors import ConfigurationError

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Qrels:
    """Queries by id, and for each query the grade (above 0) of its relevant rows. `unknown` are the
    judged queries of which the files have no text; they are left out."""

    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]
    unknown: tuple[str, ...] = ()

    def among(self, stored: Mapping[str, str]) -> Qrels:
        """The judgements of these rows: `stored` has, by its id in the qrels, the id of each row as
        it is stored. A query without such a row is left out."""
        relevant = {
            query: left
            for query, grades in self.relevant.items()
            if (left := {stored[i]: grade for i, grade in grades.items() if i in stored})
        }
        queries = {query: text for query, text in self.queries.items() if query in relevant}
        return Qrels(queries, relevant, self.unknown)


def read_qrels(queries: Path, qrels: Path) -> Qrels:
    """Read queries and their judgements; keeps only queries with a relevant row.

    The queries are lines of JSON, as BEIR has them, or CSV or TSV, with an id (`_id` or `id`) and a
    text (`text` or `query`). The judgements are those of BEIR (a header with query-id, corpus-id
    and score, separated by tabs or commas) or of TREC (no header; query, an ignored column, row and
    grade, separated by blanks). A byte order mark and CRLF may be there.

    Raises ConfigurationError that names the line for anything else, for a judged query without
    words, and for two lines that contradict one another.
    """
    texts = _texts(queries)
    relevant: dict[str, dict[str, int]] = {}
    for query, grades in _grades(qrels).items():
        if positive := {row_id: grade for row_id, grade in grades.items() if grade > 0}:
            relevant[query] = positive
    if not relevant:
        raise ConfigurationError(f"{qrels} has no relevant row: no grade is above 0")
    known = {query: texts[query] for query in relevant if query in texts}
    unknown = tuple(query for query in relevant if query not in texts)
    if not known:
        raise ConfigurationError(
            f"{qrels} judges none of the {len(texts):,} queries in {queries}: it has the ids"
            f" {_some(relevant)}, the queries {_some(texts) or 'none'}"
        )
    for query, (line, text) in known.items():
        if not text.strip():
            raise ConfigurationError(f"{queries}, line {line}: query {query!r} has no text")
    return Qrels(
        {query: text for query, (_, text) in known.items()},
        {query: relevant[query] for query in known},
        unknown,
    )


def _some(ids: Iterable[str]) -> str:
    return ", ".join(repr(row_id) for row_id in islice(ids, 3))


_ID, _TEXT = ("_id", "id"), ("text", "query")
_COLUMNS = ("query-id", "corpus-id", "score")
_QUERIES = 'queries are lines like {"_id": "1", "text": "…"}, or CSV or TSV with these columns'
_JUDGEMENTS = (
    "qrels are CSV or TSV with the columns query-id, corpus-id and score (BEIR), or lines of query,"
    " 0, row and grade (TREC)"
)


def _texts(file: Path) -> dict[str, tuple[int, str]]:
    """The line and the text of each query, by id."""
    content = _content(file)
    records = _json_lines if content.lstrip().startswith(("{", "[")) else _table
    texts: dict[str, tuple[int, str]] = {}
    for line, record in records(file, content):
        place = f"{file}, line {line}"
        query, text = (_value(record, names, place, _QUERIES) for names in (_ID, _TEXT))
        if query in texts and texts[query][1] != text:
            raise ConfigurationError(
                f"{place}: query {query!r} has another text in line {texts[query][0]}"
            )
        texts.setdefault(query, (line, text))
    return texts


def _grades(file: Path) -> dict[str, dict[str, int]]:
    """The grade of each judged row, by query."""
    content = _content(file)
    header = content.partition("\n")[0]
    lines = _table(file, content) if "corpus-id" in header else _trec_lines(file, content)
    judged: dict[str, dict[str, int]] = {}
    for line, record in lines:
        place = f"{file}, line {line}"
        query, row_id, score = (_value(record, (n,), place, _JUDGEMENTS) for n in _COLUMNS)
        grade = _grade(score, place)
        before = judged.setdefault(query, {}).setdefault(row_id, grade)
        if before != grade:
            raise ConfigurationError(
                f"{place}: query {query!r} and row {row_id!r} have the grade {grade} here and"
                f" {before} in an earlier line"
            )
    return judged


def _content(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{file}, line {line}: not UTF-8 ({error.reason}): save the file as UTF-8"
        ) from None


def _json_lines(file: Path, content: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    # `splitlines` would also split at other characters that a text may contain
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{file}, line {number}: not JSON ({error}); {_QUERIES}"
            ) from None
        if not isinstance(record, dict):
            raise ConfigurationError(f"{file}, line {number}: not a JSON object; {_QUERIES}")
        yield number, record


def _table(file: Path, content: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The rows of CSV or TSV with a header."""
    tabs = "\t" in content.partition("\n")[0]
    lines = csv.reader(
        # keeps a line break in quotes as it is
        io.StringIO(content, newline=""),
        delimiter="\t" if tabs else ",",
        # in TSV an id may contain a quotation mark
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    try:
        header = [name.strip() for name in next(lines, [])]
        for values in lines:
            if len(values) > len(header):
                raise ConfigurationError(
                    f"{file}, line {lines.line_num}: {len(values)} values for {len(header)} columns"
                    f" ({', '.join(header)})"
                )
            if any(value.strip() for value in values):
                yield lines.line_num, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise ConfigurationError(f"{file}, line {lines.line_num}: {error}") from None


def _trec_lines(file: Path, content: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not (values := line.split()):
            continue
        if len(values) != 4:
            raise ConfigurationError(f"{file}, line {number}: {len(values)} values; {_JUDGEMENTS}")
        query, _, row_id, grade = values
        yield number, dict(zip(_COLUMNS, (query, row_id, grade), strict=True))


def _value(record: Mapping[str, object], names: Sequence[str], place: str, expected: str) -> str:
    """The value of the first of these names that a record has."""
    name = next((name for name in names if name in record), None)
    if name is None:
        raise ConfigurationError(
            f"{place}: no {' or '.join(names)} (it has: {', '.join(record)}); {expected}"
        )
    value = record[name]
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise ConfigurationError(f"{place}: {name} is {value!r}, not a text")


def _grade(text: str, place: str) -> int:
    try:
        grade = float(text)
    except ValueError:
        grade = math.nan
    if not grade.is_integer():
        raise ConfigurationError(
            f"{place}: grade {text!r} is not a whole number (0: not relevant, 1 or more: relevant)"
        )
    return int(grade)


def read_golden(file: Path) -> Qrels:
    """Read a CSV file with the columns `query` and `id`, a row for each id that answers a query.

    Raises ConfigurationError for a missing file, or one without these columns or rows.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            columns = table.fieldnames or []
            if missing := {"query", "id"} - {*columns}:
                raise ConfigurationError(
                    f"{file} has no column {' and '.join(sorted(missing))} (columns:"
                    f" {', '.join(columns)})"
                )
            relevant: dict[str, dict[str, int]] = {}
            for row in table:
                query, row_id = (row["query"] or "").strip(), (row["id"] or "").strip()
                if not query or not row_id:
                    raise ConfigurationError(
                        f"{file}, line {table.line_num}: query and id must not be empty"
                    )
                relevant.setdefault(query, {})[row_id] = 1
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigurationError(f"{file} cannot be read as CSV: {error}") from None
    if not relevant:
        raise ConfigurationError(f"{file} has no rows: write a query and the id that answers it")
    return Qrels({query: query for query in relevant}, relevant)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the bounds of its 95 % interval by a percentile bootstrap over the values.

    Source: Sakai, Evaluating evaluation metrics based on the bootstrap (SIGIR 2006).
    """
    given = np.asarray(values)
    # seeded: a check that is repeated gives the same interval
    random = np.random.default_rng(0)
    # one resample at a time: all of them would need gigabytes for some ten thousand queries
    means = [random.choice(given, len(given)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(given.mean()), float(low), float(high)


def ndcg(ranked: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain at k, with linear gain as trec_eval has it.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002).
    """
    gain = _discounted([relevant.get(row_id, 0) for row_id in ranked[:k]])
    ideal = _discounted(sorted(relevant.values(), reverse=True)[:k])
    return gain / ideal if ideal else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """The share of the relevant rows that are among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, int]) -> float:
    """1 / the rank of the first relevant row; 0 where none was found."""
    return next((1 / rank for rank, row_id in enumerate(ranked, 1) if row_id in relevant), 0.0)


def _discounted(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))
