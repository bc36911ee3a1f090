"""Where experiments are described, run, scored and recorded."""

from decalign_core.lab.experiment import ExperimentConfig, configure, with_variant
from decalign_core.lab.metrics import emotion_metrics, sentiment_metrics
from decalign_core.lab.presets import preset
from decalign_core.lab.results import RunRecord, collect, published, summary
from decalign_core.lab.training import Run, load_run, train

__all__ = [
    "ExperimentConfig",
    "Run",
    "RunRecord",
    "collect",
    "configure",
    "emotion_metrics",
    "load_run",
    "preset",
    "published",
    "sentiment_metrics",
    "summary",
    "train",
    "with_variant",
]
