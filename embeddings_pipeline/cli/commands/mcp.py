"""`embeddings-pipeline mcp`: search as tools for an agent, on standard input and output."""

from __future__ import annotations

from embeddings_pipeline.cli.terminal import log_as_json
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings


def mcp() -> None:
    """Give an agent tools to search, by the Model Context Protocol on standard input and output.

    `serve` offers the same tools over HTTP, at /mcp.
    """
    from embeddings_pipeline.service.mcp import serve_stdio

    settings = Settings.load()
    if settings.log_format == "json":
        log_as_json()
    with Pipeline.open(settings) as pipeline:
        serve_stdio(pipeline)
