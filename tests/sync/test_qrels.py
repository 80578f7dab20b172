"""The files of judged queries that people have, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.sync.quality.qrels import Qrels, read_qrels

QUERIES = '{"_id": "a", "text": "red shoe"}\n{"_id": "b", "text": "lamp"}\n'
QRELS = "query-id\tcorpus-id\tscore\na\t1\t2\na\t2\t0\nb\t3\t1\n"
READ = Qrels({"a": "red shoe", "b": "lamp"}, {"a": {"1": 2}, "b": {"3": 1}})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(queries: str | bytes = QUERIES, qrels: str | bytes = QRELS) -> Qrels:
    for name, content in (("queries", queries), ("qrels", qrels)):
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_qrels(Path("queries"), Path("qrels"))


@pytest.mark.parametrize(
    "queries",
    [
        QUERIES,
        "\ufeff" + QUERIES.replace("\n", "\r\n"),
        QUERIES + QUERIES,
        '\n{"id": "a", "query": "red shoe"}\n\n{"id": "b", "query": "lamp", "lang": null}',
        "_id,text\na,red shoe\nb,lamp\n",
        "id,language,query\r\na,en,red shoe\r\n\r\nb,en,lamp\r\n",
        '\ufeffid,text\n"a","red shoe"\nb,lamp\nc,\n',
        "id\ttext\na\tred shoe\nb\tlamp\n",
    ],
    ids=["BEIR", "BOM and CRLF", "twice", "keys", "CSV", "CSV and CRLF", "CSV and BOM", "TSV"],
)
def test_queries_are_read_in_the_shapes_that_people_have(queries: str) -> None:
    assert read(queries) == READ


@pytest.mark.parametrize(
    "qrels",
    [
        QRELS,
        "\ufeff" + QRELS.replace("\n", "\r\n"),
        QRELS + "a\t1\t2\n",
        QRELS.replace("\t", ","),
        QRELS.replace("\t2\n", "\t2.0\n").replace("\t0\n", "\t-1\n"),
        "a 0 1 2\na 0 2 0\n\nb 0 3 1",
        "a\tQ0\t1\t2\r\nb\tQ0\t3\t1\r\n",
    ],
    ids=["BEIR", "BOM and CRLF", "a line twice", "CSV", "floats", "TREC", "TREC with tabs"],
)
def test_judgements_are_read_in_the_shapes_that_people_have(qrels: str) -> None:
    assert read(qrels=qrels) == READ


def test_any_text_and_any_id_are_read() -> None:
    text = "two\u2028lines\u0085or three"
    records = [{"_id": "NA", "text": text}, {"_id": '7"', "text": "inches"}, {"_id": 8, "text": ""}]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    found = read(
        "\n".join([*lines, "", ""]), 'query-id\tcorpus-id\tscore\nNA\tnull\t1\n7"\t12"\t2\n'
    )
    assert found.queries == {"NA": text, '7"': "inches"}
    assert found.relevant == {"NA": {"null": 1}, '7"': {'12"': 2}}


def test_a_text_of_several_lines_is_read_from_csv() -> None:
    found = read('id,text\na,"red\r\nshoe, ""new"""\nb,lamp\n')
    assert found.queries == {"a": 'red\r\nshoe, "new"', "b": "lamp"}


def test_judged_queries_without_a_text_are_left_out_and_known() -> None:
    found = read(qrels=QRELS + "c\t1\t1\n")
    assert (found.queries, found.relevant, found.unknown) == (READ.queries, READ.relevant, ("c",))


@pytest.mark.parametrize(
    ("queries", "why"),
    [
        (
            QUERIES + "{'_id': 'c'}\n",
            "queries, line 3: not JSON .*queries are lines like",
        ),
        (QUERIES + '["c"]\n', "queries, line 3: not a JSON object"),
        ("[\n]", "queries, line 1: not JSON"),
        ('{"_id": "a", "title": "x"}', r"line 1: no text or query \(it has: _id, title\)"),
        ('{"_id": null, "text": "x"}', "line 1: _id is None, not a text"),
        ("1\tred shoe\n2\tlamp\n", r"line 2: no _id or id \(it has: 1, red shoe\)"),
        ("id,text\na,red, shoe\n", r"line 2: 3 values for 2 columns \(id, text\)"),
        ("id,text\na\n", r"line 2: no text or query \(it has: id\)"),
        (QUERIES + '{"_id": "a", "text": "boot"}', "line 3: query 'a' has another text in line 1"),
        ('{"_id": "a", "text": " "}', "queries, line 1: query 'a' has no text"),
        ("id,text\na,hüt\n".encode("latin-1"), r"queries, line 2: not UTF-8 .*save the file as"),
        ("", "judges none of the 0 queries in queries: it has the ids 'a', 'b', the queries none"),
        ('{"_id": 1, "text": "x"}', "it has the ids 'a', 'b', the queries '1'"),
    ],
)
def test_wrong_queries_are_refused_with_their_line(queries: str | bytes, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read(queries)


@pytest.mark.parametrize(
    ("qrels", "why"),
    [
        (QRELS + "b\t4\tyes\n", r"qrels, line 5: grade 'yes' is not a whole number \(0: not rel"),
        (QRELS + "b\t4\t0.5\n", "qrels, line 5: grade '0.5' is not a whole number"),
        (QRELS + "b\t4\n", r"line 5: no score \(it has: query-id, corpus-id\); qrels are CSV or"),
        (QRELS + "a\t1\t1\n", "line 5: query 'a' and row '1' have the grade 1 here and 2 in an"),
        ("query\tdoc\trel\na\t1\t2\n", "qrels, line 1: 3 values; qrels are CSV or TSV with the"),
        ("a 0 1 1\nb 0 1\n", "qrels, line 2: 3 values"),
        ("a 0 1 0\n", "qrels has no relevant row: no grade is above 0"),
        ("", "qrels has no relevant row"),
    ],
)
def test_wrong_judgements_are_refused_with_their_line(qrels: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read(qrels=qrels)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match="nowhere cannot be read: No such file"):
        read_qrels(Path("nowhere"), Path("qrels"))
