"""The embedded task: rows made by code, so that a demo needs no network."""
