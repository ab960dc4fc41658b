"""What the figures are drawn from: one frozen dataclass per figure, and where a run keeps them.

    store = FigureStore("outputs")
    store.write(RobotPerformance(steps=[785], robots=fleet.names, correct=…, total=…, source="validation, 256 tasks"))
    store.read(RobotPerformance)   # every evaluation that was written, joined

Shapes, units and meanings stand in each class; `base` says how they are checked and stored.
"""

from embervlm.monitoring.data.base import FigureData, FigureDataError
from embervlm.monitoring.data.cross import (
    Ablation,
    BenchmarkProgression,
    CarbonFootprint,
    EdgePareto,
    EfficiencyPareto,
    StageMetrics,
    TrainingDynamics,
)
from embervlm.monitoring.data.stage1 import (
    EmbeddingEvolution,
    FeatureMaps,
    LossLandscape,
    RetrievalAccuracy,
    SimilarityEvolution,
)
from embervlm.monitoring.data.stage2 import (
    INSTRUCTION_TYPES,
    DistillationGap,
    InstructionComplexity,
    PerplexityByPosition,
    ResponseLengths,
    TokenProbability,
)
from embervlm.monitoring.data.stage3 import (
    PART_KINDS,
    TASK_TYPES,
    Calibration,
    ConfusionEvolution,
    LayerAccuracy,
    LayerBudget,
    ReasoningQuality,
    RobotPerformance,
    RobotRadar,
    TaskRobot,
    TrainingCurves,
)
from embervlm.monitoring.data.stage4 import (
    FLOW,
    REASONING_STEPS,
    AttentionFlow,
    AttentionMaps,
    ChainAgainstDirect,
    PhaseComparison,
    ReasoningConsistency,
    ReasoningDashboard,
    StepImportance,
)
from embervlm.monitoring.data.store import FigureStore

__all__ = [
    "FLOW",
    "INSTRUCTION_TYPES",
    "PART_KINDS",
    "REASONING_STEPS",
    "TASK_TYPES",
    "Ablation",
    "AttentionFlow",
    "AttentionMaps",
    "BenchmarkProgression",
    "Calibration",
    "CarbonFootprint",
    "ChainAgainstDirect",
    "ConfusionEvolution",
    "DistillationGap",
    "EdgePareto",
    "EfficiencyPareto",
    "EmbeddingEvolution",
    "FeatureMaps",
    "FigureData",
    "FigureDataError",
    "FigureStore",
    "InstructionComplexity",
    "LayerAccuracy",
    "LayerBudget",
    "LossLandscape",
    "PerplexityByPosition",
    "PhaseComparison",
    "ReasoningConsistency",
    "ReasoningDashboard",
    "ReasoningQuality",
    "ResponseLengths",
    "RetrievalAccuracy",
    "RobotPerformance",
    "RobotRadar",
    "SimilarityEvolution",
    "StageMetrics",
    "StepImportance",
    "TaskRobot",
    "TokenProbability",
    "TrainingCurves",
    "TrainingDynamics",
]
