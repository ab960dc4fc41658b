"""How records become text for the model, and text becomes answers again.

A robot is mentioned as `[Name]`; here such a mention becomes the single token `<|robot|>` that carries which robot it
means. Generated text of stages 3 and 4 reads

    <|reasoning_start|> step 1 <|step|> step 2 <|step|> step 3 <|step|> step 4 <|reasoning_end|>
    <|action_plan|> 1 first subtask [Robot] <|step|> 2 second subtask [Robot] <eos>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from embervlm.fleet import Robot

#: A piece of generated text: a special token's name, a mention (the robot's place in the fleet), or plain words.
Piece = tuple[str, str | int]

CAPTION_PROMPT = "describe the picture."
#: Stands where a task is withheld (modality dropout, the image-only baseline).
UNKNOWN_TASK = "something has to be done here."
_MENTION = re.compile(r"\[([^\[\]]+)\]")
_PLAN_STEP = re.compile(r"^\s*(\d+)\s+(.*?)\s*(?:\[([^\[\]]+)\])?\s*\.?\s*$", re.DOTALL)


def robot_text(robot: Robot) -> str:
    """A robot's description as one text: all that the model knows of it."""
    parts = [f"{robot.name}."]
    for label, items in (
        ("can", robot.capabilities),
        ("limits", robot.limitations),
        ("works in", robot.environments),
    ):
        if items:
            parts.append(f"{label}: {', '.join(items)}.")
    return " ".join(parts)


def words_and_mentions(text: str, names: Sequence[str]) -> list[Piece]:
    """Split a text at its mentions. A bracketed text that names no robot of the fleet stays plain words."""
    pieces: list[Piece] = []
    end = 0
    for match in _MENTION.finditer(text):
        if match[1] not in names:
            continue
        if between := text[end : match.start()].strip():
            pieces.append(("words", between))
        pieces.append(("mention", list(names).index(match[1])))
        end = match.end()
    if rest := text[end:].strip():
        pieces.append(("words", rest))
    return pieces


def chain_pieces(steps: Sequence[str], names: Sequence[str]) -> list[Piece]:
    """The reasoning steps, without the opening token, with the closing one."""
    pieces: list[Piece] = []
    for i, step in enumerate(steps):
        if i:
            pieces.append(("special", "<|step|>"))
        pieces.extend(words_and_mentions(step, names))
    pieces.append(("special", "<|reasoning_end|>"))
    return pieces


def plan_pieces(plan: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Piece]:
    """The action plan and the end of the text."""
    pieces: list[Piece] = [("special", "<|action_plan|>")]
    for i, step in enumerate(plan):
        if i:
            pieces.append(("special", "<|step|>"))
        pieces.extend(words_and_mentions(f"{step['order']} {step['subtask']} [{step['robot']}]", names))
    pieces.append(("special", "eos"))
    return pieces


def parse_generated(parts: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Steps and plan from decoded text that was cut at special tokens.

    Args:
        parts: alternating as the processor decodes: words and special tokens' names.

    Returns:
        The steps (mentions as `[Name]`) and the plan's entries; an entry that does not parse is left out.
    """
    steps: list[str] = []
    plan: list[dict[str, Any]] = []
    target, current = steps, ""

    def close() -> None:
        nonlocal current
        text = current.strip()
        current = ""
        if not text:
            return
        if target is steps:
            steps.append(text)
            return
        match = _PLAN_STEP.match(text)
        if match and match[2] and match[3]:
            plan.append({"order": int(match[1]), "subtask": match[2], "robot": match[3]})

    for part in parts:
        if part in ("<|step|>", "<|reasoning_end|>", "<|action_plan|>", "eos"):
            close()
            if part == "<|action_plan|>":
                target = plan  # type: ignore[assignment]
        else:
            current = joined(current, part)
    close()
    return steps, plan


def joined(text: str, part: str) -> str:
    """Text and what follows it, with a space between where one belongs."""
    part = part.strip()
    return text + part if not text or part[:1] in ("", *".,;:!?") else f"{text} {part}"


def without_brackets(text: str) -> str:
    """The text as a person reads it."""
    return _MENTION.sub(r"\1", text)
