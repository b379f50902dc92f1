"""Components by name: built in, installed as plugins, or registered in a session."""

from lapflow.plugins.registry import create, get, names, register

__all__ = ["create", "get", "names", "register"]
