"""The packaged encoder opened for tuning: a frozen trunk, a top that learns, heads for its first two objectives.

Embeddings and the lower layers stay as they came; what a text is after them is made once and kept, so a step of training
and a trial pay for the top alone (a third of the network), and a tuned version is the top's numbers (14 MB). Not here:
objectives (pretrain, contrast) and what serves (encoder).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightmarket.encoder import DIMENSIONS, MINILM, write_tuned
from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from torch import Tensor

TUNED_LAYERS = 2
"""Layers from the top that learn."""
LENGTH = 48
"""Word pieces of a product's text, or of a pair of sentences, that are read; the night's vectors read up to 256."""
KEPT = 4096
"""Texts whose state after the trunk is kept (75 kB each at most)."""
_BATCH = 32


@dataclass(frozen=True)
class Bert:
    """A tokenizer and a network with heads; `state` and `restore` hand the learning part around."""

    tokenizer: Any
    network: Any

    def trunk(self, ids: Tensor, mask: Tensor, kinds: Tensor | None = None) -> Tensor:
        """What the frozen part makes of word pieces (rows x places): rows x places x 384, without gradients."""
        import torch

        bert = self.network.bert
        with torch.no_grad():
            told = bert.embeddings(input_ids=ids, token_type_ids=kinds)
            for layer in bert.encoder.layer[:-TUNED_LAYERS]:
                told = layer(told, mask.bool()[:, None, None, :])
        return told  # type: ignore[no-any-return]

    def top(self, told: Tensor, mask: Tensor) -> Tensor:
        """The learning layers on what the trunk made."""
        for layer in self.network.bert.encoder.layer[-TUNED_LAYERS:]:
            told = layer(told, mask.bool()[:, None, None, :])
        return told

    def layers(self) -> dict[str, Any]:
        """Parameters of the learning layers, named as in the packaged file."""
        bert = self.network.bert
        first = len(bert.encoder.layer) - TUNED_LAYERS
        return {
            f"encoder.layer.{first + n}.{name}": parameter
            for n, layer in enumerate(bert.encoder.layer[-TUNED_LAYERS:])
            for name, parameter in layer.named_parameters()
        }

    def heads(self) -> dict[str, Any]:
        """Parameters of the heads for masked tokens and next sentences; the words they choose from stay as they are."""
        bert, heads = self.network.bert, self.network.cls
        found = {f"pooler.{name}": parameter for name, parameter in bert.pooler.named_parameters()}
        found |= {f"words.{name}": p for name, p in heads.predictions.transform.named_parameters()}
        return (
            found
            | {"words.bias": heads.predictions.decoder.bias}
            | {f"next.{name}": parameter for name, parameter in heads.seq_relationship.named_parameters()}
        )

    def learning(self, yes: bool) -> None:
        """Dropout in the learning layers on or off; the trunk never drops anything."""
        self.network.eval()
        for layer in self.network.bert.encoder.layer[-TUNED_LAYERS:]:
            layer.train(yes)

    def state(self) -> dict[str, Tensor]:
        """A copy of everything that learns."""
        return {name: p.detach().clone() for name, p in (self.layers() | self.heads()).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state; names it lacks stay as they are."""
        import torch

        with torch.no_grad():
            for name, parameter in (self.layers() | self.heads()).items():
                if name in state:
                    parameter.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Write the learning layers as a tuned version of the packaged encoder (`encoder` loads it)."""
        write_tuned(folder, {n: p.detach().numpy() for n, p in self.layers().items()})


def open_packaged(seed: int) -> Bert:
    """The packaged encoder with fresh heads; the same seed gives the same heads.

    Raises:
        ModelRefused: the weights are missing or do not have the pinned digest.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = MINILM.verify().parent
    import torch
    from transformers import AutoTokenizer, BertForPreTraining
    from transformers.utils import logging as chatter

    torch.set_num_threads(get_settings().threads)
    # It reports the heads as missing, which they are meant to be.
    before = chatter.get_verbosity()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = BertForPreTraining.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32
            )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    finally:
        chatter.set_verbosity(before)
    network.requires_grad_(False)
    bert = Bert(tokenizer, network)
    for parameter in (bert.layers() | bert.heads()).values():
        parameter.requires_grad_(True)
    bert.learning(False)
    return bert


class Texts:
    """Texts after the trunk, made when first asked for, the first `KEPT` of them kept."""

    def __init__(self, bert: Bert, texts: Sequence[str]) -> None:
        self.bert = bert
        told = bert.tokenizer(list(texts), truncation=True, max_length=LENGTH)["input_ids"] if texts else []
        self._pieces = [np.asarray(row, np.int64) for row in told]
        self._kept: dict[int, Tensor] = {}
        self.digest = hashlib.sha256("\x1f".join(texts).encode("utf-8", "replace")).hexdigest()

    def __len__(self) -> int:
        return len(self._pieces)

    def pooled(self, rows: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """Vectors of length 1 of some texts, in order, with gradients to the top where they are on."""
        import torch

        states = self._states([int(row) for row in rows])
        width = max(len(state) for state in states)
        told = torch.zeros(len(states), width, states[0].shape[1])
        mask = torch.zeros(len(states), width)
        for n, state in enumerate(states):
            told[n, : len(state)], mask[n, : len(state)] = state, 1.0
        seen = self.bert.top(told, mask)
        mean = (seen * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    def vectors(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Vectors of some texts (by default of all), in order, as the network is now, without dropout."""
        import torch

        self.bert.learning(False)
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        made = np.empty((len(wanted), DIMENSIONS), np.float32)
        order = np.argsort([len(self._pieces[row]) for row in wanted], kind="stable")
        with torch.no_grad():
            for begin in range(0, len(order), _BATCH):
                part = order[begin : begin + _BATCH]
                made[part] = self.pooled(wanted[part]).numpy()
        return made

    def _states(self, rows: Sequence[int]) -> list[Tensor]:
        import torch

        fresh: dict[int, Tensor] = {}
        missing = sorted({r for r in rows if r not in self._kept}, key=lambda r: len(self._pieces[r]))
        for begin in range(0, len(missing), _BATCH):
            part = missing[begin : begin + _BATCH]
            width = max(len(self._pieces[row]) for row in part)
            ids, mask = np.zeros((len(part), width), np.int64), np.zeros((len(part), width), np.int64)
            for n, row in enumerate(part):
                ids[n, : len(self._pieces[row])], mask[n, : len(self._pieces[row])] = self._pieces[row], 1
            told = self.bert.trunk(torch.from_numpy(ids), torch.from_numpy(mask))
            for n, row in enumerate(part):
                # A row of its own: a view would keep the whole batch.
                fresh[row] = told[n, : len(self._pieces[row])].clone()
        for row, state in fresh.items():
            if len(self._kept) < KEPT:
                self._kept[row] = state
        return [self._kept[row] if row in self._kept else fresh[row] for row in rows]
