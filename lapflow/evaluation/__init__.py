"""Measures of a set of samples: Frechet and kernel distances, precision and recall, class agreement,
memorisation, and the report."""

from lapflow.evaluation.agreement import svm_agreement, svm_classifier
from lapflow.evaluation.distances import KernelDistance, Statistics, frechet_distance, kernel_distance
from lapflow.evaluation.evaluate import MEANINGS, Classifier, evaluate_images
from lapflow.evaluation.neighbours import CopyReport, PrecisionRecall, copies, precision_recall
from lapflow.evaluation.report import write_report

__all__ = [
    "MEANINGS",
    "Classifier",
    "CopyReport",
    "KernelDistance",
    "PrecisionRecall",
    "Statistics",
    "copies",
    "evaluate_images",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "svm_agreement",
    "svm_classifier",
    "write_report",
]
