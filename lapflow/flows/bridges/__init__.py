"""Bridges: how one segment hands over to the next."""
