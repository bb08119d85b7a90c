"""A champion writer: what was learnt beside the packaged weights, on disk, and the GGUF that llama.cpp serves of both.

A version is 20 MB of low-rank adapters, or 270 MB of what all weights were changed by, and a page that says whose they are.
Before it serves, they and the packaged weights become one GGUF (8-bit blocks, 145 MB), made once a home by numpy alone; it
may be deleted. Not here: how they are learnt (training.writer), and how a GGUF is run (`local`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightmarket.errors import ModelRefused
from nightmarket.llm.asked import Message, Request
from nightmarket.llm.local import SMOLLM2, LocalGenerator, TunedWriter
from nightmarket.settings import get_settings
from nightmarket.weights import Tuned, verify

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TASK = "writer"
_TUNED = Tuned(SMOLLM2, TASK, file="adapters.safetensors", page="writer.json")
_WHOLE = replace(_TUNED, file="changes.safetensors")
# Raise it when code here makes another GGUF of the same version.
EXPORT = "1"
_HEADS = {"self_attn.q_proj": 9, "self_attn.k_proj": 3}
_LINEAR = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_PARTS = _LINEAR | {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_APART = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.([\w.]+)\.weight")
_ADAPTER = re.compile(r"model\.layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.weight")


# What a writer was tuned on that does not say so: all were, before there was anything else.
_OLD = ("description",)


def write(
    folder: Path, adapters: Mapping[str, np.ndarray], *, scale: float, writes: Collection[str] = _OLD
) -> None:
    """Write a tuned version: for each linear layer its two matrices, `model.layers.N.<layer>.lora_A.weight` and `_B`.

    Args:
        writes: which of `asked.TEXTS` it learnt.
    """
    _TUNED.write(folder, adapters, scale=scale, writes=sorted(writes))


def says(folder: Path, writes: Collection[str]) -> None:
    """Write down anew which of `asked.TEXTS` a version may be asked for; its weights and their digest stay."""
    page = folder / _TUNED.page
    page.write_text(json.dumps(_TUNED.about(folder) | {"writes": sorted(writes)}, indent=1, sort_keys=True))


def write_whole(folder: Path, weights: Mapping[str, np.ndarray], *, writes: Collection[str] = _OLD) -> None:
    """Write a tuned version all of whose weights learnt, by the names of `packaged_tensors`: by what each was changed.

    Changes are kept in 16 bits: they are some ten-thousandths, so that is finer than the blocks that serve.
    """
    changes = {name: (weights[name] - numbers).astype(np.float16) for name, numbers in packaged_tensors()}
    _WHOLE.write(
        folder,
        {name: change for name, change in changes.items() if change.any()},
        method="full",
        writes=sorted(writes),
    )


def writer(folder: Path, *, name: str, version: str = "") -> TunedWriter:
    """The tuned writer of a folder as `LocalGenerator` takes it; nothing is exported before it is needed.

    Raises:
        ModelRefused: it is no tuned writer, or one of other packaged weights.
    """
    writes = frozenset(_TUNED.about(folder).get("writes", _OLD))
    return TunedWriter(name, version, digest_of(folder), partial(located, folder), writes)


def digest_of(folder: Path) -> str:
    """What a tuned writer's replies are stored by: a digest of its adapters and of how they are exported."""
    return hashlib.sha256(f"{_TUNED.about(folder)['sha256']} {EXPORT}".encode()).hexdigest()[:12]


def is_whole(folder: Path) -> bool:
    """Whether all weights of a version learnt, and not adapters beside them."""
    return _TUNED.about(folder).get("method") == "full"


def located(folder: Path) -> Path:
    """The verified GGUF of a tuned writer, made where the home has none yet (some 10 s).

    A kill or a full disk leaves no half file.

    Raises:
        ModelRefused: what was learnt or packaged weights are not what they should be, or there is no room for the file.
    """
    models = get_settings().home.expanduser().resolve() / "models"
    path = models / f"writer-{digest_of(folder)}.gguf"
    note = path.with_suffix(".json")
    if not (path.exists() and note.exists()):
        if is_whole(folder):
            learnt = partial(_changes, _WHOLE.verify(folder))
        else:
            learnt = partial(_products, _TUNED.verify(folder), float(_TUNED.about(folder)["scale"]))
        models.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.new")
        try:
            _export(learnt(), scratch)
            with scratch.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            scratch.replace(path)
            note.write_text(json.dumps({"sha256": digest}))
        except OSError as error:
            raise ModelRefused(
                f"The tuned writer could not be exported to {models}: {error}. It needs 150 MB there; the writer that "
                f"served before keeps serving once you go back to it: nightmarket rollback writer"
            ) from error
        finally:
            scratch.unlink(missing_ok=True)
    return verify(path, json.loads(note.read_text())["sha256"], name="the exported writer")


