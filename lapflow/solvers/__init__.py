"""Solvers of a segment. `adaptive` is not imported here: torchdiffeq loads when it is named."""

from lapflow.solvers.denoising import DDIM, DDPM, RelaySolver
from lapflow.solvers.heun_edm import HeunEDM
from lapflow.solvers.multistep import AdamsBashforth2
from lapflow.solvers.runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta
from lapflow.solvers.sde import EulerMaruyama
from lapflow.solvers.tableau import Tableau

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
