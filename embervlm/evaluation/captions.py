"""Text against reference text: BLEU-4, CIDEr-D, exact answers.

Every figure uses one tokenizer, `words`: lower case, words and numbers; punctuation dropped (as the
COCO caption evaluation drops it). BLEU comes from sacrebleu with its own tokenizer switched off.
CIDEr-D is computed here: the published package needs Java for its tokenizer, and `aac-metrics`, which does
not, takes eight seconds to import; the tests hold values that `aac-metrics` gives for the same sentences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from embervlm.evaluation.metrics import MetricError

_WORD = re.compile(r"[a-z0-9]+(?:[.'][a-z0-9]+)*")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(i) for i, word in enumerate(_NUMBER_WORDS)}
Grams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, punctuation dropped."""
    return _WORD.findall(text.lower())


def normalise_answer(text: str) -> str:
    """Words of an answer without articles, number words as digits (the rules of the VQA evaluation)."""
    return " ".join(_NUMBERS.get(w, w) for w in words(text) if w not in _ARTICLES)


def answer_hits(answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n,) true where the normalised answer equals the normalised reference."""
    if len(answers) != len(references):
        raise MetricError(f"answer accuracy: {len(answers)} answers against {len(references)} references")
    return np.array(
        [normalise_answer(a) == normalise_answer(r) for a, r in zip(answers, references, strict=True)], dtype=bool
    )


def vqa_score(answer: str, given: Sequence[str]) -> float:
    """The VQA accuracy of one answer, 0 to 1: full where three of the (ten) people gave it (Antol et al., 2015).

    Averaged, as the official script does, over leaving out each person in turn.
    """
    same = np.array([normalise_answer(one) == normalise_answer(answer) for one in given], dtype=float)
    return float(np.minimum(1.0, (same.sum() - same) / 3).mean()) if len(same) else 0.0


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]], name: str) -> None:
    if len(candidates) != len(references):
        raise MetricError(f"{name}: {len(candidates)} candidates against {len(references)} sets of references")
    for i, refs in enumerate(references):
        if isinstance(refs, str) or not refs:
            raise MetricError(f"{name}: references[{i}] must be a list of at least one text")


def bleu4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 in 0 to 1 (Papineni et al., 2002) over `words`, without smoothing, as for COCO captions."""
    _check(candidates, references, "BLEU-4")
    if not candidates:
        raise MetricError("BLEU-4: no candidates")
    from sacrebleu.metrics import BLEU

    most = max(len(refs) for refs in references)
    streams = [[" ".join(words(refs[k])) if k < len(refs) else None for refs in references] for k in range(most)]
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    return float(metric.corpus_score([" ".join(words(c)) for c in candidates], streams).score) / 100  # type: ignore[arg-type]


def _grams(text: str, n: int) -> Grams:
    tokens = words(text)
    return Counter(tuple(tokens[i : i + k]) for k in range(1, n + 1) for i in range(len(tokens) - k + 1))


class _Weighted:
    """TF-IDF weights of one text's n-grams, their norm per n, and the length that the penalty compares."""

    def __init__(self, grams: Grams, document_frequency: Grams, log_documents: float, n: int) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(n)]
        for gram, count in grams.items():
            idf = log_documents - float(np.log(max(1, document_frequency[gram])))
            self.weights[len(gram) - 1][gram] = count * idf
        self.norms = [float(np.sqrt(sum(v * v for v in w.values()))) for w in self.weights]
        # The reference code counts bigrams here; kept, so that figures compare with published ones.
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)


def _similarity(candidate: _Weighted, reference: _Weighted, sigma: float) -> float:
    total = 0.0
    for ours, theirs, our_norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        dot = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in ours.items() if gram in theirs)
        total += dot / (our_norm * their_norm) if our_norm and their_norm else 0.0
    penalty = float(np.exp(-((candidate.length - reference.length) ** 2) / (2 * sigma**2)))
    return total / len(candidate.weights) * penalty


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]], n: int = 4, sigma: float = 6.0) -> float:
    """CIDEr-D (Vedantam et al., 2015), 0 to 10, document frequencies from the references themselves.

    Published figures are usually this number, in which a caption equal to its only reference scores up to 10
    (and less where it has fewer than four words).

    Raises:
        MetricError: fewer than two candidates (document frequencies would be meaningless), or shapes that differ.
    """
    _check(candidates, references, "CIDEr-D")
    if len(candidates) < 2:
        raise MetricError("CIDEr-D: at least two candidates are needed")
    cooked = [[_grams(text, n) for text in refs] for refs in references]
    frequency: Grams = Counter()
    for refs in cooked:
        frequency.update({gram for ref in refs for gram in ref})
    log_documents = float(np.log(len(cooked)))
    scores = []
    for candidate, refs in zip(candidates, cooked, strict=True):
        ours = _Weighted(_grams(candidate, n), frequency, log_documents, n)
        scores.append(np.mean([_similarity(ours, _Weighted(ref, frequency, log_documents, n), sigma) for ref in refs]))
    return float(10 * np.mean(scores))
