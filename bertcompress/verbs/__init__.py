"""Verbs on models that exist: `evaluate`, `bench`, `export`, `inspect`, `verify`."""
