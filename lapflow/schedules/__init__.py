"""Interval schedules (which scale is active when), and how training draws segments, times and noise."""

from lapflow.schedules.intervals import CumulativeIntervals, Stages

__all__ = ["CumulativeIntervals", "Stages"]
