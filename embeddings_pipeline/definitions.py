"""Dagster's entry point: the code location of the project in the working directory."""

from embeddings_pipeline.assets.project import project_definitions
from embeddings_pipeline.settings import Settings

defs = project_definitions(Settings.load())
