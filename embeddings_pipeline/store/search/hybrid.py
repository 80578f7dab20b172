"""The statement of a whole search: the results of each way, the best chunk of each row, and their
fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

import numpy as np
from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.entity import SHOWN
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.store.search.published import Published, version

# Fusion of scores by how many deviations they lie above the mean of the best rows of that way, as
# Qdrant's DBSF. The exponent lets a row that stands out in one way win. `benchmarks.quality --tune`
# compares these constants; docs/search.md has the figures of what was tried
_SAMPLE = 50
# chunks of each way that are fused at a time
BLOCK = 100
_ONE_BLOCK = sql.SQL("0")
NULL: sql.Composable = sql.SQL("null")
_EXPONENT = 3
TEXT_WEIGHT = 0.5
# deviations above the mean in both ways that make a score of 1, and below which a row gets nothing
_DEVIATIONS = 3
# By vector, a deviation is a share of the way from the mean to the score of the query's vector with
# itself: where a model tells rows apart badly, none is far on that way. By words, a share of the
# greatest score that they could give is added to the variance: where no text has most of the
# query's words, no row stands out by them
_DENSE_DEVIATION = 0.15
_TEXT_DEVIATION = 0.06
# of equal rows, the scores differ by rounding
_LEAST_DEVIATION = 1e-6
# squared distances are to one another as cosines are, for vectors of one length
_DENSE_SCORES: dict[str, LiteralString] = {
    "cosine": "score",
    "ip": "score",
    "l2": "-power(1 / score - 1, 2)",
}
_WEIGHTS: dict[str, LiteralString] = {
    "dense": "1 - %(text_weight)s::float8",
    "text": "%(text_weight)s::float8",
}


def score_with_itself(metric: str, vector: Vector) -> float:
    """The score of a query's vector with itself, in the form of `_DENSE_SCORES`."""
    doubles = np.asarray(vector, np.float64)
    scores = {"cosine": 1.0, "ip": float(doubles @ doubles), "l2": 0.0}
    return scores[metric]


def statement(
    published: Published,
    ways: Mapping[str, sql.Composable],
    rows: int,
    *,
    before: Mapping[str, sql.Composable] = {},
    counted: sql.Composable = NULL,
) -> sql.Composed:
    """A statement that returns (version, number of chunks by way, the best similarity of a vector,
    the least score of a text, the number of texts read, what is counted, id, chunk, score, text,
    fields, shown), the best row first. The fields are the row's filter columns as JSON; shown are
    its title, url and image_url.

    `ways` are queries of (id, chunk, score), by words also of the texts `read`. They, and what is
    `counted`, which only the first row has, may read the queries `before`. Where nothing is found,
    the last six are null. What belongs to the other way of a search is null, too.
    """
    names = published.names
    return names.fill(
        """
        with {ways}, best as ({best})
        select {version}, {seen}, {similarity}, {least}, {read},
            case when h.place > 1 then null else {counted} end, h.*
        from (select) as one left join (
            select b.{id}::text as id, b.chunk, b.score, v.text, {fields} as fields,
                {shown} as shown, b.place
            from (
                select *, row_number() over (order by block, score desc, {id}) as place
                from best order by place limit {rows}
            ) as b
            join {vectors} v using ({id}, chunk)
        ) as h on true order by h.place
        """,
        ways=sql.SQL(", ").join(
            sql.SQL("{} as materialized ({})").format(Identifier(name), way)
            for name, way in {**before, **ways}.items()
        ),
        best=_fused(published) if len(ways) > 1 else _best_chunks(published, *ways),
        version=version(names.schema, names.source.entity.name),
        seen=sql.SQL("array[{}]").format(
            sql.SQL(", ").join(
                sql.SQL("(select count(*) from {})").format(Identifier(name)) for name in ways
            )
        ),
        similarity=sql.SQL("(select max(score) from dense)" if "dense" in ways else "null"),
        least=sql.SQL("(select min(score) from text)" if "text" in ways else "null"),
        read=sql.SQL("(select max(read) from text)" if "text" in ways else "null"),
        counted=counted,
        fields=fields(published),
        shown=shown(published),
        vectors=published.vectors,
        rows=Literal(rows),
    )


