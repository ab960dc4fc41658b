"""Teachers: who answers a record, and how sure it was of each token.

An EmberVLM answers through its own processor; any other model folder of transformers through `AutoProcessor`: one that
reads pictures and text (`AutoModelForImageTextToText`) answers every record, one that reads text alone
(`AutoModelForCausalLM`) those without a picture. Folders only, safetensors only, no code of their own: nothing is
downloaded and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.train import folders
from ember_platform.train.plan import PlanError, teacher_kind
from ember_platform.train.setup import device_of, load_model

if TYPE_CHECKING:
    from embervlm.data.schema import Record

STAGE = 2
BATCH = 32
_ANSWER_TOKENS = 48

#: How a student is brought to its teacher: by its words, its distribution at equal tokens, or that distribution sorted.
WAYS = ("text", "kl", "transport")
Distribution = tuple[list[list[int]] | None, list[list[float]] | None]


@dataclass(frozen=True)
class Answer:
    """What a teacher says to a record: its own words, and the top k at each token of the data's answer.

    `ids` are of the student's vocabulary, None where the teacher's mean nothing there.
    """

    text: str
    ids: list[list[int]] | None = None
    logprobs: list[list[float]] | None = None


class Speaker(Protocol):
    """A teacher that is loaded."""

    def can_answer(self, record: Record) -> bool: ...
    def answer(self, records: Sequence[Record]) -> list[Answer]: ...


def way_of(config: RunConfig, teacher: str, student: str) -> str:
    """How this student learns from this teacher, one of `WAYS`.

    Raises:
        PlanError: it is asked for what their vocabularies, or the kind of model, do not allow.
    """
    asked = config.teacher.match
    if asked == "text":
        return asked
    kind, whole = teacher_kind(teacher)
    if asked == "transport":
        if not whole:
            raise PlanError(f"teacher.match: {teacher} has an encoder of its own for text, of which the words are read")
        return asked
    digest = tokenizer_digest if kind == "embervlm" else vocabulary_digest
    equal = whole and digest(teacher) == digest(student)
    if asked == "kl" and not equal:
        raise PlanError(
            f"teacher.match: kl compares token by token, and the vocabulary of {teacher} is not that of {student}; "
            "use text or transport"
        )
    return "kl" if equal else "text"


def tokenizer_digest(folder: str) -> str:
    """sha256 (hex) of a model folder's tokenizer: equal digests mean equal token ids."""
    with folders.fetched(folder) as local:
        file = local / "tokenizer.json"
        content = file.read_bytes() if file.is_file() else str(local).encode()
    return hashlib.sha256(content).hexdigest()


