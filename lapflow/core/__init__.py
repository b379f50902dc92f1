"""The contracts, one for each kind of component, and the values that they pass."""
