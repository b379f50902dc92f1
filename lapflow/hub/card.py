"""What stands beside the weights of an exported folder: the model card README.md, for people and for the Hub,
and the two small files of code by which diffusers finds lapflow's classes. lapflow itself never runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lapflow
from lapflow.config.loading import resolved, write_yaml
from lapflow.core.errors import ConfigError
from lapflow.evaluation.report import fenced_yaml, metrics_table, words
from lapflow.sampling.loaded_run import BACKBONE, BACKBONE_CLASS, PIPELINE_CLASS, LoadedRun

MAX_CLASSES = 20
PIPELINE_MODULE, BACKBONE_MODULE = "pipeline", "lapflow_backbone"

CODE = {f"{PIPELINE_MODULE}.py": PIPELINE_CLASS, f"{BACKBONE}/{BACKBONE_MODULE}.py": BACKBONE_CLASS}
"""{file of code: the class that it gives}"""


def code_file(name: str) -> str:
    """The text of a file of code that gives the class `name`."""
    return f'''"""Lets diffusers load this folder with trust_remote_code=True.

It needs lapflow: pip install 'lapflow[diffusers]'."""

from lapflow.hub import {name}

__all__ = ["{name}"]
'''


def model_card(
    loaded_run: LoadedRun, name: str, parameters: int, metrics: Mapping[str, Any] | None, licence: str | None
) -> str:
    """Markdown with the Hub's front matter. `name` is where the folder is: a path or a repository; `metrics`
    are those of `lapflow evaluate`, with what they were measured with; `licence` None: not stated."""
    about: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["lapflow", "flow-matching", "image-generation"],
    }
    if licence is not None:
        about["license"] = licence
    names = loaded_run.class_names
    asked = f"class_labels=[{names[0]!r}] * 4" if names else "num_images_per_label=4"
    parts = [
        f"---\n{write_yaml(about)}---",
        f"# {name.rstrip('/').rsplit('/', 1)[-1]}",
        f"A generative model of images, made with lapflow {lapflow.__version__}.",
        _table(loaded_run, parameters),
        "## Use",
        "```console\n$ pip install 'lapflow[diffusers]'\n```",
        "```python\nimport torch\nfrom lapflow import LapFlowPipeline\n\n"
        f'pipe = LapFlowPipeline.from_pretrained("{name}")\n'
        f"images = pipe({asked}, generator=torch.Generator().manual_seed(0)).images\n```",
        "With diffusers alone in sight, the class is found by the small files of code in this folder, which "
        "import lapflow and do nothing else:",
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)\n```',
        "Without diffusers, from a folder on the disk:",
        f"```console\n$ lapflow sample {name} --num 16 --out samples\n```",
        "## Measured",
        metrics_table(metrics)
        if metrics
        else "Nothing was measured of these weights when they were exported.",
        "## Licence",
        licence or "Not stated by whoever exported this model.",
        "## Config",
        "The whole resolved config; `lapflow train` starts the same training from it, where its data is.",
        fenced_yaml(resolved(loaded_run.config)),
    ]
    return "\n\n".join(parts) + "\n"


def check_licence(licence: str | None) -> str | None:
    """`licence`, if a card can state it. Raises `ConfigError` for one that is not a single line."""
    if licence is not None and (not licence.strip() or len(licence.splitlines()) != 1):
        raise ConfigError(
            "a licence is one line",
            got=repr(licence),
            expected="the Hub's name of one, such as apache-2.0 or cc-by-4.0",
        )
    return licence


def _table(loaded_run: LoadedRun, parameters: int) -> str:
    config, (c, *sizes) = loaded_run.config, loaded_run.shape
    flow = config.flow
    names = loaded_run.class_names
    listed = ", ".join(names[:MAX_CLASSES]) + (", ..." if len(names) > MAX_CLASSES else "")
    rows = {
        "images": f"{'x'.join(map(str, sizes))}, {c} {'channel' if c == 1 else 'channels'}",
        "classes": f"{len(names)}: {listed}" if names else "none",
        "weights": f"{loaded_run.weights}, of training step {loaded_run.step}",
        "parameters": f"{parameters:,}",
        "space": words(config.codec),
        "decomposition": words(flow.decomposition),
        "intervals": words(flow.intervals),
        "path": words(flow.path),
        "bridge": words(flow.bridge),
        "prediction": f"{words(flow.prediction)}, representation {flow.representation}, noise "
        f"{words(flow.noise)}",
        "network": words(config.model),
        "solver": words(config.sampling.solver),
        "guidance": words(config.sampling.guidance),
        "data": words(config.data),
    }
    lines = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
