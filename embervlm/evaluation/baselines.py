"""What a model must beat: always the same robots, and the words alone.

Both read training records and answer test records; neither sees a picture. They are the floor of
every table: a model that does not beat the word counts has learned nothing from the scene.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.data.schema import Record
from embervlm.evaluation import metrics as m

#: Learns from the first records and answers the second.
Learner = Callable[[Sequence[Record], Sequence[Record]], "Answers"]

#: Interactions of task words and robot words are hashed into this many columns.
_CROSS_COLUMNS = 2**18


@dataclass(frozen=True)
class Answers:
    """What somebody answered, one entry per record and, within it, one per robot in fleet order.

    `scores` rank the robots where they are finer than the confidences (which may round to the same number).
    """

    confidence: list[NDArray[np.float64]]
    sent: list[NDArray[np.bool_]]
    scores: list[NDArray[np.float64]] | None = None

    @property
    def ranking(self) -> list[NDArray[np.float64]]:
        """What decides the first choice."""
        return self.confidence if self.scores is None else self.scores

    def part(self, chosen: Sequence[int]) -> Answers:
        """The answers to some of the records."""
        scores = None if self.scores is None else [self.scores[i] for i in chosen]
        return Answers([self.confidence[i] for i in chosen], [self.sent[i] for i in chosen], scores)


def labels_of(record: Record) -> NDArray[np.bool_]:
    """(N,) which robots of the record's fleet can do its task, in fleet order."""
    names = set(record.labels)
    return np.array([robot["name"] in names for robot in record.robots], dtype=bool)


def names_of(record: Record) -> list[str]:
    """The names of the record's fleet in order."""
    return [str(robot["name"]) for robot in record.robots]


def robot_text(robot: dict[str, Any]) -> str:
    """A robot's description as plain words."""
    return ". ".join([str(robot["name"]), *(", ".join(robot.get(key) or ()) for key in _DESCRIPTION)])


_DESCRIPTION = ("capabilities", "limitations", "environments")


def team_of(confidence: NDArray[np.float64], threshold: float = 0.5) -> NDArray[np.bool_]:
    """(N,) the robots above the threshold, or the best one where none is."""
    sent = confidence > threshold
    if not sent.any():
        sent[int(confidence.argmax())] = True
    return sent


def same_fleet(records: Sequence[Record]) -> bool:
    """True where every record has the same robots by name (their order may differ)."""
    return len({tuple(sorted(names_of(r))) for r in records}) == 1


def majority(train: Sequence[Record], test: Sequence[Record]) -> Answers:
    """Every robot scored by how often a robot of its name could do the task in training.

    A name that training does not have gets the mean over all robots.
    """
    seen: Counter[str] = Counter()
    able: Counter[str] = Counter()
    for record in train:
        seen.update(names_of(record))
        able.update(set(record.labels))
    prior = sum(able.values()) / max(1, sum(seen.values()))
    confidence = [np.array([able[n] / seen[n] if seen[n] else prior for n in names_of(r)]) for r in test]
    return Answers(confidence, [team_of(p) for p in confidence])


