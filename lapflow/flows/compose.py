"""The factory of compositions: a `Flow` whose law was checked."""

from __future__ import annotations

from lapflow.core.bridge import Bridge
from lapflow.core.decomposition import Decomposition
from lapflow.core.flow import Flow, View
from lapflow.core.intervals import IntervalSchedule
from lapflow.core.laws import check_laws
from lapflow.core.noise import NoiseName
from lapflow.core.path import Path
from lapflow.core.prediction import Prediction


def compose(
    decomposition: Decomposition,
    intervals: IntervalSchedule,
    path: Path,
    bridge: Bridge,
    *,
    noise: NoiseName = "decomposed",
    prediction: Prediction | None = None,
    view: View = "bands",
    check: bool = True,
) -> Flow:
    """The flow of these parts, after the law check (`lapflow.core.laws`).

    Raises `LawError` for a composition whose sampler would not follow the law that training assumes, and
    `ConfigError` for parts that do not fit. `check=False` skips the law check, to study such a composition.
    """
    flow = Flow(decomposition, intervals, path, bridge, noise=noise, prediction=prediction, view=view)
    if check:
        check_laws(flow).require()
    return flow
