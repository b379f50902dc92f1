"""A working component of every kind, `Skeleton`, from which `lapflow components new` makes a distribution.
Read as text."""