class _FleetWords:
    """TF-IDF of the task text, one logistic regression per robot of the one fleet."""

    def __init__(self, train: Sequence[Record]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        # Unigrams, stop words out, weak regularisation: the best of 12 settings on the public robot-selection files,
        # chosen on the test folds, so that the choice can only favour the baseline.
        self.words = TfidfVectorizer(stop_words="english", sublinear_tf=True)
        try:
            features = self.words.fit_transform([r.instruction for r in train])
        except ValueError as error:
            raise m.MetricError(f"TF-IDF finds no words in the tasks that it is to learn from: {error}") from error
        self.models: dict[str, Any] = {}
        for name in sorted(names_of(train[0])):
            target = np.array([name in r.labels for r in train])
            # Where every answer is the same there is nothing to fit: the rate itself is the answer.
            if target.all() or not target.any():
                self.models[name] = float(target.mean())
            else:
                self.models[name] = LogisticRegression(C=100.0, max_iter=1000).fit(features, target)

    def confidence(self, records: Sequence[Record]) -> list[NDArray[np.float64]]:
        features = self.words.transform([r.instruction for r in records])
        columns = {
            name: np.full(len(records), model) if isinstance(model, float) else model.predict_proba(features)[:, 1]
            for name, model in self.models.items()
        }
        return [np.array([columns[name][i] for name in names_of(r)]) for i, r in enumerate(records)]


class _PairWords:
    """TF-IDF of task, of robot and of their word pairs; one logistic regression over (task, robot) pairs."""

    def __init__(self, train: Sequence[Record]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import SGDClassifier

        self.tasks = TfidfVectorizer(sublinear_tf=True, min_df=2)
        self.robots = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
        self.tasks.fit([r.instruction for r in train])
        self.robots.fit(sorted({robot_text(robot) for r in train for robot in r.robots}))
        target = np.concatenate([labels_of(r) for r in train])
        self.model = SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=12, tol=None, average=True, random_state=0)
        self.model.fit(self._features(train), target)

    def _features(self, records: Sequence[Record]) -> Any:
        """(pairs, columns) sparse: task words, robot words, and hashed products of both."""
        from scipy import sparse

        texts = sorted({robot_text(robot) for r in records for robot in r.robots})
        place = {text: i for i, text in enumerate(texts)}
        owner = np.repeat(np.arange(len(records)), [len(r.robots) for r in records])
        kind = np.array([place[robot_text(robot)] for r in records for robot in r.robots])
        task = self.tasks.transform([r.instruction for r in records]).tocsr()
        robot = self.robots.transform(texts).tocsr()
        data, columns, ends = [], [], [0]
        for t, k in zip(owner, kind, strict=True):
            a, b = slice(task.indptr[t], task.indptr[t + 1]), slice(robot.indptr[k], robot.indptr[k + 1])
            products = np.outer(task.data[a], robot.data[b]).ravel()
            mixed = np.add.outer(task.indices[a].astype(np.int64) * 1_000_003, robot.indices[b].astype(np.int64))
            data.append(products)
            columns.append(mixed.ravel() % _CROSS_COLUMNS)
            ends.append(ends[-1] + products.size)
        cross = sparse.csr_matrix(
            (np.concatenate(data), np.concatenate(columns), np.array(ends)), shape=(len(owner), _CROSS_COLUMNS)
        )
        return sparse.hstack([task[owner], robot[kind], cross * 2.0], format="csr")

    def confidence(self, records: Sequence[Record]) -> list[NDArray[np.float64]]:
        flat = self.model.predict_proba(self._features(records))[:, 1]
        return np.split(flat, np.cumsum([len(r.robots) for r in records])[:-1])


def tfidf(train: Sequence[Record], test: Sequence[Record], most: int = 3000) -> Answers:
    """Words only: TF-IDF and logistic regression.

    Where all records have one fleet: the task's words and bigrams, one regression per robot. Where
    fleets differ: the words of task and robot and their products over (task, robot) pairs, trained on at most
    `most` records (an evenly spaced choice, so that the baseline costs seconds).

    Raises:
        MetricError: no training records.
    """
    if not train:
        raise m.MetricError("TF-IDF baseline: no training records")
    if same_fleet([*train, *test]):
        model: _FleetWords | _PairWords = _FleetWords(train)
    else:
        step = max(1, -(-len(train) // most))
        model = _PairWords(train[::step])
    confidence = model.confidence(test)
    return Answers(confidence, [team_of(p) for p in confidence])


def answer_figures(answers: Answers, records: Sequence[Record]) -> dict[str, float]:
    """First choice, team IoU and exact teams of anybody's answers."""
    can = [labels_of(r) for r in records]
    return {
        "first_choice": m.first_choice(answers.ranking, can),
        "team_iou": m.team_iou(answers.sent, can),
        "team_exact": m.team_exact(answers.sent, can),
    }


def folds_by_task(records: Sequence[Record], folds: int = 5, seed: int = 0) -> list[list[int]]:
    """Test indices of every fold; records that share a task text are always in the same fold.

    A pure function of the texts and the seed: any model evaluated on these folds stands beside the
    baseline. Upper and lower case and runs of blanks do not make a text another one.

    Raises:
        MetricError: fewer distinct task texts than folds.
    """
    texts = [" ".join(r.instruction.lower().split()) for r in records]
    order = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())
    if len(order) < folds:
        raise m.MetricError(f"cross-validation: {len(order)} distinct task texts do not make {folds} folds")
    fold = {text: i % folds for i, text in enumerate(order)}
    return [[i for i, text in enumerate(texts) if fold[text] == k] for k in range(folds)]


def fold_answers(records: Sequence[Record], answer: Learner, folds: int = 5, seed: int = 0) -> Answers:
    """A learner's answers to all records, each given by what did not see its task.

    Raises:
        MetricError: fewer distinct task texts than folds.
    """
    confidence: list[Any] = [None] * len(records)
    sent: list[Any] = [None] * len(records)
    for chosen in folds_by_task(records, folds, seed):
        held = set(chosen)
        train = [r for i, r in enumerate(records) if i not in held]
        answers = answer(train, [records[i] for i in chosen])
        for place, i in enumerate(chosen):
            confidence[i], sent[i] = answers.confidence[place], answers.sent[place]
    return Answers(confidence, sent)


def evaluate_folds(records: Sequence[Record], folds: int = 5, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> dict[str, Any]:
    """TF-IDF + logistic regression and the majority on robot-selection records, cross-validated by task text.

    Returns:
        `{"tfidf": {figure: mean}, "tfidf_std": {figure: deviation over seeds}, "majority": …, "tasks": n, "folds": k}`;
        a figure of one seed is over all records, each answered by the model that did not see its task.
    """
    found: dict[str, list[dict[str, float]]] = {"tfidf": [], "majority": []}
    learners: dict[str, Learner] = {"tfidf": tfidf, "majority": majority}
    for seed in seeds:
        for name, answer in learners.items():
            found[name].append(answer_figures(fold_answers(records, answer, folds, seed), records))
    result: dict[str, Any] = {"folds": folds, "seeds": len(seeds), "records": len(records)}
    result["tasks"] = len({" ".join(r.instruction.lower().split()) for r in records})
    for name, rows in found.items():
        result[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        result[f"{name}_std"] = {key: float(np.std([row[key] for row in rows])) for key in rows[0]}
    return result
