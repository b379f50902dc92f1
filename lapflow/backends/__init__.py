"""Attention kernels and training engines."""
