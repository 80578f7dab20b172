"""Lists the known models without loading any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from embeddings_pipeline.encoders import speeds
from embeddings_pipeline.encoders.local import download
from embeddings_pipeline.encoders.local.description import describe, vision
from embeddings_pipeline.encoders.local.known_models import IMAGE_MODELS, KNOWN_MODELS
from embeddings_pipeline.encoders.local.model_files import file_prompts, is_static, pooling_of
from embeddings_pipeline.encoders.openai.endpoint import endpoint_of
from embeddings_pipeline.encoders.openai.models import KNOWN, RemoteModel, remote_model
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings


@dataclass(frozen=True)
class KnownModel:
    """A model that an entity may declare. None marks a value that only the model itself can tell;
    a `max_tokens` of None beside a dimension is no limit.

    `shorter` are dimensions to which the model was trained to be cut. The prompts are those that it
    has where an entity declares none. `tokens_per_second` is what was measured on this machine.
    `at_hand` says whether the model can be used without a download. `where` is its folder or host,
    or the reason why it cannot be used.
    """

    model: str
    provider: str
    usd_per_million_tokens: float | None
    at_hand: bool
    where: str
    dimension: int | None = None
    shorter: tuple[int, ...] = ()
    max_tokens: int | None = None
    pooling: str | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    license: str | None = None
    tokens_per_second: float | None = None
    reads_images: bool = False


def known_models(settings: Settings, declared: Iterable[str]) -> list[KnownModel]:
    """Return the default model, the models that entities declare, and the documented models."""
    named = [*KNOWN_MODELS, *IMAGE_MODELS, *KNOWN]
    names = dict.fromkeys([settings.embedding_model, *declared, *named])
    return [_known(name, settings) for name in names]


def _known(name: str, settings: Settings) -> KnownModel:
    of_token = usd_per_token(name, settings.embedding_prices)
    price = None if of_token is None else of_token * 1_000_000
    remote = remote_model(name)
    return _remote(name, remote, settings, price) if remote else _local(name, settings, price)


def _remote(name: str, remote: RemoteModel, settings: Settings, price: float | None) -> KnownModel:
    try:
        where, at_hand = endpoint_of(settings).host, True
    except ConfigurationError as error:
        where, at_hand = str(error), False
    return KnownModel(
        name,
        "openai",
        price,
        at_hand,
        where,
        dimension=remote.dimension,
        max_tokens=remote.max_tokens,
    )


def _local(name: str, settings: Settings, price: float | None) -> KnownModel:
    card = KNOWN_MODELS.get(name)
    unknown = KnownModel(
        name, "sentence-transformers", price, at_hand=False, where="only on the hub"
    )
    prompts = (card and card.prompts) or Prompts()
    if card:
        unknown = replace(
            unknown,
            dimension=card.dimension,
            shorter=card.shorter,
            max_tokens=card.max_tokens,
            pooling=card.pooling,
            query_prompt=prompts.query,
            document_prompt=prompts.document,
            license=card.license,
        )
    try:
        folder = download.find_local(name, settings)
        if folder is None:
            return unknown
        found = describe(name, folder, trusted=settings.trusts(name))
        prompts = (card and card.prompts_for(folder)) or file_prompts(folder)
        reads_images = vision(name, folder) is not None
        return replace(
            unknown,
            at_hand=True,
            where=str(folder),
            dimension=found.dimension,
            max_tokens=None if is_static(folder) else found.max_tokens,
            pooling=None if reads_images else pooling_of(folder),
            query_prompt=prompts.query,
            document_prompt=prompts.document,
            tokens_per_second=speeds.remembered(found, settings),
            reads_images=reads_images,
        )
    except ConfigurationError as error:
        return replace(unknown, where=str(error))
