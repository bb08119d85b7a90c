"""Any causal language model that transformers opens, in this process: on a GPU where there is one, else on the processor.

For models that llama.cpp has no file of, and for machines with a GPU. It keeps no grammar: it writes freely, and what the
facts bear is published. On a processor the packaged weights are some eight times slower here than through `local`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nightmarket.errors import ModelRefused
from nightmarket.llm.asked import TEXTS, Failure, Generator, Reply, Request, Spent, digest
from nightmarket.llm.replies import ReplyStore

log = logging.getLogger(__name__)

BATCH = 8
"""Prompts of one call of the network."""
LANGUAGES = frozenset({"en", "zh"})
_COMMIT = re.compile(r"[0-9a-f]{40}")


class NetworkGenerator(Generator):
    """A tokenizer and a network that are open, or are opened at the first reply that is not in the store.

    Replies of one batch do not depend on the others up to rounding: padding stands on the left and is masked.
    """

    free = True
    writes = frozenset(TEXTS)
    keeps_grammars = False

    def __init__(
        self, source: str | tuple[Any, Any], *, name: str = "", version: str = "", store: Path | None = None,
        languages: frozenset[str] = LANGUAGES, batch: int = BATCH, threads: int = 1,
    ) -> None:  # fmt: skip
        """`source`: a folder of safetensors, `owner/model@commit` of the Hugging Face Hub, or (tokenizer, network).

        Raises:
            ModelRefused: a folder without safetensors, or a name of the hub without a commit.
        """
        self._opened = None if isinstance(source, str) else source
        self._source = source if isinstance(source, str) else name
        if isinstance(source, str):
            version = version or version_of(source)
        self.name = name or self._source
        self.version = version
        self.languages = languages
        self.spent = Spent()
        self._store = ReplyStore(store) if store else None
        self._batch = batch
        self._threads = threads

    def attempt(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """A reply for each request, or why it has none, in order; those of a batch are stored as soon as it is whole.

        A request with a grammar has none.

        Raises:
            ModelRefused: the model cannot be opened.
        """
        outcomes: dict[int, Reply | Failure] = {}
        wanted: list[tuple[int, Request]] = []
        for number, request in enumerate(requests):
            stored = self._store.find(digest(self.version, request)) if self._store else None
            if stored is not None:
                outcomes[number] = stored
            elif request.grammar is not None:
                why = f"{self.name} keeps no grammar, and request {number} has one"
                outcomes[number] = Failure(why, "invalid")
            else:
                wanted.append((number, request))
        for some in self._batches(wanted):
            for (number, request), reply in zip(some, self._ask([r for _, r in some]), strict=True):
                self.spent.tokens_in += reply.tokens_in
                self.spent.tokens_out += reply.tokens_out
                if self._store:
                    self._store.keep(digest(self.version, request), self.name, reply)
                outcomes[number] = reply
        return [outcomes[number] for number in range(len(requests))]

    def close(self) -> None:
        """Give the memory back; the next reply that is not stored opens the model again."""
        if self._source:
            self._opened = None

    def _batches(self, wanted: Sequence[tuple[int, Request]]) -> Iterator[Sequence[tuple[int, Request]]]:
        """Requests that are asked together: of one length beside each other, so that little is padding; a sampled one alone,
        because its seed and its temperature are its own."""
        greedy = [entry for entry in wanted if entry[1].temperature == 0]
        greedy.sort(key=lambda entry: sum(len(m.content) for m in entry[1].messages))
        yield from (greedy[n : n + self._batch] for n in range(0, len(greedy), self._batch))
        yield from ([entry] for entry in wanted if entry[1].temperature > 0)

    def _ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies of one batch: all greedy, or one that is sampled."""
        import torch

        tokenizer, network = self._opened = self._opened or opened(self._source, self._threads)
        self.spent.calls += 1
        asked = [
            tokenizer(
                tokenizer.apply_chat_template(
                    [m._asdict() for m in request.messages], add_generation_prompt=True, tokenize=False
                ),
                add_special_tokens=False,
            )["input_ids"]
            for request in requests
        ]
        end = tokenizer.eos_token_id
        longest = max(map(len, asked))
        ids = torch.full((len(asked), longest), end)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(asked):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        warm = requests[0].temperature
        how: dict[str, Any] = {"do_sample": warm > 0} | ({"temperature": warm} if warm > 0 else {})
        device = next(network.parameters()).device
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(requests[0].seed)
            made = network.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), pad_token_id=end,
                max_new_tokens=max(request.max_tokens for request in requests), **how,
            )[:, longest:].cpu()  # fmt: skip
        replies = []
        for request, tokens, row in zip(requests, asked, made.tolist(), strict=True):
            told = row[: row.index(end)] if end in row else row
            is_cut = end not in row or len(told) > request.max_tokens
            told = told[: request.max_tokens]
            text = tokenizer.decode(told, skip_special_tokens=True).strip()
            out = len(told)
            replies.append(
                Reply(text, len(tokens), out, "length" if is_cut else "stop", cached=False, size=out)
            )
        return replies


def opened(source: str, threads: int = 1) -> tuple[Any, Any]:
    """Tokenizer and network of a folder or of `owner/model@commit`; on a GPU as bf16, on a processor as fp32.

    Only safetensors are read and no code of the model is run.

    Raises:
        ModelRefused: it cannot be opened; says why.
    """
    name, revision = _parts(source)
    if revision is None:
        weights_of(Path(name))
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        network: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelRefused(f"The model {source} cannot be opened: {_first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise ModelRefused(
            f"The model {source} has no chat template: name one that was tuned to take instructions."
        )
    log.info("opened %s on %s", source, "a GPU" if on_gpu else f"{threads} thread(s)")
    if on_gpu:
        network.cuda()
    return tokenizer, network.eval()


def version_of(source: str) -> str:
    """What replies are stored by: the commit of a model of the hub, or a digest of a folder's weights and tokenizer.

    Raises:
        ModelRefused: a folder without safetensors, or a name of the hub without a commit.
    """
    name, revision = _parts(source)
    if revision is not None:
        return revision[:12]
    whole = hashlib.sha256()
    for file in (*weights_of(Path(name)), *sorted(Path(name).glob("*.json"))):
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:12]


def weights_of(folder: Path) -> list[Path]:
    """The files of weights in a folder.

    Raises:
        ModelRefused: there are none that are safe to open.
    """
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = [file.name for ending in ("bin", "pt", "pth", "pkl") for file in folder.glob(f"*.{ending}")]
        held = f"It holds {', '.join(sorted(pickled))}, which can run code when opened. " if pickled else ""
        raise ModelRefused(
            f"{folder} has no weights as safetensors. {held}Name a folder with config.json, a tokenizer and *.safetensors."
        )
    return found


def _parts(source: str) -> tuple[str, str | None]:
    """The folder and None, or a name of the hub and its commit."""
    if Path(source).expanduser().is_dir():
        return str(Path(source).expanduser()), None
    name, _, revision = source.partition("@")
    if not _COMMIT.fullmatch(revision):
        raise ModelRefused(
            f"{source!r} is no folder, and no `owner/model@commit` of the Hugging Face Hub with the commit's 40 digits: a "
            f"branch can become another model overnight."
        )
    return name, revision


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
