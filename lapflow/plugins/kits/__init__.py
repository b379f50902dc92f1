"""The conformance kits, one per contract; `lapflow.plugins.conformance` gathers them."""
