"""The HTTP service of searches, and its page."""
