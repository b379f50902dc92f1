"""Measures of a set of samples: Frechet distance, class agreement, memorisation, and the report."""

from lapflow.evaluation.agreement import svm_agreement
from lapflow.evaluation.copies import CopyReport, copies
from lapflow.evaluation.evaluate import MEANINGS, Classifier, evaluate_images
from lapflow.evaluation.frechet import Statistics, frechet_distance
from lapflow.evaluation.report import write_report

__all__ = [
    "MEANINGS",
    "Classifier",
    "CopyReport",
    "Statistics",
    "copies",
    "evaluate_images",
    "frechet_distance",
    "svm_agreement",
    "write_report",
]
