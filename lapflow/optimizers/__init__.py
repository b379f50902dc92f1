"""Optimizers: AdamW, any other of torch's by name, and Muon with AdamW."""
