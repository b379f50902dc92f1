"""Solvers of a segment. `adaptive` is not imported here: torchdiffeq loads when it is named."""

from lapflow.solvers.denoising import DDIM, DDPM, EulerMaruyama, HeunEDM, RelaySolver
from lapflow.solvers.fixed_step import RK4, AdamsBashforth2, Euler, Heun, Midpoint, RungeKutta, Tableau

__all__ = [
    "DDIM",
    "DDPM",
    "RK4",
    "AdamsBashforth2",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "HeunEDM",
    "Midpoint",
    "RelaySolver",
    "RungeKutta",
    "Tableau",
]
