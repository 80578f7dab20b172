"""Texts: what each row says, in chunks; what could not be rendered or encoded; what was erased."""
