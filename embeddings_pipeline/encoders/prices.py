"""Prices of models."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings_pipeline.encoders.openai.models import PREFIX, remote_model

# US dollars per million tokens, written from memory of https://platform.openai.com/docs/pricing
# and not checked against that page since: EMBEDDING_PRICES overrides a price that has changed
PRICES: Mapping[str, float] = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}


def usd_per_token(model: str, overrides: Mapping[str, float]) -> float | None:
    """Return the price of one token in US dollars; `overrides` are per million tokens.

    A local model without a price costs 0. Returns None for a provider's model without a price.
    """
    remote = remote_model(model)
    # a known model has two names, and a price for either name applies to both
    names = (model, remote.name, PREFIX + remote.name) if remote else (model,)
    prices = [prices[name] for prices in (overrides, PRICES) for name in names if name in prices]
    if not prices:
        return None if remote else 0.0
    return prices[0] / 1_000_000
