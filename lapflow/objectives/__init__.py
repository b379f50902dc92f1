"""What training minimises."""

from lapflow.objectives.mse import MSE, VariationalMSE, weighted_error

__all__ = ["MSE", "VariationalMSE", "weighted_error"]
