"""The Postgres that this package brings along."""
