"""The SQL of searches: dense, lexical, hybrid, and what may be searched."""
