"""Paths: how data and noise mix along time."""