def vocabulary_digest(folder: str) -> str:
    """The same, of what turns plain words into ids: special tokens, which every model has others of, aside."""
    path = storage.join(folder, "tokenizer.json")
    if not storage.exists(path):
        return tokenizer_digest(folder)
    content = json.loads(storage.read_bytes(path))
    parts = [content.get(name) for name in ("normalizer", "pre_tokenizer", "model")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_speaker(config: RunConfig, way: str, student: str) -> Speaker:
    """The configuration's teacher.

    Args:
        config: names it.
        way: of `WAYS`.
        student: folder of the model to be taught.
    """
    teacher = str(config.teacher.model)
    kind, _ = teacher_kind(teacher)
    with folders.fetched(teacher) as local:
        if kind == "embervlm":
            return EmberSpeaker(local, config, way)
        with folders.fetched(student) as other:
            return HubSpeaker(local, config, way, kind == "image-text", other)


class EmberSpeaker:
    """An EmberVLM."""

    def __init__(self, folder: Path, config: RunConfig, way: str) -> None:
        import torch

        from embervlm.stages import get_stage

        self.config, self.way = config, way
        self.model, self.processor = load_model(folder)
        self.model.to(torch.device(device_of(config))).eval()
        self.model.processor = self.processor
        self.stage = get_stage(STAGE)

    def can_answer(self, record: Record) -> bool:
        """Every record."""
        return True

    def answer(self, records: Sequence[Record]) -> list[Answer]:
        """Greedy answers, and the distributions where the student can use them."""
        requests = [{"image": r.image, "prompt": r.instruction} for r in records]
        texts = self.model.generate_texts(requests, max_new_tokens=_ANSWER_TOKENS, batch_size=BATCH)
        spoken: Sequence[Distribution] = [(None, None)] * len(records)
        if self.way != "text":
            spoken = self.distribution(records)
        return [Answer(text, *pair) for text, pair in zip(texts, spoken, strict=True)]

    def distribution(self, records: Sequence[Record]) -> list[Distribution]:
        """Per record: ids and log-probabilities (temperature 1) of the top k at each of its answer's tokens."""
        import torch

        from embervlm.stages.base import to_device

        batch = to_device(self.stage.collate(self.processor, records, None), self.model.device)
        with torch.inference_mode():
            hidden = self.model(**batch).text_hidden
            target = batch["labels"][:, 1:] >= 0
            logits = self.model.language.logits(hidden[:, :-1][target]).float()
            values, ids = logits.log_softmax(-1).topk(min(self.config.teacher.top_k, logits.shape[-1]))
        counts = target.sum(1).tolist()
        parts = zip(ids.cpu().split(counts), values.cpu().split(counts), strict=True)
        return [(one.tolist() if self.way == "kl" else None, two.tolist()) for one, two in parts]


class HubSpeaker:
    """A model folder of transformers; `sees` says whether it reads pictures."""

    def __init__(self, folder: Path, config: RunConfig, way: str, sees: bool, student: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        from ember_platform.train.precision import resolve_precision
        from embervlm import EmberVLMProcessor

        self.config, self.way, self.sees = config, way, sees
        device = device_of(config)
        bf16 = device == "cuda" and resolve_precision("auto", device) == "bf16"
        given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        loader: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.model = loader.from_pretrained(folder, use_safetensors=True, dtype=dtype, **given)
        self.model.to(torch.device(device)).eval()
        self.processor: Any = (AutoProcessor if sees else AutoTokenizer).from_pretrained(folder, **given)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"  # answers begin where prompts end
        self.whole = not getattr(self.model.config, "is_encoder_decoder", False)
        self.student = EmberVLMProcessor.from_pretrained(student) if way == "kl" else None

    def can_answer(self, record: Record) -> bool:
        """Every record, or those without a picture."""
        return self.sees or record.image is None

    def answer(self, records: Sequence[Record]) -> list[Answer]:
        """Greedy answers, and the distributions where the student can use them."""
        found: dict[int, Answer] = {}
        for pictured in (True, False):  # a batch has a picture in every prompt or in none
            places = [i for i, r in enumerate(records) if (r.image is not None) == pictured]
            for start in range(0, len(places), BATCH):
                part = places[start : start + BATCH]
                found |= zip(part, self._answer([records[i] for i in part]), strict=True)
        return [found[i] for i in range(len(records))]

    def _answer(self, records: Sequence[Record]) -> Iterator[Answer]:
        import torch

        prompts = self._prompts(records)
        with torch.inference_mode():
            ids = self.model.generate(
                **prompts, max_new_tokens=_ANSWER_TOKENS, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        if self.whole:
            ids = ids[:, prompts["input_ids"].shape[1] :]
        texts = [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        spoken: Sequence[Distribution] = [(None, None)] * len(records)
        if self.way != "text":
            spoken = self._distribution(records, prompts)
        for text, pair in zip(texts, spoken, strict=True):
            yield Answer(text, *pair)

    def _prompts(self, records: Sequence[Record]) -> Any:
        """The questions as the model's template has them, padded on the left, on its device."""
        from embervlm.data.images import open_image

        pictures = [open_image(r.image) for r in records if r.image is not None]
        given: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if getattr(self.processor, "chat_template", None):
            shown = iter(pictures)
            conversations = [
                [{"role": "user", "content": self._content(r, next(shown) if r.image is not None else None)}]
                for r in records
            ]
            more = {"processor_kwargs": {"padding": True}, "return_tensors": "pt"} if self.sees else given
            made = self.processor.apply_chat_template(
                conversations, add_generation_prompt=True, tokenize=True, return_dict=True, **more
            )
        else:
            mark = getattr(self.processor, "image_token", None) if pictures else None
            texts = [f"{mark}\n{r.instruction}\n" if mark else f"{r.instruction}\n" for r in records]
            pictured: dict[str, Any] = {"images": pictures} if pictures else {}
            made = self.processor(text=texts, **pictured, **given)
        return made.to(self.model.device)

    def _content(self, record: Record, picture: Any) -> Any:
        if not self.sees:
            return record.instruction
        words = [{"type": "text", "text": record.instruction}]
        return words if picture is None else [{"type": "image", "image": picture}, *words]

    def _distribution(self, records: Sequence[Record], prompts: Any) -> list[Distribution]:
        """The top k at each token of the data's answer, which the model reads after the prompt."""
        import torch

        answers = [self._tokens(record) for record in records]
        length = max(len(ids) for ids in answers)
        padding = self.tokenizer.pad_token_id
        more = torch.tensor([[*ids, *[padding] * (length - len(ids))] for ids in answers], device=self.model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in answers], device=self.model.device)
        shape = prompts["input_ids"].shape
        inputs = dict(prompts)
        for name, value in prompts.items():
            if getattr(value, "shape", None) == shape:  # kinds of token: 0 is text
                added = {"input_ids": more, "attention_mask": mask}.get(name, torch.zeros_like(more))
                inputs[name] = torch.cat([value, added.to(value.dtype)], dim=1)
        with torch.inference_mode():
            logits = self.model(**inputs).logits[:, shape[1] - 1 : shape[1] - 1 + length].float()
            values, ids = logits.log_softmax(-1).topk(min(self.config.teacher.top_k, logits.shape[-1]))
        rows = zip(ids.tolist(), values.tolist(), [len(ids) for ids in answers], strict=True)
        return [self._ours(one[:count], two[:count]) for one, two, count in rows]

    def _tokens(self, record: Record) -> list[int]:
        """The data's answer up to its end in the teacher's ids; where vocabularies are equal, cut as the student's."""
        end = [self.tokenizer.eos_token_id]
        if self.student is None:
            return [*self.tokenizer(record.response, add_special_tokens=False)["input_ids"], *end]
        ids = self.student.words(record.response)
        # `EmberVLMProcessor.generated` opens with one token and cuts at the limit.
        return [*ids, *end][: self.student.max_text_tokens - 1]

    def _ours(self, ids: list[list[int]], logprobs: list[list[float]]) -> Distribution:
        """Entries in the student's ids; special tokens, but for the end, have none there."""
        if self.student is None:
            return None, logprobs
        special = set(self.tokenizer.all_special_ids) | set(self.student.tokenizer.all_special_ids)
        ends = {self.tokenizer.eos_token_id: self.student.ids["eos"]}
        found: tuple[list[list[int]], list[list[float]]] = ([], [])
        for tokens, values in zip(ids, logprobs, strict=True):
            kept = [
                (ends.get(token, token), value)
                for token, value in zip(tokens, values, strict=True)
                if token in ends or token not in special
            ]
            found[0].append([token for token, _ in kept])
            found[1].append([value for _, value in kept])
        return found
