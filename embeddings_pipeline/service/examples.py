"""Requests and answers that the OpenAPI document shows. Those of texts are of the example project,
which `demo` writes."""

from __future__ import annotations

from typing import Any

QUERIES: dict[str, Any] = {
    "query": {
        "summary": "By vector",
        "value": {"entity": "clip", "query": "maps", "top_k": 1},
    },
    "filters": {
        "summary": "By vector and words, among some rows",
        "value": {
            "entity": "product",
            "query": "edit photos",
            "mode": "hybrid",
            "filters": {
                "category": ["graphics", "video"],
                "installed_size_kb": {"lte": 20000},
            },
        },
    },
    "page": {
        "summary": "The second page, with counts and highlights",
        "value": {
            "entity": "product",
            "query": "edit photos",
            "mode": "hybrid",
            "top_k": 10,
            "offset": 10,
            "total": True,
            "facets": ["category"],
            "highlight": True,
            "filters": {
                "or": [{"language": "en"}, {"category": "games"}],
                "not": {"is_active": False},
            },
        },
    },
}
SEARCHES = {
    "searches": [
        {"entity": "clip", "query": "maps", "top_k": 1},
        {"entity": "product", "query": "edit photos", "mode": "text"},
    ]
}
LISTING = {
    "entity": "clip",
    "filters": {"category": "maps"},
    "sort": {"by": "broadcaster", "order": "desc"},
    "top_k": 1,
    "total": True,
    "facets": ["category"],
}
_SHOWN = {
    "title": "The Thematic Mapping Engine",
    "url": "http://www.youtube.com/watch?v=aiXdP9gqxHc",
    "image_url": None,
}
_TEXT = "title: The Thematic Mapping Engine. broadcaster: Google Developers. category: maps"
_FIELDS = {"category": "maps", "broadcaster": "Google Developers"}
ANSWER = {
    "entity": "clip",
    "mode": "dense",
    "results": [
        {
            "id": "aiXdP9gqxHc",
            "chunk": 0,
            "score": 0.626,
            "text": _TEXT,
            "fields": _FIELDS,
            **_SHOWN,
            "highlights": None,
            "vector": None,
        }
    ],
    "coverage": 100.0,
    "data_lag_seconds": 0.0,
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "vector_set": 1,
    "shortfall": 0,
    "words": None,
    "best_similarity": 0.626,
    "total": None,
    "facets": None,
    "histograms": None,
    "suggestion": None,
}
ROWS = {
    "entity": "clip",
    "rows": [{"id": "aiXdP9gqxHc", "texts": [_TEXT], "fields": _FIELDS, **_SHOWN}],
    "missing": ["none"],
}
LISTED = {
    "entity": "clip",
    "rows": ROWS["rows"],
    "total": {"rows": 141, "exact": True},
    "facets": {"category": [{"value": "maps", "count": 4}]},
    "histograms": None,
}
BY_IMAGE = {
    **ANSWER,
    "entity": "photo",
    "results": [
        {
            "id": "17",
            "chunk": 0,
            "score": 0.93,
            "text": "2026/garden.jpg",
            "fields": {"place": "Perm"},
            "title": None,
            "url": None,
            "image_url": None,
            "highlights": None,
            "vector": None,
        }
    ],
    "best_similarity": 0.93,
    "model": "sentence-transformers/clip-ViT-B-32",
}


def response(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the description of an answer with this example, for the `responses` of a route."""
    return {200: {"content": {"application/json": {"example": example}}}}
