"""SSPRK3 (Shu & Osher 1988): three stages, order 3, convex combinations of Euler steps."""

from __future__ import annotations

from lapflow.solvers import RungeKutta, Tableau


class SSPRK3(RungeKutta):
    """Shu & Osher's strong-stability-preserving method, order 3, three evaluations a step."""

    tableau = Tableau.explicit("", "1", "1/4 1/4", weights="1/6 1/6 2/3", order=3)
