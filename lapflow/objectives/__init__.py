"""What training minimises."""

from lapflow.objectives.mse import MSE, weighted_error
from lapflow.objectives.variational import VariationalMSE

__all__ = ["MSE", "VariationalMSE", "weighted_error"]
