"""Vectors of queries remembered, in this process or in Redis."""