def forget(folder: Path) -> None:
    """Remove the GGUF of a tuned writer that will not serve."""
    models = get_settings().home.expanduser().resolve() / "models"
    for ending in ("gguf", "json"):
        (models / f"writer-{digest_of(folder)}.{ending}").unlink(missing_ok=True)


def _products(adapters: Path, scale: float) -> dict[str, np.ndarray]:
    """What adapters change each weight by, `scale * B @ A`, by the weight's name in a GGUF and in its order."""
    from safetensors.numpy import load_file

    pairs: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, numbers in load_file(adapters).items():
        found = _ADAPTER.fullmatch(name)
        if found is None or found[2] not in _LINEAR:
            raise ModelRefused(f"{adapters} holds `{name}`, which is no adapter of {SMOLLM2.name}.")
        pairs.setdefault((found[1], found[2]), {})[found[3]] = numbers
    log.info("exporting a tuned writer (%d adapters)", len(pairs))
    return {
        f"blk.{layer}.{_LINEAR[part]}.weight": _interleaved(part, scale * (two["B"] @ two["A"]))
        for (layer, part), two in pairs.items()
    }


def _changes(file: Path) -> dict[str, np.ndarray]:
    """What each weight was changed by, by its name in a GGUF and in its order."""
    from safetensors.numpy import load_file

    found = {}
    for name, numbers in load_file(file).items():
        layer = _LAYER.fullmatch(name)
        if name in _APART:
            found[_APART[name]] = numbers.astype(np.float32)
        elif layer and layer[2] in _PARTS:
            whole = _interleaved(layer[2], numbers.astype(np.float32))
            found[f"blk.{layer[1]}.{_PARTS[layer[2]]}.weight"] = whole
        else:
            raise ModelRefused(f"{file} holds `{name}`, which is no weight of {SMOLLM2.name}.")
    log.info("exporting a tuned writer (%d weights)", len(found))
    return found


def _interleaved(part: str, numbers: np.ndarray) -> np.ndarray:
    """llama.cpp keeps the halves of a rotary head interleaved, transformers one behind the other."""
    if heads := _HEADS.get(part):
        numbers = numbers.reshape(heads, 2, -1, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
    return numbers


def _export(deltas: dict[str, np.ndarray], target: Path) -> None:
    """Packaged weights plus what was learnt, in 8-bit blocks; everything else as it was."""
    import gguf

    reader = gguf.GGUFReader(str(SMOLLM2.verify()))
    writer = gguf.GGUFWriter(str(target), "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    eight = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in deltas:
            numbers = numbers + deltas.pop(tensor.name)
        if numbers.ndim == 1:
            writer.add_tensor(tensor.name, numbers)
        else:
            packed = gguf.quants.quantize(numbers, eight)
            writer.add_tensor(tensor.name, packed, raw_dtype=eight)
    if deltas:
        raise ModelRefused(
            f"{SMOLLM2.name} has no layer {sorted(deltas)[0]}, which the tuned writer changes."
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def packaged_tensors() -> Iterator[tuple[str, np.ndarray]]:
    """The packaged weights as fp32, by the names and in the order of rotary halves that transformers has."""
    import gguf

    parts, apart = ({theirs: ours for ours, theirs in names.items()} for names in (_PARTS, _APART))
    for tensor in gguf.GGUFReader(str(SMOLLM2.verify())).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if found is None:
            yield apart[tensor.name], numbers
            continue
        part = parts[found[2]]
        if heads := _HEADS.get(part):
            numbers = numbers.reshape(heads, -1, 2, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
        yield f"model.layers.{found[1]}.{part}.weight", numbers


class _Door:
    """A tuned writer behind a frame, for whoever serves models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """For each row of `prompt` what the writer says."""
        import pandas as pd

        with LocalGenerator(tuned=writer(self.folder, name=f"nightmarket.{TASK}")) as generator:
            replies = generator.generate([Request((Message("user", str(p)),)) for p in frame["prompt"]])
        return pd.DataFrame({"text": [reply.text for reply in replies]})


def _load_pyfunc(path: str) -> _Door:
    """MLflow's door to a registered writer."""
    return _Door(Path(path))