def nearest(published: Published, near: sql.Composable) -> sql.Composed:
    """The same result as `statement`, for entities without chunks and a search by one way. `near`
    is a query of (id, chunk, score) and the columns of `whole`, without a second join. It returns
    each chunk that it found, so their number is null."""
    names = published.names
    return names.fill(
        """
        select {version}, null, h.score, null, null, null,
            h.{id}::text, h.chunk, h.score, h.text, h.fields, h.shown
        from (select) as one left join ({near}) as h on true order by h.score desc, h.{id}
        """,
        version=version(names.schema, names.source.entity.name),
        near=near,
    )


def whole(published: Published) -> sql.Composable:
    """The text, the fields and what is shown of a row `v`, for the select list of `nearest`."""
    return sql.SQL(", v.text, {} as fields, {} as shown").format(
        fields(published), shown(published)
    )


def _best_chunks(
    published: Published, way: str, *, block: sql.Composable = _ONE_BLOCK
) -> sql.Composable:
    return published.names.fill(
        "select distinct on ({id}) {id}, chunk, score, {block} as block from {way}"
        " order by {id}, score desc, chunk",
        block=block,
        way=Identifier(way),
    )


def _fused(published: Published) -> sql.Composable:
    """The rows found in either way. A text that lacks the words has no row in `text`, and counts
    there with a score of 0: a word of few texts makes them stand out. The parameter `text_weight`
    is the weight of the words, `possible` the greatest score that they could give, and `itself` the
    score of the query's vector with itself.

    The chunks of a way are taken `BLOCK` at a time. A row comes with the first block that has it,
    and is scored by this block alone, so that a search for more rows adds rows behind the others.
    """
    block = published.names.fill(
        "(row_number() over (order by score desc, {id}, chunk) - 1) / {size}", size=Literal(BLOCK)
    )
    scores: dict[str, LiteralString] = {
        "dense": _DENSE_SCORES[published.vector_set.metric],
        "text": "score",
    }
    return published.names.fill(
        """
        with ranked as ({ranked}),
        spread as (
            select way, sum(score) / slots as mean, case way
                when 'text' then sqrt(
                    greatest(sum(score * score) / slots - (sum(score) / slots) ^ 2, 0)
                    + ({text_deviation} * %(possible)s::float8) ^ 2
                )
                -- an inner product may be greater than the query's with itself
                else greatest({dense_deviation} * (
                    greatest(max(score), %(itself)s::float8) - sum(score) / slots
                ), {least_deviation})
            end as deviation from (
                select way, score, case way
                    when 'text' then max(rank) over () else max(rank) over (partition by way)
                end as slots
                from ranked where block = 0 and rank <= {sample}
            ) as sample group by way, slots
        )
        select {id}, (array_agg(chunk order by way))[1] as chunk, sum(weight * power(greatest(
            (score - mean) / deviation / {deviations} / 2 + 0.5, 0
        ), {exponent})) as score, block
        from (select *, min(block) over (partition by {id}) as first from ranked) as ranked
        join spread using (way) where block = first group by {id}, block
        """,
        sample=Literal(_SAMPLE),
        text_deviation=Literal(_TEXT_DEVIATION),
        dense_deviation=Literal(_DENSE_DEVIATION),
        least_deviation=Literal(_LEAST_DEVIATION),
        deviations=Literal(float(_DEVIATIONS)),
        exponent=Literal(float(_EXPONENT)),
        ranked=sql.SQL(" union all ").join(
            published.names.fill(
                "select {id}, chunk, {way} as way, {weight} as weight, {score} as score, block,"
                " row_number() over (order by score desc, {id}) as rank from ({best}) as best",
                way=Literal(way),
                weight=sql.SQL(share),
                score=sql.SQL(scores[way]),
                best=_best_chunks(published, way, block=block),
            )
            for way, share in _WEIGHTS.items()
        ),
    )


def fields(published: Published) -> sql.Composable:
    """The filter columns of a row `v` as one JSON object."""
    if not published.filters:
        return sql.SQL("'{}'::jsonb")
    columns = sql.SQL(", ").join(Identifier("v", name) for name in published.filters)
    # f.* also works where a column is named f
    return sql.SQL("(select to_jsonb(f.*) from (select {}) as f)").format(columns)


def shown(published: Published) -> sql.Composable:
    """Title, url and image_url of a row `v` as an array; null where they are not declared."""
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text").format(Identifier("v", key))
            if key in published.shown
            else sql.SQL("null::text")
            for key in SHOWN
        )
    )
