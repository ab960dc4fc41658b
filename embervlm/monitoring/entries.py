"""The thirty figures: data, method, tracker key, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass

from embervlm.monitoring import data as d
from embervlm.monitoring.data import FigureData


@dataclass(frozen=True)
class Entry:
    """One figure.

    Attributes:
        kind: the class of its data, which also names its stage and files.
        method: of the stage's visualizer.
        key: under which a tracker keeps it.
        title: in words.
        reading: one sentence on how to read it.
        animated: there is a GIF, too.
    """

    kind: type[FigureData]
    method: str
    key: str
    title: str
    reading: str
    animated: bool = False


#: Tracker group of each stage.
GROUPS = {
    "stage1": "stage1_align",
    "stage2": "stage2_instruction",
    "stage3": "stage3_robot_selection",
    "stage4": "stage4_cot_reasoning",
    "cross": "cross_stage_analysis",
}

GALLERY: tuple[Entry, ...] = (
    # ------------------------------------------------------------ stage 1
    Entry(
        d.SimilarityEvolution,
        "plot_similarity_evolution",
        "stage1/similarity_3d",
        "Image–text similarity evolution",
        "Height is the cosine between each of the visual tokens and the text; it should rise towards later steps, most "
        "where the picture shows what the text is about.",
    ),
    Entry(
        d.EmbeddingEvolution,
        "plot_embedding_evolution",
        "stage1/embedding_tsne",
        "Embedding space evolution",
        "Each grey line joins an image to its own text; alignment is seen where circles and triangles mix and "
        "the lines "
        "get short. Distances between far groups mean nothing.",
        animated=True,
    ),
    Entry(
        d.RetrievalAccuracy,
        "plot_retrieval_accuracy",
        "stage1/retrieval_heatmap",
        "Cross-modal retrieval accuracy",
        "A cell is the share of queries whose partner is among the first k; the row says how many candidates "
        "there were.",
    ),
    Entry(
        d.FeatureMaps,
        "plot_feature_maps",
        "stage1/vision_feature_maps",
        "Vision encoder feature maps",
        "Strong colour is where a layer answers strongly; in the last column what the last layer looks past is dark.",
    ),
    Entry(
        d.LossLandscape,
        "plot_loss_landscape",
        "stage1/loss_landscape",
        "Contrastive loss landscape",
        "Training walks from the square to the star over the measured points; the surface says what the loss "
        "would be if "
        "all negatives were equally far.",
    ),
    # ------------------------------------------------------------ stage 2
    Entry(
        d.InstructionComplexity,
        "plot_instruction_complexity",
        "stage2/instruction_complexity",
        "Instruction complexity and performance",
        "The gap between the two bars of a type is what the picture contributes; intervals that overlap say the "
        "gap may "
        "be chance.",
    ),
    Entry(
        d.TokenProbability,
        "plot_token_probability",
        "stage2/token_probability",
        "Token probability over the sequence",
        "High lines are sure tokens; hatched stretches are where the model is unsure of the truth. Below: how "
        "many answers "
        "are that long.",
    ),
    Entry(
        d.DistillationGap,
        "plot_distillation_gap",
        "stage2/distillation_gap",
        "Teacher–student distillation gap",
        "The solid line should fall and the dashed one rise: knowledge passes from the teacher to the student.",
    ),
    Entry(
        d.ResponseLengths,
        "plot_response_lengths",
        "stage2/response_length",
        "Response length by task",
        "Left halves are what the model writes, right halves the references; they should have the same shape.",
    ),
    Entry(
        d.PerplexityByPosition,
        "plot_perplexity",
        "stage2/perplexity_heatmap",
        "Perplexity by position",
        "Pale is sure; a column that stays dark is a position that training does not solve.",
    ),
    # ------------------------------------------------------------ stage 3
    Entry(
        d.LayerAccuracy,
        "plot_layer_accuracy",
        "stage3/layer_accuracy_3d",
        "Layer-wise robot selection accuracy",
        "Along the layer axis one sees where in the model the choice is made, along the step axis when it was learned.",
    ),
    Entry(
        d.RobotPerformance,
        "plot_robot_performance",
        "stage3/robot_performance",
        "Per-robot performance",
        "A line per robot over checkpoints; the shade is how far the true share may be from the measured one.",
    ),
    Entry(
        d.LayerBudget,
        "plot_layer_budget",
        "stage3/layer_budget",
        "Layer budget and rank distribution",
        "Higher bars matter more; #1 is the most important of all parts, in brackets where its rank lies in most "
        "batches.",
    ),
    Entry(
        d.ConfusionEvolution,
        "plot_confusion_evolution",
        "stage3/confusion_matrix",
        "Robot confusion over training",
        "Rows are who should go, columns who was sent; right choices lie on the diagonal, which should darken.",
        animated=True,
    ),
    Entry(
        d.Calibration,
        "plot_calibration",
        "stage3/confidence_calibration",
        "Confidence calibration",
        "Bars on the dashed diagonal mean that a confidence of 80% is right 80% of the time; hatching is the gap.",
    ),
    Entry(
        d.RobotRadar,
        "plot_robot_radar",
        "stage3/robot_radar",
        "Per-robot radar chart",
        "The further out on a spoke the better; support shows how many tasks a robot's figures rest on.",
    ),
    Entry(
        d.TaskRobot,
        "plot_task_robot",
        "stage3/task_robot_heatmap",
        "Task type and robot",
        "Dark cells are combinations of task and robot that go wrong; hatched ones did not occur.",
    ),
    Entry(
        d.ReasoningQuality,
        "plot_reasoning_quality",
        "stage3/reasoning_quality",
        "Chain-of-thought reasoning quality",
        "Left: how many steps; middle: whether coherent chains go with right choices; right: which facts they "
        "take over.",
    ),
    # ------------------------------------------------------------ stage 4
    Entry(
        d.PhaseComparison,
        "plot_phase_bars",
        "stage4/phase_comparison",
        "Phase 1 and phase 2",
        "Pairs of bars: what the joint fine-tuning changed; for ECE and latency lower is better.",
    ),
    Entry(
        d.StepImportance,
        "plot_step_importance",
        "stage4/step_importance_3d",
        "Reasoning step importance",
        "Height is how much the selection depends on a reasoning step; near zero the step is decoration.",
    ),
    Entry(
        d.ChainAgainstDirect,
        "plot_cot_vs_direct",
        "stage4/cot_vs_direct",
        "With and without chain of thought",
        "The difference stands over each pair; over all tasks with its interval, which should exclude zero to "
        "mean something.",
    ),
    Entry(
        d.AttentionFlow,
        "plot_attention_flow",
        "stage4/attention_flow",
        "Attention flow",
        "Follow the ribbons from what is seen to what is selected; the wider, the more attention passes.",
    ),
    Entry(
        d.ReasoningConsistency,
        "plot_reasoning_consistency",
        "stage4/reasoning_consistency",
        "Reasoning consistency",
        "A cell says how often chain and selection agree, by where the chain first names the robot.",
    ),
    Entry(
        d.ReasoningDashboard,
        "plot_reasoning_dashboard",
        "stage4/reasoning_quality",
        "Reasoning quality dashboard",
        "Distributions far to the right are good; the trend says whether longer chains are more coherent.",
    ),
    # -------------------------------------------------------------- across
    Entry(
        d.TrainingDynamics,
        "plot_training_dynamics",
        "cross/training_dynamics",
        "Training dynamics across all stages",
        "Solid is the loss (left), dashed the validation metric (right); the shades are their uncertainty.",
    ),
    Entry(
        d.EfficiencyPareto,
        "plot_parameter_efficiency_pareto",
        "cross/parameter_efficiency",
        "Parameter efficiency",
        "Up and left is better; nobody is both smaller and better than a model on the dashed frontier.",
    ),
    Entry(
        d.BenchmarkProgression,
        "plot_benchmark_progression_heatmap",
        "cross/benchmark_heatmap",
        "Benchmark score progression",
        "From left to right each stage's score; the colour is its share of the benchmark's scale.",
    ),
    Entry(
        d.CarbonFootprint,
        "plot_carbon_footprint",
        "cross/carbon_footprint",
        "Carbon footprint",
        "Area is emission; colour is what a point of accuracy cost.",
    ),
    Entry(
        d.Ablation,
        "plot_ablation_tornado",
        "cross/ablation_tornado",
        "Ablation study",
        "Bars to the left are lost when the component is left out; ticks are single trainings.",
    ),
    Entry(
        d.EdgePareto,
        "plot_edge_deployment_pareto",
        "cross/edge_deployment",
        "Edge deployment",
        "Up and left is better: fast and right; area is memory, colour is power.",
    ),
)
