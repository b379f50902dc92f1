"""Configs: the schema, loading and overriding, and building a composition."""
