"""Models of a hub that people use, and what their cards say. docs/models.md names the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from embeddings_pipeline.encoders.local.model_files import file_prompts
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.settings import DEFAULT_MODEL

# how the vectors of tokens become one: their mean, or the vector of the first or last token; of a
# static model, the mean of vectors that do not depend on the other tokens
CardPooling: TypeAlias = Literal["mean", "cls", "lasttoken", "static"]

# small models that read images, named in error messages and in the catalogue
IMAGE_MODELS = ("sentence-transformers/clip-ViT-B-32", "openai/clip-vit-base-patch32")


@dataclass(frozen=True)
class ModelCard:
    """What the card of a model says.

    `max_tokens` is None where there is no limit. `prompts` are those for search. `shorter` are
    dimensions to which the model was trained to be cut (Matryoshka, arxiv.org/abs/2205.13147).
    """

    dimension: int
    max_tokens: int | None
    pooling: CardPooling
    license: str
    prompts: Prompts | None = None
    shorter: tuple[int, ...] = ()

    def prompts_for(self, folder: Path) -> Prompts | None:
        """The prompts of the card; None where the model's files have prompts, which are used then.

        Raises ConfigurationError for a file that does not hold prompts.
        """
        return self.prompts if file_prompts(folder) == Prompts() else None


_BGE = Prompts(query="Represent this sentence for searching relevant passages: ")
_E5 = Prompts(query="query: ", document="passage: ")
_GEMMA = Prompts(query="task: search result | query: ", document="title: none | text: ")
_NOMIC = Prompts(query="search_query: ", document="search_document: ")
_QWEN = Prompts(
    query="Instruct: Given a web search query, retrieve relevant passages that answer the"
    " query\nQuery:"
)

KNOWN_MODELS: Mapping[str, ModelCard] = {
    DEFAULT_MODEL: ModelCard(384, 256, "mean", "apache-2.0"),
    "BAAI/bge-small-en-v1.5": ModelCard(384, 512, "cls", "mit", _BGE),
    "BAAI/bge-base-en-v1.5": ModelCard(768, 512, "cls", "mit", _BGE),
    "BAAI/bge-m3": ModelCard(1024, 8192, "cls", "mit"),
    "intfloat/e5-small-v2": ModelCard(384, 512, "mean", "mit", _E5),
    "intfloat/e5-base-v2": ModelCard(768, 512, "mean", "mit", _E5),
    "intfloat/e5-large-v2": ModelCard(1024, 512, "mean", "mit", _E5),
    "intfloat/multilingual-e5-small": ModelCard(384, 512, "mean", "mit", _E5),
    "intfloat/multilingual-e5-base": ModelCard(768, 512, "mean", "mit", _E5),
    "intfloat/multilingual-e5-large": ModelCard(1024, 512, "mean", "mit", _E5),
    "Alibaba-NLP/gte-modernbert-base": ModelCard(768, 8192, "cls", "apache-2.0"),
    "nomic-ai/nomic-embed-text-v1.5": ModelCard(
        768, 8192, "mean", "apache-2.0", _NOMIC, shorter=(512, 256, 128, 64)
    ),
    "Qwen/Qwen3-Embedding-0.6B": ModelCard(
        1024, 32_768, "lasttoken", "apache-2.0", _QWEN, shorter=(512, 256, 128, 64, 32)
    ),
    "google/embeddinggemma-300m": ModelCard(
        768, 2048, "mean", "gemma", _GEMMA, shorter=(512, 256, 128)
    ),
    "minishlab/potion-base-8M": ModelCard(256, None, "static", "mit"),
    "minishlab/potion-base-32M": ModelCard(512, None, "static", "mit"),
    "minishlab/potion-retrieval-32M": ModelCard(512, None, "static", "mit"),
    "minishlab/potion-multilingual-128M": ModelCard(256, None, "static", "mit"),
}
