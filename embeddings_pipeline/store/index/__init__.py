"""Vector indexes of a set: building them, and measuring their recall."""
