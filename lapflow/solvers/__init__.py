"""Solvers of a segment's differential equation. `adaptive` is not imported here: torchdiffeq loads when it is named."""

from lapflow.solvers.runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta
from lapflow.solvers.tableau import Tableau

__all__ = ["RK4", "Euler", "Heun", "Midpoint", "RungeKutta", "Tableau"]
