"""Interval schedules (which scale is active when), and how training draws segments, times and noise."""

from lapflow.schedules.cumulative import CumulativeIntervals
from lapflow.schedules.stages import Stages

__all__ = ["CumulativeIntervals", "Stages"]
