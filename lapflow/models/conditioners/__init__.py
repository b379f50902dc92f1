"""What a data set says of a sample, as parts of a condition: classes, numbers, captions."""

from lapflow.models.conditioners.bytes import ByteCaptions
from lapflow.models.conditioners.classes import ClassLabels
from lapflow.models.conditioners.vector import NumberVector

__all__ = ["ByteCaptions", "ClassLabels", "NumberVector"]
