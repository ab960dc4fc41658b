"""The stages: which parameters train, the loss, the validation metrics. No loop here."""

from embervlm.stages.base import Stage, StageModule
from embervlm.stages.registry import STAGES, get_stage

__all__ = ["STAGES", "Stage", "StageModule", "get_stage"]
