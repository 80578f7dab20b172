"""Vectors kept in the process: never too many, never for too long."""

from __future__ import annotations

from dataclasses import replace

from embeddings_pipeline.encoders.cache.memory import MemoryCache
from tests.support.words import WORDS

OTHER = replace(WORDS, model="fake/other")


def test_the_least_used_go_first_where_the_bound_is_met() -> None:
    cache = MemoryCache({"query": 60, "document": 60}, max_bytes=20)
    cache.write("query", WORDS, {b"1": b"x" * 10, b"2": b"y" * 10})
    cache.read("query", WORDS, [b"1"])
    cache.write("query", WORDS, {b"3": b"z" * 10})
    assert cache.read("query", WORDS, [b"1", b"2", b"3"]).keys() == {b"1", b"3"}
    assert cache.size() == (2, 20)


def test_each_kind_is_kept_for_its_own_time() -> None:
    now = 0.0
    cache = MemoryCache({"query": 60, "document": 10}, clock=lambda: now)
    cache.write("query", WORDS, {b"1": b"x"})
    cache.write("document", WORDS, {b"1": b"x"})
    now = 10.0
    assert cache.read("query", WORDS, [b"1"])
    assert not cache.read("document", WORDS, [b"1"])
    now = 60.0
    assert cache.size() == (0, 0)


def test_a_time_of_zero_keeps_nothing() -> None:
    cache = MemoryCache({"query": 0, "document": 10})
    cache.write("query", WORDS, {b"1": b"x"})
    assert cache.read("query", WORDS, [b"1"]) == {}


def test_entries_are_of_one_kind_and_one_model_and_evicted_from_all() -> None:
    cache = MemoryCache({"query": 60, "document": 60})
    cache.write("query", WORDS, {b"1": b"x", b"2": b"y"})
    cache.write("document", OTHER, {b"1": b"z"})
    assert cache.read("query", OTHER, [b"1"]) == {}
    assert cache.read("document", WORDS, [b"1"]) == {}
    cache.evict([b"1"])
    assert cache.read("query", WORDS, [b"1", b"2"]) == {b"2": b"y"}
    assert cache.read("document", OTHER, [b"1"]) == {}
