"""The network behind `sequential`: a causal transformer over bought products, trained with a full softmax.

After SASRec (Kang and McAuley, 2018) with cross-entropy over the catalogue instead of one sampled negative (Klenitskiy and
Vasilev, 2023). What differs: a product's vector is a projection of its text's vector plus a learnt part, so words are
shared between products; logits are made and differentiated a chunk of rows at a time, so memory does not grow with
positions x products. Not here: what a ranker promises (sequential). Imported only where a model is trained or asked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nightmarket.encoder import has_bfloat16

log = logging.getLogger(__name__)

# Rows of logits made at once: 128 x 12,000 products in fp32 are 6 MB, which stay in cache.
CHUNK = 128
# Beyond this many products a step compares with a random part of them, this large.
MOST_COMPARED = 15_000
WARM_UP = 50  # steps, or a tenth of all
LAST_RATE = 0.05  # share of the learning rate that is left at the end


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained; everything that decides its numbers beside the data and the texts.

    Attributes:
        dimensions, layers, heads, length: of the transformer; it reads the latest `length` products.
        dropout, learning_rate: of the training (AdamW without decay; the rate falls as a cosine).
        epochs: passes over all customers; more of them only learn by heart.
        steps, fewest, positions: steps of a pass: about `steps`, each of `fewest` to `positions` predicted places.
    """

    dimensions: int = 128
    layers: int = 1
    heads: int = 2
    length: int = 20
    dropout: float = 0.4
    learning_rate: float = 0.004
    epochs: int = 7
    steps: int = 80
    fewest: int = 64
    positions: int = 2048
    seed: int = 7


