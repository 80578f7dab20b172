"""Collections with judged queries, made from the data folder: SciFact, and texts of which a part is
the query for the rest. They differ in which way of searching is the better one."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings_pipeline.sync.quality.qrels import Qrels, read_qrels

# queries of each made-up collection
_QUERIES = 400
_PHRASE_WORDS = 4


@dataclass(frozen=True)
class Collection:
    """Rows with these columns of text, the id first; named sets of queries with their relevant
    rows; keys of the declaration; and whether the queries are rows themselves, which do not find
    themselves."""

    rows: Sequence[tuple[str, ...]]
    judged: Mapping[str, Qrels]
    keys: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[str] = ("id", "body")
    queries_are_rows: bool = False


def collections(data: Path) -> Iterator[Collection]:
    """All collections, each made when the one before has been used."""
    for make in _MAKERS:
        yield from make(data)


def _scifact(data: Path) -> Iterator[Collection]:
    folder = data / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    whole = [(d["_id"], f"{d['title']} {d['text']}") for d in documents]
    judged = {
        split: read_qrels(folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv")
        for split in ("train", "test")
    }
    yield Collection(whole, {f"scifact {split}": qrels for split, qrels in judged.items()})
    for name, repeat in (("chunked", []), ("chunked with titles", ["title"])):
        yield Collection(
            [(d["_id"], d["title"], d["text"]) for d in documents],
            {f"scifact {split}, {name}": qrels for split, qrels in judged.items()},
            {
                "include": ["title", "text"],
                "chunk": {"tokens": 128, "overlap": 32, "repeat": repeat},
            },
            ("id", "title", "text"),
        )
    few = documents[::3]
    titles = _known_items([(d["_id"], d["title"]) for d in few])
    yield Collection([(d["_id"], d["text"]) for d in few], {"titles of abstracts": titles})


def _packages(data: Path) -> Iterator[Collection]:
    rows = [
        row
        for row in _read(data / "debian_packages" / "debian_packages.csv.gz")[::16]
        if len(row["description_long"].split()) > 3 * _PHRASE_WORDS
    ]
    bodies = [(row["package"], row["description_long"]) for row in rows]
    summaries = _known_items([(row["package"], row["description_short"]) for row in rows])
    phrases = _known_items([(name, _phrase(text)) for name, text in bodies])
    yield Collection(bodies, {"summaries of packages": summaries, "phrases of packages": phrases})
    yield Collection(
        [(name, f"{name}: {text}") for name, text in bodies],
        {"names of packages": _known_items([(name, name) for name, _ in bodies])},
    )


def _russian_packages(data: Path) -> Iterator[Collection]:
    rows = [
        row
        for row in _read(data / "debian_packages" / "debian_packages_ru.csv.gz")
        if row["short_ru"] and row["long_ru"]
    ][:2_000]
    yield Collection(
        [(row["package"], row["long_ru"]) for row in rows],
        {
            "summaries of packages, Russian": _known_items(
                [(row["package"], row["short_ru"]) for row in rows]
            )
        },
        {"language": "russian"},
    )


def _captions(data: Path) -> Iterator[Collection]:
    rows = []
    for n, row in enumerate(_read(data / "captions" / "captions_passages_30s.csv.gz")):
        first, _, rest = row["text"].partition(". ")
        if row["lang"] == "en" and 4 <= len(first.split()) <= 30 and len(rest.split()) > 20:
            rows.append((str(n), first, rest))
    yield Collection(
        [(key, rest) for key, _, rest in rows],
        {"first sentences of speech": _known_items([(key, first) for key, first, _ in rows])},
    )


def _instructions(data: Path) -> Iterator[Collection]:
    """Other wordings of the same task are the answers."""
    rows = {str(n): row for n, row in enumerate(_plain(data / "robot_instructions"))}
    by_task: dict[str, dict[str, int]] = defaultdict(dict)
    for key, row in rows.items():
        by_task[row["task_id"]][key] = 1
    relevant = {
        key: others
        for key, row in rows.items()
        if (others := {k: 1 for k in by_task[row["task_id"]] if k != key})
    }
    chosen = random.Random(1).sample(sorted(relevant), min(_QUERIES, len(relevant)))
    queries = Qrels({k: rows[k]["instruction"] for k in chosen}, {k: relevant[k] for k in chosen})
    yield Collection(
        [(key, row["instruction"]) for key, row in rows.items()],
        {"other wordings of instructions": queries},
        queries_are_rows=True,
    )


_MAKERS: Sequence[Callable[[Path], Iterator[Collection]]] = (
    _scifact,
    _packages,
    _russian_packages,
    _captions,
    _instructions,
)


def _known_items(queries: Sequence[tuple[str, str]]) -> Qrels:
    """A sample of queries, each of which looks for one row."""
    chosen = random.Random(1).sample(queries, min(_QUERIES, len(queries)))
    return Qrels(dict(chosen), {key: {key: 1} for key, _ in chosen})


def _phrase(text: str) -> str:
    """A few consecutive words of a text, always the same."""
    words = re.findall(r"\w+", text)
    start = random.Random(text).randrange(max(1, len(words) - _PHRASE_WORDS))
    return " ".join(words[start : start + _PHRASE_WORDS])


def _read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _plain(folder: Path) -> list[dict[str, str]]:
    with (folder / "robot_instructions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
