"""A working component, `Skeleton`, of each kind that `lapflow components new` writes. Read as text."""

SKELETONS = ("backbone", "dataset", "objective", "solver")
"""The kinds that most plugins are of."""
