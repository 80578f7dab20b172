"""The Dagster code location: the dbt models, their embeddings, and what you put into defs/."""

from pathlib import Path

import dagster as dg

from embeddings_pipeline import definitions

defs = dg.Definitions.merge(
    definitions.defs, dg.load_from_defs_folder(path_within_project=Path(__file__))
)