class Network(nn.Module):
    """Products in, a vector after each: its inner products with the product vectors are logits of what comes next."""

    def __init__(self, recipe: Recipe, products: int, text_dimensions: int) -> None:
        super().__init__()
        size = recipe.dimensions
        self.recipe = recipe
        self.own = nn.Parameter(torch.randn(products, size) * 0.02)
        self.words = nn.Parameter(torch.randn(text_dimensions, size) * 0.02)
        self.places = nn.Parameter(torch.randn(recipe.length, size) * 0.02)
        self.blocks = nn.ModuleList(_Block(recipe) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(size)

    def table(self, texts: Tensor | None) -> Tensor:
        """The vectors of all products (products x dimensions)."""
        return self.own if texts is None or not texts.shape[1] else self.own + texts @ self.words

    def forward(self, table: Tensor, ids: Tensor) -> Tensor:
        """Vectors after each product of `ids` (rows x places, the oldest first, padded behind): rows x places x dimensions."""
        told = F.embedding(ids, table) * math.sqrt(self.recipe.dimensions) + self.places[: ids.shape[1]]
        told = F.dropout(told, self.recipe.dropout, self.training)
        for block in self.blocks:
            told = block(told)
        return self.norm(told)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind a layer norm and added to what came in."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        size = recipe.dimensions
        self.heads, self.dropout = recipe.heads, recipe.dropout
        self.norm_attention, self.norm_forward = nn.LayerNorm(size), nn.LayerNorm(size)
        self.asks, self.mixes = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widens, self.narrows = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, told: Tensor) -> Tensor:
        rows, places, size = told.shape
        asked = self.asks(self.norm_attention(told)).view(rows, places, 3, self.heads, size // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        mixed = self.mixes(seen.transpose(1, 2).reshape(rows, places, size))
        told = told + F.dropout(mixed, self.dropout, self.training)
        wide = self.narrows(F.gelu(self.widens(self.norm_forward(told))))
        return told + F.dropout(wide, self.dropout, self.training)


class _Softmax(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ table.T` against `targets`; its gradients are made on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        count, total = len(targets), 0.0
        of_hidden = torch.empty_like(hidden)
        of_table = torch.zeros(table.shape, dtype=torch.float32)
        across = table.t()
        for begin in range(0, count, CHUNK):
            some, wanted = hidden[begin : begin + CHUNK], targets[begin : begin + CHUNK]
            row = torch.arange(len(wanted))
            share = (some @ across).float()
            share.sub_(share.max(1, keepdim=True).values).exp_()
            share.div_(share.sum(1, keepdim=True))
            total -= float(share[row, wanted].clamp_min(1e-30).log().sum())
            share[row, wanted] -= 1
            slope = share.to(hidden.dtype)
            of_hidden[begin : begin + CHUNK] = slope @ table
            of_table += (slope.t() @ some).float()
        ctx.save_for_backward(of_hidden / count, of_table / count)
        return torch.tensor(total / count)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor, Tensor, None]:
        of_hidden, of_table = ctx.saved_tensors
        return of_hidden * slopes[0], of_table * slopes[0], None


def train(
    recipe: Recipe,
    sequences: list[NDArray[np.int32]],
    products: int,
    texts: NDArray[np.float32] | None,
    *,
    start: Network | None = None,
    checkpoint: Path | None = None,
) -> Network:
    """A network that has learnt `sequences` (product codes, the oldest first; shorter than two tell nothing).

    The same arguments give the same numbers on the same machine and number of threads. Products in no sequence keep
    their text's vector alone: they are never pushed away for not having been bought.

    Args:
        texts: a vector a product (products x any), or None.
        start: a network of the same shape to go on from.
        checkpoint: a folder where each epoch's state is kept; training that was killed goes on from the last one, to
            the same numbers. State of other data or another recipe is not used.
    """
    told = None if texts is None else torch.from_numpy(np.ascontiguousarray(texts, np.float32))
    able = [sequence for sequence in sequences if len(sequence) > 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = Network(recipe, products, 0 if told is None else told.shape[1])
    bought = torch.from_numpy(np.unique(np.concatenate([*able, np.zeros(0, np.int32)])).astype(np.int64))
    place = torch.full((products,), -1, dtype=torch.int64)
    place[bought] = torch.arange(len(bought))
    if start is not None:
        network.load_state_dict(start.state_dict())
    else:
        with torch.no_grad():
            network.own[place < 0] = 0
    if not able:
        return network.eval()
    steps = sum(1 for _ in _batches(able, recipe, 0))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    kept = _Checkpoint.of(checkpoint, recipe, able, products, texts)
    first = kept.load(network, optimiser) if kept else 0
    network.train()
    for epoch in range(first, recipe.epochs):
        loss = _epoch(
            network, optimiser, able, bought, place, told, recipe, epoch, steps, steps * recipe.epochs
        )
        log.info("sequential: epoch %d of %d, loss %.3f", epoch + 1, recipe.epochs, loss)
        if kept:
            kept.save(network, optimiser, epoch + 1)
    return network.eval()


def _epoch(
    network: Network, optimiser: torch.optim.Optimizer, able: list[NDArray[np.int32]], bought: Tensor, place: Tensor,
    told: Tensor | None, recipe: Recipe, epoch: int, steps: int, all_steps: int,
) -> float:  # fmt: skip
    """One pass; returns the mean loss of a place."""
    total = seen = 0.0
    with torch.random.fork_rng(devices=[]):
        # Seeded anew each epoch, so a resumed training draws what an uninterrupted one would have drawn.
        torch.manual_seed(recipe.seed * 100_003 + epoch)
        for n, (ids, following) in enumerate(_batches(able, recipe, epoch)):
            step = epoch * steps + n
            rate = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(step / all_steps, 1)))
            for group in optimiser.param_groups:
                group["lr"] = (
                    recipe.learning_rate * min(1.0, (step + 1) / min(WARM_UP, all_steps / 10)) * rate
                )
            table = network.table(told)
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch)):
                vectors = network(table, ids)[following >= 0]
            targets = place[following[following >= 0]]
            if len(bought) > MOST_COMPARED:
                # Uniform, and the targets of the step: a part of the catalogue stands for the whole.
                drawn = torch.cat([torch.randperm(len(bought))[:MOST_COMPARED], targets]).unique()
                compared, targets = bought[drawn], torch.searchsorted(drawn, targets)
            else:
                compared = bought
            kind = torch.bfloat16 if has_bfloat16(torch) else torch.float32
            loss = _Softmax.apply(vectors.to(kind), table[compared].to(kind), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            total, seen = total + float(loss.detach()) * len(targets), seen + len(targets)
    return total / max(seen, 1)


def _batches(able: list[NDArray[np.int32]], recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Products and what followed each (-1: padding), rows of like length together, in an order drawn for the epoch.

    Of a customer with more products than the network reads, a window is drawn anew each epoch.
    """
    random = np.random.default_rng([recipe.seed, epoch])
    longest = recipe.length + 1
    lengths = np.minimum([len(s) for s in able], longest)
    most = min(recipe.positions, max(int((lengths - 1).sum()) // recipe.steps, recipe.fewest))
    order = random.permutation(len(able))
    order = order[np.argsort(lengths[order], kind="stable")]
    cuts, begin = [], 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * (lengths[order[end]] - 1) <= most:
            end += 1
        cuts.append((begin, end))
        begin = end
    for n in random.permutation(len(cuts)):
        rows = order[slice(*cuts[n])]
        width = int(lengths[rows].max()) - 1
        ids = np.zeros((len(rows), width), np.int64)
        following = np.full((len(rows), width), -1, np.int64)
        for r, row in enumerate(rows):
            sequence, length = able[row], lengths[row]
            at = int(random.integers(len(sequence) - length + 1))
            ids[r, : length - 1] = sequence[at : at + length - 1]
            following[r, : length - 1] = sequence[at + 1 : at + length]
        yield torch.from_numpy(ids), torch.from_numpy(following)


class _Checkpoint:
    """The state of a training after its last whole epoch: safetensors and the digest of what is trained on."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.file, self.digest = folder / "training.safetensors", digest

    @classmethod
    def of(
        cls, folder: Path | None, recipe: Recipe, able: list[NDArray[np.int32]], products: int,
        texts: NDArray[np.float32] | None,
    ) -> _Checkpoint | None:  # fmt: skip
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps([asdict(recipe), products, len(able)]).encode())
        for sequence in able:
            digest.update(sequence.tobytes() + b"|")
        digest.update(b"" if texts is None else texts.tobytes())
        return cls(folder, digest.hexdigest())

    def save(self, network: Network, optimiser: torch.optim.Optimizer, epochs: int) -> None:
        from safetensors.torch import save_file

        state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            for key, value in optimiser.state[parameter].items():
                state[f"adam.{key}.{name}"] = value
        scratch = self.file.with_suffix(".new")
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, scratch,
            metadata={"digest": self.digest, "epochs": str(epochs)},
        )  # fmt: skip
        scratch.replace(self.file)

    def load(self, network: Network, optimiser: torch.optim.Optimizer) -> int:
        """Go on from what was kept, if it is of this training; says how many epochs are done."""
        from safetensors import safe_open

        if not self.file.exists():
            return 0
        with safe_open(self.file, "pt") as kept:
            about = kept.metadata() or {}
            if about.get("digest") != self.digest:
                return 0
            state = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - it is no dictionary
        network.load_state_dict(
            {name.removeprefix("network."): t for name, t in state.items() if name.startswith("network.")}
        )
        for name, parameter in network.named_parameters():
            # A parameter that took no part (no texts, no words) has no state.
            optimiser.state[parameter] = {
                key: state[f"adam.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in state
            }
        log.info("sequential: goes on after epoch %s", about["epochs"])
        return int(about["epochs"])
