"""Vectors: the embedding cache of each model identity, and the vector sets projected from it."""
