"""Images as input of a model: where they are, how they are read and decoded."""
