"""Artefacts timed side by side: a process each, rounds in turn, claims with their spread."""
