"""The packaged writer opened for tuning: frozen weights with low-rank adapters beside every linear layer, or all weights.

LoRA (Hu et al. 2021) through peft: 4.9 of 134.5 million numbers learn, and a tuned version is those numbers (20 MB). Where
all weights learn, a version is what they were changed by (270 MB), and Adam's moments are 1.1 GB. First
the shop's texts are read on (next token, packed blocks), then pairs of facts and text (loss on the text alone; the head of
49,152 words is only asked where a word of the text is due), then what people would rather say (DPO). Not here: pairs, edits
and texts (pairs, preferences, passages), steps and checkpoints (stepping), what serves (llm.tuned).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightmarket import warehouse
from nightmarket.llm import network, tuned
from nightmarket.llm.local import SMOLLM2
from nightmarket.settings import get_settings
from nightmarket.training import peers
from nightmarket.training.pairs import Pair
from nightmarket.training.preferences import Preference
from nightmarket.training.stepping import Curves, Objective, descend
from nightmarket.weights import verify

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

RANK = 16
ALPHA = 32
RATE = 4e-4
"""Of adapters, of pairs and of texts."""
WHOLE_SHARE = 0.05
"""What all weights learn with, as a share of what adapters do: they have no small factors in between."""
BATCH = 8
"""Pairs a micro-batch; of neighbours in length, so that little is padding."""
BLOCK = 128
"""Tokens of a packed block of texts; a step of pre-training reads `BLOCKS` of them."""
BLOCKS = 4
LONGEST = 320
"""Tokens of a pair that are read: longer ones lose the end of their text."""
HELD_OUT = 48
"""Descriptions of the test side that judge."""
HELD_OUT_BESIDE = 8
"""Pairs of each other text on the test side: their loss is told, and what is written of them decides whether a night asks."""
LOOKED_AT = 16
"""Pairs of the validation side whose loss is looked at while tuning: `LOOKS` times, each some ten seconds."""
PATIENCE = 2
LOOKS = 4
BETA = 0.1
"""How much a nat counts by which a chosen text gained on the rejected one (Rafailov et al. 2023)."""
EDITS = 4
"""Edits a step: two texts each, so as much work as a micro-batch of pairs."""
PASSES = 3
"""Times that each edit is learnt from at most: few are there, and more only raises the certainty about these."""
EDITS_RATE = 5e-5
"""An eighth of that of pairs: what was learnt there should stay."""
SHAPE: Mapping[str, Any] = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "tie_word_embeddings": True, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
"""What the metadata of the pinned file says of its network."""


Method = Literal["lora", "full"]


@dataclass(frozen=True)
class Writer:
    """A tokenizer, and a network of which adapters learn, or all."""

    tokenizer: Any
    network: Any
    method: Method = "lora"

    @property
    def causal(self) -> Any:
        """The language model itself, adapters in it."""
        return self.network.get_base_model() if self.method == "lora" else self.network

    def learns(self) -> dict[str, Any]:
        """What learns, by its name in the network."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def learning(self, yes: bool) -> None:
        """Whether dropout is on."""
        self.network.train(yes)

    def loss(self, ids: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
        """Mean loss in nats a token of `asked` (rows x places, bool): each from all that stand before it in its row."""
        return self._nats(ids, mask, asked, "mean")

    def margins(self, edits: Sequence[Preference]) -> Tensor:
        """Of each edit by how many nats the chosen text is likelier than the rejected one."""
        return self.compared(edits)[0]

    def compared(self, edits: Sequence[Preference]) -> tuple[Tensor, Tensor]:
        """Of each edit its margin, and the loss a token of the chosen text."""
        import torch

        both = [edit.chosen for edit in edits] + [edit.rejected for edit in edits]
        ids, mask, asked = self._batch([self._coded(pair) for pair in both])
        nats = self._nats(ids, mask, asked, "none")
        rows = asked[:, 1:].nonzero()[:, 0].to(nats.device)
        cost = torch.zeros(len(both), device=nats.device).index_add(0, rows, nats)
        chosen, rejected = cost[: len(edits)], cost[len(edits) :]
        return rejected - chosen, chosen / asked.sum(1)[: len(edits)].to(cost)

    def margins_of(self, edits: Sequence[Preference]) -> NDArray[np.float64]:
        """The same without learning."""
        import torch

        self.learning(False)
        with torch.no_grad():
            return np.array([float(self.margins([edit])) for edit in edits], np.float64)

    def losses_of(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """The mean loss a token of each pair's text, without learning."""
        import torch

        self.learning(False)
        found = []
        with torch.no_grad():
            for pair in pairs:
                found.append(float(self.loss(*self._batch([self._coded(pair)]))))
        return np.array(found, np.float64)

    def bits_of(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Bits that each byte of a pair's text costs: what writers with other tokens can be compared by."""
        said = [self._coded(pair) for pair in pairs]
        tokens = np.array([len(ids) - prompt for ids, prompt in said])
        size = np.array([len(pair.text.encode()) for pair in pairs])
        return self.losses_of(pairs) * tokens / (size * np.log(2))

    def save(self, folder: Path, writes: Sequence[str] = ("description",)) -> None:
        """Write what was learnt alone, as `llm.tuned` reads it, and which of `llm.TEXTS` that are."""
        learnt = {
            name.removeprefix("base_model.model.").replace(".default.", "."): p.detach().float().cpu().numpy()
            for name, p in self.learns().items()
        }
        if self.method == "full":
            tuned.write_whole(folder, learnt, writes=writes)
        else:
            tuned.write(folder, learnt, scale=ALPHA / RANK, writes=writes)

    def _nats(self, ids: Tensor, mask: Tensor, asked: Tensor, reduction: str) -> Tensor:
        """What each asked token costs, row by row, or their mean."""
        import torch
        import torch.nn.functional as F

        device = self.network.device
        ids, mask, due = ids.to(device), mask.to(device), asked[:, 1:].to(device)
        body, head = getattr(self.causal, self.causal.base_model_prefix), self.causal.get_output_embeddings()
        # Products alone: what learns, sums of a norm and the loss stay fp32, and so do gradients.
        with torch.autocast(device.type, torch.bfloat16, enabled=precision(device.type) == "bf16"):
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state
            guessed = head(states[:, :-1][due])
        return F.cross_entropy(guessed.float(), ids[:, 1:][due], reduction=reduction)

    def _coded(self, pair: Pair) -> tuple[list[int], int]:
        """Tokens of a pair, and how many of them are the prompt's."""
        turns = [{"role": role, "content": text} for role, text in pair.messages]
        asked = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = self.tokenizer(asked, add_special_tokens=False)["input_ids"]
        text = self.tokenizer(pair.text, add_special_tokens=False)["input_ids"]
        return [*prompt, *text, self.tokenizer.eos_token_id][:LONGEST], len(prompt)

    def _batch(self, coded: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        length = max(len(ids) for ids, _ in coded)
        ids = torch.full((len(coded), length), self.tokenizer.eos_token_id)
        mask, asked = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (tokens, prompt) in enumerate(coded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            asked[row, prompt : len(tokens)] = True
        return ids, mask, asked


def open_packaged(seed: int, method: Method = "lora") -> Writer:
    """The packaged writer, ready to learn: before the first step it writes what it wrote as it came.

    Raises:
        ModelRefused: the packaged weights, or their copy in the home, do not have the digest they should have.
    """
    opened = network.opened(str(materialised()), get_settings().threads)
    return adapted(*opened, seed) if method == "lora" else whole(*opened)


def whole(tokenizer: Any, network: Any) -> Writer:
    """A causal language model of transformers all of whose weights learn, as fp32: in bf16 a small step is none."""
    return Writer(tokenizer, network.float().requires_grad_(True), "full")


def adapted(tokenizer: Any, network: Any, seed: int) -> Writer:
    """A causal language model of transformers with fresh adapters beside every linear layer but its head."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        return Writer(tokenizer, get_peft_model(network, config))


def precision(device: str = "") -> Literal["bf16", "fp32"]:
    """In what a forward pass multiplies: bf16 where the processor (or the card) does that by itself, else fp32.

    Where it does not, bf16 is made of fp32 and slower. What learns is fp32 in both.

    Args:
        device: what torch calls it, `cpu` or `cuda`; empty: the one that a network is opened on here.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if able else "fp32"


def materialised() -> Path:
    """The packaged GGUF as the safetensors that a training opens, made once a home (538 MB, some 15 s) and verified."""
    settings = get_settings()
    folder = settings.home.expanduser().resolve() / "models" / f"{SMOLLM2.name}-{SMOLLM2.digest}"
    about = folder / "nightmarket.json"
    if about.exists():
        verify(
            folder / "model.safetensors",
            json.loads(about.read_text())["sha256"],
            name=f"the copy of {SMOLLM2.name}",
        )
        return folder
    packaged = SMOLLM2.verify()
    from safetensors.numpy import save_file
    from transformers import AutoTokenizer, LlamaConfig

    scratch = folder.with_suffix(".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # transformers reads a GGUF too, in half a minute and into a network that does not save itself.
    save_file(dict(tuned.packaged_tensors()), scratch / "model.safetensors", metadata={"format": "pt"})
    LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(scratch)
    AutoTokenizer.from_pretrained(
        packaged.parent, local_files_only=True, gguf_file=packaged.name
    ).save_pretrained(scratch)
    with (scratch / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (scratch / "nightmarket.json").write_text(json.dumps({"packaged": SMOLLM2.sha256, "sha256": digest}))
    scratch.rename(folder)
    return folder


def pretrain(
    writer: Writer,
    learnt: Sequence[str],
    held_out: Sequence[str],
    *,
    steps: int,
    seed: int,
    checkpoint: Path | None,
) -> Curves:
    """Read the shop's texts on (next token), in place; nothing where there are too few to fill a step's blocks."""
    blocks, looked = _packed(writer, learnt), _packed(writer, held_out)[: 2 * BLOCKS]
    parts = math.gcd(BLOCKS, peers.count())
    if steps == 0 or len(blocks) < BLOCKS or len(looked) == 0:
        return {}
    import torch

    def losses(part: int) -> Mapping[str, Tensor]:
        step, mine = divmod(part, parts)
        drawn = np.random.default_rng([seed, 0, step]).choice(len(blocks), BLOCKS, replace=False)
        return {"next_token": _read_on(writer, blocks[drawn[mine::parts]])}

    def look() -> Mapping[str, float]:
        return {
            "next_token": float(
                torch.stack([_read_on(writer, looked[n : n + 1]) for n in range(len(looked))]).mean()
            )
        }

    digest = warehouse.digest(learnt, held_out, BLOCK, BLOCKS)
    return _descend(
        "read_on", writer, losses, look, RATE, steps, seed, checkpoint, digest, parts=parts, looks=1
    )


def finetune(
    writer: Writer, learnt: Sequence[Pair], held_out: Sequence[Pair], *, steps: int, parts: int, seed: int, checkpoint: Path | None
) -> Curves:  # fmt: skip
    """Tune on pairs, in place, up to the look with the lowest held-out loss; `PATIENCE` looks without a lower one end it."""
    coded = sorted((writer._coded(pair) for pair in learnt), key=lambda c: len(c[0]))
    looked = held_out[:LOOKED_AT]

    def losses(part: int) -> Mapping[str, Tensor]:
        at = int(np.random.default_rng([seed, 1, part]).integers(max(len(coded) - BATCH, 0) + 1))
        return {"text": writer.loss(*writer._batch(coded[at : at + BATCH]))}

    def look() -> Mapping[str, float]:
        return {"text": float(writer.losses_of(looked).mean())}

    texts = [[pair.text for pair in some] for some in (learnt, looked)]
    digest = warehouse.digest(*texts, BATCH, parts)
    return _descend(
        "finetune", writer, losses, look, RATE, steps, seed, checkpoint, digest, parts=parts, looks=LOOKS,
        patience=PATIENCE,
    )  # fmt: skip


def prefer(
    writer: Writer,
    learnt: Sequence[Preference],
    held_out: Sequence[Preference],
    *,
    steps: int,
    seed: int,
    checkpoint: Path | None,
) -> Curves:
    """Tune on edits in place (DPO and the chosen text itself), up to the look with the lowest held-out sum of both losses.

    A chosen text becomes likelier against the rejected one than the writer as it comes (the reference) has them: how it
    has them is asked once, before the first step. By that alone both may become unlikely, and something else likely that
    nobody wrote (docs/measurements.md: it did); so the chosen text is also learnt as it stands, as Pang et al. (2024,
    Iterative Reasoning Preference Optimization) do. At most `steps` are taken, and `PASSES` over the edits.
    """
    import torch
    import torch.nn.functional as F

    random = np.random.default_rng([seed, 2])
    order = np.concatenate([random.permutation(len(learnt)) for _ in range(PASSES)])
    steps = min(steps, max(len(order) // EDITS, 1))
    parts = math.gcd(EDITS, peers.count(), len(order))
    drawn, looked = [learnt[n] for n in order[: steps * EDITS]], held_out[:LOOKED_AT]
    # An edit that is drawn twice is asked about once.
    unlike = list(dict.fromkeys([*drawn, *looked]))
    log.info("prefer: what the writer says of %d edits before the first step", len(unlike))
    reference = dict(zip(unlike, writer.margins_of(unlike), strict=True))

    def dpo(edits: Sequence[Preference], margins: Tensor) -> Tensor:
        gained = margins - torch.tensor([reference[edit] for edit in edits]).to(margins)
        return -F.logsigmoid(BETA * gained).mean()

    def losses(part: int) -> Mapping[str, Tensor]:
        step, mine = divmod(part, parts)
        edits = drawn[step * EDITS : (step + 1) * EDITS][mine::parts]
        margins, text = writer.compared(edits)
        return {"dpo": dpo(edits, margins), "text": text.mean()}

    def look() -> Mapping[str, float]:
        margins, text = (
            torch.cat(some) for some in zip(*map(writer.compared, ([e] for e in looked)), strict=True)
        )
        return {"dpo": float(dpo(looked, margins)), "text": float(text.mean())}

    said = [[edit.chosen.text, edit.rejected.text] for edit in [*drawn, *looked]]
    return _descend(
        "prefer", writer, losses, look, EDITS_RATE, steps, seed, checkpoint, warehouse.digest("dpo and text", *said, BETA, EDITS),
        parts=parts, looks=LOOKS, patience=PATIENCE,
    )  # fmt: skip


def _descend(
    name: str, writer: Writer, losses: Any, look: Any, rate: float, steps: int, seed: int, checkpoint: Path | None,
    digest: str, **more: Any,
) -> Curves:  # fmt: skip
    rate *= WHOLE_SHARE if writer.method == "full" else 1
    rates = {n: (p, rate) for n, p in writer.learns().items()}
    told = warehouse.digest(
        "writer-3", digest, steps, seed, rate, writer.method, RANK, ALPHA, LONGEST,
        precision(writer.network.device.type),
    )  # fmt: skip
    return descend(
        Objective(name, told, steps, losses, look, rates, writer.learning, seed, **more), checkpoint
    )


def _packed(writer: Writer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Texts one behind the other, an end between two, cut into full blocks (blocks x `BLOCK`)."""
    stream: list[int] = []
    for text in texts:
        stream += [
            *writer.tokenizer(text, add_special_tokens=False)["input_ids"],
            writer.tokenizer.eos_token_id,
        ]
    full = len(stream) // BLOCK
    return np.array(stream[: full * BLOCK], np.int64).reshape(full, BLOCK)


def _read_on(writer: Writer, blocks: NDArray[np.int64]) -> Tensor:
    import torch

    ids = torch.from_numpy(blocks)
    return writer.loss(ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool))
