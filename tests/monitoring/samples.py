"""Made-up figure data with known answers, for tests and for looking at the figures. Never a result of anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embervlm.monitoring import data as d

ROBOTS = ("Drone", "Underwater Robot", "Humanoid", "Robot with Wheels", "Robot with Legs")
STEPS = np.array([100, 200, 300, 400, 500])
NOTE = "made up for a test"


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def similarity() -> d.SimilarityEvolution:
    grid = np.linspace(0, 1, 49)
    values = np.outer(np.linspace(0.05, 0.6, len(STEPS)), 0.6 + 0.4 * np.sin(6 * grid))
    return d.SimilarityEvolution(steps=STEPS, similarity=values, source=NOTE)


def embeddings() -> d.EmbeddingEvolution:
    random = rng()
    base = random.normal(size=(40, 16))
    apart = np.linspace(4, 0.2, 4)
    image = np.stack([base + a * np.eye(16)[0] + random.normal(scale=0.2, size=base.shape) for a in apart])
    text = np.stack([base - a * np.eye(16)[0] + random.normal(scale=0.2, size=base.shape) for a in apart])
    return d.EmbeddingEvolution(steps=STEPS[:4], image=image, text=text, source=NOTE)


def retrieval() -> d.RetrievalAccuracy:
    return d.RetrievalAccuracy(
        datasets=("EmberWorld", "COCO", "VQA"),
        ranks=[1, 5, 10],
        image_to_text=[[0.87, 0.95, 0.99], [0.2, 0.5, 0.7], [0.1, 0.3, np.nan]],
        text_to_image=[[0.85, 0.93, 0.98], [0.25, 0.55, 0.75], [0.15, 0.35, np.nan]],
        pool=[64, 64, 8],
        queries=[512, 256, 64],
        step=250,
        source=NOTE,
    )


def feature_maps() -> d.FeatureMaps:
    random = rng()
    images = [random.integers(0, 255, (48, 48, 3)) for _ in range(3)]
    maps = [random.random((3, side, side)) * (i + 1) for i, side in enumerate((12, 6, 3))]
    return d.FeatureMaps(images=images, layers=("stage 1", "stage 2", "stage 3"), maps=maps, step=250, source=NOTE)


def landscape() -> d.LossLandscape:
    positive, negative = np.linspace(0.9, 0.3, 25), np.linspace(0.92, 1.0, 25)
    scale = np.linspace(14, 16, 25)
    gap = np.exp(scale * (positive - negative))
    return d.LossLandscape(
        steps=np.arange(1, 26) * 10,
        positive=positive,
        negative=negative,
        loss=np.log1p(63 * gap),
        scale=scale,
        batch=64,
        source=NOTE,
    )


def instructions() -> d.InstructionComplexity:
    # describe 3/4 with and 1/4 without, explain 2/4 and 2/4, analyze 1/4 and 0/4, compare 4/4 and 1/4.
    with_vision = [1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]
    without = [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    return d.InstructionComplexity(
        categories=d.INSTRUCTION_TYPES,
        category=np.repeat(np.arange(4), 4),
        with_vision=with_vision,
        without_vision=without,
        metric="share answered exactly",
        step=189,
        source=NOTE,
    )


def token_probability() -> d.TokenProbability:
    random = rng()
    shape = 0.35 + 0.6 * np.abs(np.sin(np.arange(20) / 4))
    truth = np.clip(shape + random.normal(scale=0.08, size=(30, 20)), 0.01, 1)
    generated = np.clip(truth + 0.05, 0, 1)
    for row in range(30):
        truth[row, 8 + row % 13 :] = np.nan
        generated[row, 6 + row % 15 :] = np.nan
    return d.TokenProbability(truth=truth, generated=generated, step=189, source=NOTE)


def distillation() -> d.DistillationGap:
    steps = np.arange(1, 19) * 10
    return d.DistillationGap(
        steps=steps,
        divergence=2.0 * np.exp(-steps / 60) + 0.3,
        evaluations=[63, 126, 189],
        accuracy=[0.41, 0.55, 0.63],
        teacher="a teacher",
        source=NOTE,
    )


def lengths() -> d.ResponseLengths:
    random = rng()
    task = np.repeat(np.arange(3), 60)
    middle = np.array([12, 3, 30])[task]
    return d.ResponseLengths(
        tasks=("captioning", "VQA", "complex reasoning"),
        task=task,
        generated=random.poisson(middle),
        target=random.poisson(middle + 2),
        step=189,
        source=NOTE,
    )


def perplexity() -> d.PerplexityByPosition:
    values = 1 + np.outer(np.linspace(60, 4, len(STEPS)), np.linspace(1, 0.2, 16))
    values[:, 15] = np.nan
    return d.PerplexityByPosition(steps=STEPS, perplexity=values, source=NOTE)


def layer_accuracy() -> d.LayerAccuracy:
    up, deep = np.linspace(0, 1, len(STEPS)), np.linspace(0, 1, 7)
    values = 0.2 + 0.6 * np.einsum("s,n,l->snl", up, np.linspace(1, 0.6, 5), deep)
    return d.LayerAccuracy(
        steps=STEPS, robots=ROBOTS, layers=np.arange(7), accuracy=values, method="linear probe", source=NOTE
    )


def performance() -> d.RobotPerformance:
    total = np.tile([50, 40, 30, 60, 45], (len(STEPS), 1))
    share = np.linspace(0.3, 0.85, len(STEPS))[:, None] * np.array([1, 1.05, 0.8, 0.95, 0.9])
    return d.RobotPerformance(
        steps=STEPS, robots=ROBOTS, correct=np.floor(total * share), total=total, metric="first choice", source=NOTE
    )


def budget() -> d.LayerBudget:
    random = rng()
    parts = [f"layer {i}" for i in range(4)] * 2 + ["fusion 1", "fusion 2"]
    kinds = ["attention"] * 4 + ["ffn"] * 4 + ["adapter"] * 2
    middle = np.array([4, 3, 2, 1, 1, 2, 3, 4, 6, 2.0])
    return d.LayerBudget(
        parts=parts,
        kinds=kinds,
        importance=middle * random.uniform(0.8, 1.2, (12, 10)),
        method="Fisher information",
        step=785,
        source=NOTE,
    )


def confusion() -> d.ConfusionEvolution:
    counts = np.zeros((len(STEPS), 5, 5), int)
    for s in range(len(STEPS)):
        for row in range(5):
            right = 4 + 4 * s + row
            counts[s, row] = [1 + (row + col + s) % 3 for col in range(5)]
            counts[s, row, row] = right
    return d.ConfusionEvolution(
        steps=STEPS, robots=ROBOTS, counts=counts, truth="the labelled robot with the highest score", source=NOTE
    )


def calibration() -> d.Calibration:
    random = rng()
    confidence = random.uniform(0.2, 1, 400)
    return d.Calibration(confidence=confidence, correct=random.random(400) < confidence**1.3, step=785, source=NOTE)


def radar() -> d.RobotRadar:
    return d.RobotRadar(
        robots=ROBOTS,
        precision=[0.9, 0.95, 0.7, 0.85, np.nan],
        recall=[0.88, 0.92, 0.6, 0.8, 0.75],
        f1=[0.89, 0.93, 0.65, 0.82, 0.78],
        confidence=[0.9, 0.91, 0.66, 0.8, 0.77],
        support=[73, 55, 20, 80, 64],
        step=785,
        source=NOTE,
    )


def task_robot() -> d.TaskRobot:
    total = np.array([[10, 10, 10, 10, 10]] * 5)
    correct = np.array([[(3 * r + 2 * c) % 11 for c in range(5)] for r in range(5)])
    total[1, 4] = correct[1, 4] = 0
    return d.TaskRobot(robots=ROBOTS, tasks=d.TASK_TYPES, correct=correct, total=total, step=785, source=NOTE)


def reasoning_quality() -> d.ReasoningQuality:
    random = rng()
    coherence = random.beta(5, 2, 200)
    return d.ReasoningQuality(
        step_counts=random.choice([2, 3, 4], 200, p=[0.1, 0.2, 0.7]),
        coherence=coherence,
        correct=random.random(200) < coherence,
        keywords=("category", "terrain", "weather", "site"),
        keyword_correct=[190, 120, 150, 80],
        keyword_total=[200, 180, 200, 160],
        step=785,
        source=NOTE,
    )


def curves() -> d.TrainingCurves:
    random = rng()
    steps = np.arange(1, 501)
    loss = 2 * np.exp(-steps / 150) + 0.4 + random.normal(scale=0.08, size=500)
    return d.TrainingCurves(
        steps=steps,
        losses=("loss", "team_loss"),
        values=np.stack([loss, 0.4 * loss], 1),
        evaluations=STEPS,
        metrics=("first_choice", "team_exact"),
        scores=np.stack([np.linspace(0.5, 0.88, 5), np.linspace(0.2, 0.55, 5)], 1),
        source=NOTE,
    )


def phases() -> d.PhaseComparison:
    values = np.array([[0.78, 0.62, 0.11, 41.0], [0.86, 0.81, 0.06, 43.0]])
    return d.PhaseComparison(
        metrics=("Robot Accuracy", "Reasoning Coherence", "ECE", "Latency"),
        units=("", "", "", "ms"),
        better=("higher", "higher", "lower", "lower"),
        values=values,
        low=values * 0.95,
        high=values * 1.05,
        source=NOTE,
    )


def importance() -> d.StepImportance:
    up = np.linspace(0.02, 0.3, len(STEPS))
    return d.StepImportance(
        steps=STEPS,
        reasoning=d.REASONING_STEPS,
        importance=np.outer(up, [0.2, 0.5, 0.7, 1.0]),
        method="share of changed selections without the step",
        source=NOTE,
    )


def chain() -> d.ChainAgainstDirect:
    # Drone: 3/4 direct, 4/4 chain; the others 2/4 and 2/4, 1/4 and 3/4, 4/4 and 3/4, 0/4 and 1/4.
    direct = [1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    chained = [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0]
    return d.ChainAgainstDirect(
        robots=ROBOTS, robot=np.repeat(np.arange(5), 4), direct=direct, chain=chained, step=282, source=NOTE
    )


def flow() -> d.AttentionFlow:
    visual = [f"row {i + 1}" for i in range(4)]
    nodes = (*visual, "fused image", *d.REASONING_STEPS, *ROBOTS)
    column = [0] * 4 + [1] + [2] * 4 + [3] * 5
    links = [(i, 4, 1.0 + i) for i in range(4)] + [(4, 5 + q, 2.5) for q in range(4)]
    links += [(5 + q, 9 + r, 0.3 + 0.1 * q + 0.1 * r) for q in range(4) for r in range(5)]
    links += [(4, 9 + r, 0.4) for r in range(5)]
    start, end, strength = zip(*links, strict=True)
    return d.AttentionFlow(
        nodes=nodes,
        column=column,
        start=start,
        end=end,
        strength=strength,
        method="attention rollout",
        step=282,
        source=NOTE,
    )


def consistency() -> d.ReasoningConsistency:
    score = np.array([[0.9, 0.7], [0.8, 0.65], [0.85, 0.6], [0.75, 0.5], [0.95, np.nan]])
    count = np.array([[30, 12], [22, 18], [25, 9], [28, 14], [40, 0]])
    return d.ReasoningConsistency(
        tasks=d.TASK_TYPES,
        score=score,
        count=count,
        boundary="before or after the chain's middle",
        step=282,
        source=NOTE,
    )


def dashboard() -> d.ReasoningDashboard:
    random = rng()
    steps = random.choice([1, 2, 3, 4], 150, p=[0.05, 0.1, 0.25, 0.6])
    coherence = np.clip(0.15 * steps + 0.25 + random.normal(scale=0.08, size=150), 0, 1)
    return d.ReasoningDashboard(
        coherence=coherence, consistency=random.beta(6, 2, 150), step_counts=steps, step=282, source=NOTE
    )


def attention_maps() -> d.AttentionMaps:
    random = rng()
    picture = np.kron(random.integers(60, 200, (4, 4, 3)), np.ones((28, 28, 1), int))
    return d.AttentionMaps(
        images=(picture,),
        queries=(*d.REASONING_STEPS, *ROBOTS),
        attention=tuple(random.random((9, 7, 7)) ** 4),
        task="inspect the pier below the waterline",
        step=282,
        source=NOTE,
    )


def dynamics() -> d.TrainingDynamics:
    random = rng()
    steps = [np.arange(1, n + 1) for n in (250, 189, 785, 282)]
    loss = [2 * np.exp(-s / (len(s) / 3)) + 0.5 + random.normal(scale=0.08, size=len(s)) for s in steps]
    evaluations = [s[len(s) // 5 - 1 :: len(s) // 5] for s in steps]
    return d.TrainingDynamics(
        stages=[1, 2, 3, 4],
        titles=("alignment", "instruction", "robot selection", "reasoning"),
        steps=steps,
        loss=loss,
        evaluations=evaluations,
        accuracy=[np.linspace(0.3, 0.8, len(e)) for e in evaluations],
        samples=[512, 512, 256, 128],
        metrics=("retrieval", "answers", "first choice", "first choice"),
        transitions=([-1], [-1], [-1], [94]),
        source=NOTE,
    )


def efficiency() -> d.EfficiencyPareto:
    return d.EfficiencyPareto(
        models=("EmberVLM-nano", "EmberVLM-37M", "SmolVLM-256M", "MobileVLM-1.7B", "LLaVA-OneVision-0.5B"),
        parameters=[5.1e6, 37.2e6, 256e6, 1.7e9, 0.9e9],
        accuracy=[42, 55, 44, 53.2, 52.1],
        memory_mb=[40, 150, 800, np.nan, np.nan],
        deployability=[1.0, 0.8, 0.4, np.nan, 0.1],
        ours=[True, True, False, False, False],
        origins=("this run", "this run", "paper A", "paper B", "card C"),
        benchmark="MMBench",
        source=NOTE,
    )


def benchmarks() -> d.BenchmarkProgression:
    return d.BenchmarkProgression(
        benchmarks=("MME", "MMBench", "TextVQA", "ScienceQA"),
        stages=[1, 2, 3, 4],
        scores=[[1200, 1350, 1420, 1480], [58.3, 62.1, 65.8, 68.2], [20, 31, 33, np.nan], [40, 48, 52, 57]],
        lowest=[0, 0, 0, 0],
        highest=[2800, 100, 100, 100],
        source=NOTE,
    )


def carbon() -> d.CarbonFootprint:
    return d.CarbonFootprint(
        stages=[1, 2, 3, 4],
        gain=[30, 12, 25, np.nan],
        parts=["training", "evaluation"] * 4,
        stage=np.repeat(np.arange(4), 2),
        grams=[12, 2, 8, 1, 20, 3, 9, 2],
        kwh=np.array([12, 2, 8, 1, 20, 3, 9, 2]) / 380,
        accounting="codecarbon, offline, DEU",
        source=NOTE,
    )


def ablation() -> d.Ablation:
    return d.Ablation(
        components=("Pretrained LLM", "Fusion Adapter", "QK Norm", "Reasoning Module", "RepViT"),
        scores=[[0.80, 0.82], [0.60, 0.62], [0.85, 0.87], [0.88, 0.86], [0.45, np.nan]],
        baseline=[0.86, 0.84],
        metric="first choice",
        replaced=("random weights", "one linear layer", "", "", "a plain CNN"),
        source=NOTE,
    )


def edge() -> d.EdgePareto:
    return d.EdgePareto(
        models=("EmberVLM fp32", "EmberVLM int8", "peer A", "peer B"),
        latency_ms=[33, 14, 120, 20],
        accuracy=[55, 54, 58, 40],
        memory_mb=[150, 45, 800, np.nan],
        power_w=[8, 5, 12, np.nan],
        ours=[True, True, False, False],
        origins=("this machine", "this machine", "paper A", "paper B"),
        benchmark="first choice",
        device="2 cores",
        source=NOTE,
    )


def stage_metrics() -> d.StageMetrics:
    return d.StageMetrics(
        stage=[1, 2, 3, 3, 4],
        metrics=("retrieval", "answers", "accuracy", "ece", "accuracy"),
        values=[0.87, 0.49, 0.86, 0.05, 0.83],
        split="test",
        source=NOTE,
    )


#: One sample per class.
SAMPLES: dict[type[d.FigureData], Callable[[], d.FigureData]] = {
    d.SimilarityEvolution: similarity,
    d.EmbeddingEvolution: embeddings,
    d.RetrievalAccuracy: retrieval,
    d.FeatureMaps: feature_maps,
    d.LossLandscape: landscape,
    d.InstructionComplexity: instructions,
    d.TokenProbability: token_probability,
    d.DistillationGap: distillation,
    d.ResponseLengths: lengths,
    d.PerplexityByPosition: perplexity,
    d.LayerAccuracy: layer_accuracy,
    d.RobotPerformance: performance,
    d.LayerBudget: budget,
    d.ConfusionEvolution: confusion,
    d.Calibration: calibration,
    d.RobotRadar: radar,
    d.TaskRobot: task_robot,
    d.ReasoningQuality: reasoning_quality,
    d.TrainingCurves: curves,
    d.PhaseComparison: phases,
    d.StepImportance: importance,
    d.ChainAgainstDirect: chain,
    d.AttentionFlow: flow,
    d.ReasoningConsistency: consistency,
    d.ReasoningDashboard: dashboard,
    d.AttentionMaps: attention_maps,
    d.TrainingDynamics: dynamics,
    d.EfficiencyPareto: efficiency,
    d.BenchmarkProgression: benchmarks,
    d.CarbonFootprint: carbon,
    d.Ablation: ablation,
    d.EdgePareto: edge,
    d.StageMetrics: stage_metrics,
}
