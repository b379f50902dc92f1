"""The factory of compositions: a `Flow` whose law was checked."""

from __future__ import annotations

from lapflow.core.bridge import Bridge
from lapflow.core.coupling import Coupling
from lapflow.core.decomposition import Decomposition
from lapflow.core.intervals import IntervalSchedule
from lapflow.core.noise import Noise
from lapflow.core.path import Path
from lapflow.core.prediction import Prediction
from lapflow.core.time_law import TimeLaw
from lapflow.flows.flow import Flow, Representation
from lapflow.flows.laws import check_laws


def compose(
    decomposition: Decomposition,
    intervals: IntervalSchedule,
    path: Path,
    bridge: Bridge,
    *,
    noise: Noise | None = None,
    time_law: TimeLaw | None = None,
    coupling: Coupling | None = None,
    prediction: Prediction | None = None,
    representation: Representation = "bands",
    check: bool = True,
) -> Flow:
    """The flow of these parts, after the law check (`lapflow.flows.laws`).

    Raises `LawError` for a composition whose sampler would not follow the law that training assumes, and
    `ConfigError` for parts that do not fit. `check=False` skips the law check, to study such a composition.
    """
    flow = Flow(
        decomposition,
        intervals,
        path,
        bridge,
        noise=noise,
        time_law=time_law,
        coupling=coupling,
        prediction=prediction,
        representation=representation,
    )
    if check:
        check_laws(flow).require()
    return flow
