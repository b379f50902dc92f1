"""A run's weights into a folder that diffusers and lapflow load: whole, or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lapflow.core.errors import CheckpointError
from lapflow.util.files import ASIDE

if TYPE_CHECKING:
    from lapflow.hub import LapFlowPipeline


def export_run(
    run: Path,
    out: Path,
    *,
    checkpoint: str | None = None,
    weights: str | None = None,
    licence: str | None = None,
    name: str | None = None,
) -> LapFlowPipeline:
    """Write the pipeline of `run` (see `LapFlowPipeline.from_run`) to `out`, a new or empty folder; returns
    the pipeline.

    `name` is what the model card calls the folder (default: `out`). It is written beside `out` and renamed.
    Raises `CheckpointError` for a folder that is in use or cannot be written, with nothing left there.
    """
    from lapflow.hub import LapFlowPipeline

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            "the output folder is in use",
            got=str(out),
            expected="a new or empty folder",
            remedy="choose another folder, or remove this one",
        )
    pipe = LapFlowPipeline.from_run(run, checkpoint=checkpoint, weights=weights, license=licence)
    aside = out.with_name(f"{ASIDE}{out.name}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(aside, name=name or str(out))
        aside.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"the export could not be written: {error.strerror or error}",
            got=str(out),
            expected="a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return pipe
