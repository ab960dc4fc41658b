"""What a model is worth: metrics, baselines, the evaluation of a stage, its report."""

from embervlm.evaluation.baselines import evaluate_folds, folds_by_task
from embervlm.evaluation.calibration import expected_calibration_error, fit_calibration, fit_temperature
from embervlm.evaluation.evaluate import evaluate_stage
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.report import format_table, metrics_content, read_metrics, write_json

__all__ = [
    "MetricError",
    "evaluate_folds",
    "evaluate_stage",
    "expected_calibration_error",
    "fit_calibration",
    "fit_temperature",
    "folds_by_task",
    "format_table",
    "metrics_content",
    "read_metrics",
    "write_json",
]
