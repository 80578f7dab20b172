"""What a model costs."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings_pipeline.encoders.openai_models import PREFIX, remote_model

# US dollars for a million tokens, written from memory of https://platform.openai.com/docs/pricing
# and not checked against it lately: EMBEDDING_PRICES overrides what has changed
PRICES: Mapping[str, float] = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}


def usd_per_token(model: str, overrides: Mapping[str, float]) -> float:
    """The price of one token; a model that has none, as a local one, costs nothing."""
    remote = remote_model(model)
    # a known model has two names, and a price for one is for both
    names = (model, remote.name, PREFIX + remote.name) if remote else (model,)
    prices = (prices[name] for prices in (overrides, PRICES) for name in names if name in prices)
    return next(prices, 0.0) / 1_000_000
