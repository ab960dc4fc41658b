"""The states of texts under the text side: kept where it stays as it is, computed anew where it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ember_platform.train.engine import autocast
from ember_platform.train.precision import resolve_precision
from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.models.layout import segment_mask

Padded = tuple[Tensor, Tensor]
#: Texts that the text side reads at once, of about the same length.
_BATCH = 64


class States:
    """The states of texts that stand alone, each text read once.

    Args:
        model, processor: the text side and its tokenizer.
        start: the position at which the model reads such a text.
    """

    def __init__(self, model: EmberVLM, processor: EmberVLMProcessor, start: int) -> None:
        self.model, self.processor, self.start = model, processor, start
        self.known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> None:
        """Read what is not known yet, and keep it."""
        self.model.eval()
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        for part, hidden, mask in self._run(new):
            for row, i in enumerate(part):
                self.known[new[i]] = hidden[row, mask[row]].half().cpu()

    def padded(self, texts: Sequence[str], dropout: float = 0.0) -> Padded:
        """States (R, L, D) and mask (R, L) of texts that were read; of each a share of the tokens is hidden."""
        states = [self.known[text] for text in texts]
        hidden = nn.utils.rnn.pad_sequence(states, batch_first=True).float()
        lengths = torch.tensor([len(state) for state in states])
        mask = hide(torch.arange(hidden.shape[1]) < lengths[:, None], dropout)
        return hidden.to(self.model.device), mask.to(self.model.device)

    def live(self, texts: Sequence[str], dropout: float = 0.0) -> Padded:
        """The same as the text side in training reads them now, with gradients; hidden tokens are seen by no other."""
        self.model.language.train()
        hidden: list[Tensor] = [torch.empty(0)] * len(texts)
        masks = list(hidden)
        for part, states, mask in self._run(texts, dropout):
            for row, i in enumerate(part):
                hidden[i], masks[i] = states[row], mask[row]
        pad = nn.utils.rnn.pad_sequence
        return pad(hidden, batch_first=True), pad(masks, batch_first=True)

    def _run(self, texts: Sequence[str], dropout: float = 0.0) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Texts of a length together: which they are, their states (R, L, D) and masks (R, L)."""
        ids = [self.processor.segment(text, self.processor.max_text_tokens) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        device = self.model.device
        for first in range(0, len(order), _BATCH):
            part = order[first : first + _BATCH]
            padded, whole = self.processor._pad([ids[i] for i in part])
            padded, mask = padded.to(device), hide(whole, dropout).to(device)
            places = self.start + torch.arange(padded.shape[1], device=device).expand_as(padded)
            with autocast(device.type, resolve_precision("auto", device.type) == "bf16"):
                language = self.model.language
                hidden, _ = language(language.embed(padded), segment_mask(mask, True), places)
            yield part, hidden.float(), mask


def hide(mask: Tensor, share: float) -> Tensor:
    """A mask (R, L) without a share of its tokens, chosen at random, never a text's first."""
    if not share:
        return mask
    seen = torch.rand(mask.shape) >= share
    seen[:, 0] = True
    return mask & seen
