"""A tokenizer as part of a model's state, so that a run can be resumed and opened without its data."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from studio.errors import StudioError
from studio_gpt.tokenizer import Tokenizer, tokenizer_from_dict


class Vocabulary(nn.Module):
    """Holds the tokenizer; its ``state_dict`` entry is the tokenizer's JSON as bytes.

    Args:
        tokenizer: None before the data is known.
        whole: Whether each training text was a sample of its own, with an end (lines, captions), rather than part of
            one long document.
    """

    def __init__(self, tokenizer: Tokenizer | None = None, *, whole: bool = False) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.whole = whole

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises StudioError before `Generator.initialize` or a checkpoint gave it one."""
        if self._tokenizer is None:
            raise StudioError("The model has no vocabulary yet.", fix="Train it first, or open a trained run.")
        return self._tokenizer

    def get_extra_state(self) -> Tensor:
        plain = None if self._tokenizer is None else self._tokenizer.to_dict()
        text = json.dumps({"tokenizer": plain, "whole": self.whole}, ensure_ascii=False)
        return torch.frombuffer(bytearray(text.encode("utf-8")), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        data = json.loads(bytes(state.cpu().numpy()).decode("utf-8"))
        self._tokenizer = None if data["tokenizer"] is None else tokenizer_from_dict(data["tokenizer"])
        self.whole = bool(data["whole"])
