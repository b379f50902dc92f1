"""The contracts, one per file, and the mathematics of a composition (`flow`) with its closed-form check
(`laws`)."""
