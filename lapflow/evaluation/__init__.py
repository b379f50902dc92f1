"""Measures of a set of samples: Frechet and kernel distances, precision and recall, class agreement,
memorisation, and the report."""

from lapflow.evaluation.agreement import svm_agreement, svm_classifier
from lapflow.evaluation.copies import CopyReport, copies
from lapflow.evaluation.evaluate import MEANINGS, Classifier, evaluate_images
from lapflow.evaluation.frechet import Statistics, frechet_distance
from lapflow.evaluation.kernel import KernelDistance, kernel_distance
from lapflow.evaluation.manifold import PrecisionRecall, precision_recall
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
