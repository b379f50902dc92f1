"""The two small files of code beside the weights, by which diffusers finds lapflow's classes. lapflow itself
never runs them."""

from __future__ import annotations

from lapflow.sampling.exported import BACKBONE, BACKBONE_CLASS, PIPELINE_CLASS

PIPELINE_MODULE, BACKBONE_MODULE = "pipeline", "lapflow_backbone"

CODE = {f"{PIPELINE_MODULE}.py": PIPELINE_CLASS, f"{BACKBONE}/{BACKBONE_MODULE}.py": BACKBONE_CLASS}
"""{file: the class that it gives}"""


def source(name: str) -> str:
    """The text of a file that gives the class `name`."""
    return f'''"""Lets diffusers load this folder with trust_remote_code=True.

It needs lapflow: pip install 'lapflow[diffusers]'."""

from lapflow.hub import {name}

__all__ = ["{name}"]
'''
