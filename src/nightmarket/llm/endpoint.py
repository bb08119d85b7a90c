"""A model behind an OpenAI-compatible endpoint (vLLM, llama.cpp's server, transformers serve, a provider).

Replies are streamed, so that a stall in the middle is seen, and kept only when they are whole. The official client does
one call at a time here; how often to ask again, how long, for how many tokens and how many at once is decided in this
file, because a night has one deadline and one budget for all its calls. Not here: the store (`replies`), what is asked.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from nightmarket import grammar
from nightmarket.errors import NightmarketError, SettingMissing
from nightmarket.llm.asked import CODE, TEXTS, Failure, Generator, Kind, Reply, Request, Spent, digest, flaw
from nightmarket.llm.prices import Prices
from nightmarket.llm.replies import ReplyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai import APIStatusError, AsyncOpenAI

log = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 30.0
BYTES_PER_TOKEN = 3
"""For calls that were cut before the endpoint told their tokens. English has some 4 bytes a token and Chinese 3 to 5, so
that the estimate errs towards spending less."""
PASSING = {408, 409, 429}
"""Statuses beside 5xx that another try may get past."""
SAYS_WHEN = {429, 503}
"""Statuses whose `Retry-After` is meant for us."""
THIS_REQUEST = {400, 413, 422}
"""Statuses that say that the request itself is wrong; others not named here say so of the endpoint, key or model."""
EVERY_REQUEST = {401, 403, 404}
"""Statuses that every further call would get too."""


class _Unanswered(NightmarketError):
    """A call had no whole reply, and another may have one; not before `after_s` if the endpoint said when."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


class _Malformed(NightmarketError):
    """A call had an answer that is not a reply."""


class _Refused(NightmarketError):
    """The endpoint will say the same again."""

    def __init__(self, what: str, kind: Literal["invalid", "unavailable"], for_all: bool) -> None:
        super().__init__(what)
        self.kind: Literal["invalid", "unavailable"] = kind
        self.for_all = for_all


class EndpointGenerator(Generator):
    """A model behind an OpenAI-compatible endpoint; deadline and budget count from when it was made.

    Past the deadline nothing is waited for and nothing begun. Once the budget of tokens or of money is spent no call begins;
    those that are open then are heard to their end, so that it can be exceeded by what `concurrency` calls cost. The budget of
    money is the night's: replies that an earlier try of it paid for count.
    """

    free = True
    writes = frozenset(TEXTS)

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: SecretStr | None = None,
        revision: str = "",
        store: Path | None = None,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        stall_s: float = 20.0,
        tries: int = 5,
        deadline_s: float = 1800.0,
        tokens_per_run: int = 200_000,
        prices: Prices | None = None,
        cost_per_night: Decimal | None = None,
        night: date | None = None,
        grammar_field: Literal["none", "llama.cpp", "vllm"] = "none",
        languages: frozenset[str] = frozenset({"en", "zh"}),
        insecure: bool = False,
        backoff_s: float = 0.5,
    ) -> None:
        """`settings.py` says what each means; `backoff_s` is the longest first wait between tries, and doubles.

        `revision` goes into what replies are stored by; `url` and `key` do not, so that an endpoint may move.

        Args:
            prices: what its tokens cost; None: nothing.
            cost_per_night: money after which no call begins; None: no limit.
            night: the day for which it is asked; None: tries are not added up.

        Raises:
            SettingMissing: the address or the key cannot be used; names the variable, never the key.
        """
        self.name = model
        self.version = f"{model}@{revision}" if revision else model
        self.languages = languages
        self.spent = Spent(prices=prices or Prices())
        self._loopback = _checked(url, insecure)
        self._url = url
        self._key = _usable(key)
        self._store = ReplyStore(store, night) if store else None
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._tries = tries
        self._deadline_s = deadline_s
        self._opened = time.monotonic()
        self._tokens_per_run = tokens_per_run
        self._cost_per_night = cost_per_night
        self._cost_before: Decimal | None = None  # of earlier tries of the night, once it is asked for
        self._told: set[str] = set()
        self._grammar_field = grammar_field
        self.keeps_grammars = grammar_field != "none"
        self._backoff_s = backoff_s
        # Of its own, so that waiting does not move the generators that decide a night's rows.
        self._random = random.Random()
        self._refusal = ""
        self._tls: ssl.SSLContext | None = None

    def attempt(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """A reply for each request, or why it has none, in order; several calls are open at once.

        Each reply is stored as soon as it is whole, whatever becomes of the others, and a request that occurs twice is
        paid for once. Connections live as long as this call, so hand over many requests rather than one at a time.
        """
        from anyio.from_thread import start_blocking_portal

        keys = [digest(self.version, request) for request in requests]
        outcomes: dict[str, Reply | Failure] = {}
        wanted: dict[str, tuple[int, Request]] = {}
        for number, (key, request) in enumerate(zip(keys, requests, strict=True)):
            stored = self._store.find(key) if self._store and key not in outcomes else None
            if stored:
                outcomes[key] = stored
            elif key not in outcomes:
                wanted.setdefault(key, (number, request))
        if wanted:
            if self._cost_before is None:
                paid = self._store.paid(self.name) if self._store else (0, 0)
                self._cost_before = self.spent.prices.cost(*paid)
            # The calls run in a thread of their own: a signal that ends this task (time-out, stop) reaches this thread
            # while it waits, and leaving the block ends the calls.
            with start_blocking_portal(name="llm-endpoint") as portal:
                outcomes |= portal.call(self._ask_all, wanted)
            log.info("%s: %s", self._whom(), self.spent)
        answers = []
        for key in keys:
            outcome = outcomes[key]
            if isinstance(outcome, Reply):
                if key in self._told:
                    outcome = replace(outcome, tokens_in=0, tokens_out=0, earlier=(0, 0), cached=True)
                self._told.add(key)
            answers.append(outcome)
        return answers

    def look(self, within_s: float = 3.0, *, batches: bool = False) -> tuple[bool, str]:
        """Whether the endpoint answers within so many seconds and knows the model (and has a batch API, where `batches` are
        wanted), and a sentence that says so.

        Asks for lists, which costs nothing. Raises nothing; the sentence never has the key.
        """
        from anyio.from_thread import start_blocking_portal

        with start_blocking_portal(name="llm-endpoint") as portal:
            return portal.call(self._look, within_s, batches)

    def close(self) -> None:
        """Nothing is held between calls; the generator can be used again, with the same deadline and budget."""

    async def _ask_all(self, wanted: Mapping[str, tuple[int, Request]]) -> dict[str, Reply | Failure]:
        import anyio

        outcomes: dict[str, Reply | Failure] = {}
        places = anyio.CapacityLimiter(self._concurrency)

        async def settle(client: AsyncOpenAI, key: str, number: int, request: Request) -> None:
            async with places:
                outcome = await self._settle(client, request, number)
            # Nothing waits between the last chunk and the store, so that what is whole is kept.
            if isinstance(outcome, Failure):
                self.spent.failures += 1
                log.warning("%s", outcome.reason)
            elif self._store:
                self._store.keep(key, self.name, outcome)
            outcomes[key] = outcome

        async with self._client() as client, anyio.create_task_group() as group:
            for key, (number, request) in wanted.items():
                group.start_soon(settle, client, key, number, request)
        return outcomes

    async def _settle(self, client: AsyncOpenAI, request: Request, number: int) -> Reply | Failure:
        """One request's reply, or why it has none, after all its tries."""
        import anyio

        def failed(kind: Kind, *why: str) -> Failure:
            told = "; ".join(filter(None, why))
            return Failure(f"{self._whom()} gave no reply to request {number}: {told}", kind)

        rules = grammar.parse(request.grammar) if request.grammar else None
        if request.grammar and rules is None and self._grammar_field == "none":
            return failed(
                "invalid",
                "its grammar can neither be sent (NIGHTMARKET_ENDPOINT_GRAMMAR=none) nor checked here",
            )
        before, unanswered, repaired = "", 0, False
        while True:
            if self._left() <= 0:
                return failed("deadline", before, f"the run's {self._deadline_s:g} s are over")
            if self.spent.tokens >= self._tokens_per_run:
                return failed(
                    "budget",
                    before,
                    f"{self.spent.tokens} of the run's {self._tokens_per_run} tokens are spent",
                )
            if poor := self._too_poor():
                return failed("cost", before, poor)
            if self._refusal:
                return failed("unavailable", self._refusal)
            self.spent.retries += bool(before)
            try:
                return await self._call(client, request, rules)
            except _Refused as error:
                if error.for_all:
                    self._refusal = str(error)
                return failed(error.kind, str(error))
            except _Malformed as error:
                before = str(error)
                if repaired:
                    return failed("invalid", f"{before}, and was asked twice")
                repaired = True
            except _Unanswered as error:
                before = str(error)
                unanswered += 1
                if self._left() <= 0:
                    continue
                if unanswered >= self._tries:
                    return failed("unavailable", f"{before}, and was asked {unanswered} times")
                wait = self._wait(unanswered, error.after_s)
                if wait >= self._left():
                    return failed(
                        "deadline",
                        before,
                        f"the next try in {wait:.0f} s is after the run's {self._deadline_s:g} s",
                    )
                await anyio.sleep(wait)

    async def _call(self, client: AsyncOpenAI, request: Request, rules: grammar.Rules | None) -> Reply:
        """One call: a whole and valid reply, or one of the three troubles; its tokens are booked either way."""
        import anyio
        import httpx2
        import openai

        self.spent.calls += 1
        limit = min(self._timeout_s, self._left())
        heard = _Heard()
        try:
            with anyio.fail_after(limit):
                await self._listen(client, request, heard)
        except TimeoutError as error:
            raise _Unanswered(f"it had no whole reply within {round(limit, 1):g} s") from error
        except openai.APIStatusError as error:
            raise self._judged(error) from error
        # The client lets the transport's own errors through while it reads the body of an error.
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            cause = error.__cause__ or error
            raise _Unanswered(f"the connection failed ({type(cause).__name__})") from error
        except openai.APIError as error:
            raise _Malformed(f"it sent an error instead of a reply{self._code(error)}") from error
        finally:
            tokens_in, tokens_out = heard.tokens(request)
            self.spent.tokens_in += tokens_in
            self.spent.tokens_out += tokens_out
        if why := flaw(heard.text, heard.finish, rules):
            raise _Malformed(why)
        finish: Literal["stop", "length"] = "length" if heard.finish == "length" else "stop"
        return Reply(heard.text, tokens_in, tokens_out, finish, cached=False, size=tokens_out)

    async def _listen(self, client: AsyncOpenAI, request: Request, heard: _Heard) -> None:
        import anyio

        messages: Any = [message._asdict() for message in request.messages]
        extra: dict[str, Any] = {}
        if request.grammar and self._grammar_field == "llama.cpp":
            extra = {"grammar": request.grammar}
        elif request.grammar and self._grammar_field == "vllm":
            extra = {"structured_outputs": {"grammar": request.grammar}}
        stream = await client.chat.completions.create(
            model=self.name,
            messages=messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra or None,
        )
        heard.began = True
        async with stream:
            while True:
                try:
                    # Before the first chunk a server may wait for a place or read the prompt: that is the call's time.
                    with anyio.fail_after(self._stall_s if heard.chunks else None):
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise _Unanswered(f"it said nothing for {self._stall_s:g} s inside a reply") from error
                except (ValueError, RecursionError) as error:
                    raise _Malformed("it sent something that is not JSON") from error
                heard.add(chunk)

    async def _look(self, within_s: float, batches: bool) -> tuple[bool, str]:
        import anyio
        import httpx2
        import openai

        try:
            with anyio.fail_after(within_s):
                async with self._client() as client:
                    if batches:
                        await client.batches.list(limit=1)
                    try:
                        listed = getattr(await client.models.list(), "data", None)
                    except (openai.InternalServerError, openai.APIConnectionError, httpx2.RequestError):
                        # `transformers serve` breaks off where the hub's cache, whose models it lists, is not there.
                        if not await self._is_well():
                            raise
                        return True, f"{self._whom()} is well, but does not list its models"
        except TimeoutError:
            return False, f"{self._whom()} does not answer within {within_s:g} s"
        except openai.APIStatusError as error:
            if batches and error.request.url.path.endswith("/batches"):
                return False, f"{self._whom()} has no batch API for this key (status {error.status_code})"
            # A server without a list of models answers 404 or 405, and answers.
            return error.status_code in (404, 405), f"{self._whom()} answers with status {error.status_code}"
        except (openai.OpenAIError, httpx2.RequestError, ValueError) as error:
            return False, f"{self._whom()} does not answer ({type(error.__cause__ or error).__name__})"
        known = {getattr(entry, "id", None) for entry in listed} if isinstance(listed, list) else set()
        if self.name in known:
            return True, f"{self._whom()} answers"
        return False, f"{self._whom()} answers, but does not list that model"

    async def _is_well(self) -> bool:
        """Whether the server's `/health`, where vLLM, llama.cpp's server and transformers serve have one, says so."""
        import httpx2

        parts = urlsplit(self._url)
        # Another connection than the one that failed, and no key: health is nobody's secret.
        try:
            async with httpx2.AsyncClient(trust_env=not self._loopback) as plain:
                return (await plain.get(f"{parts.scheme}://{parts.netloc}/health")).status_code == 200
        except httpx2.RequestError:
            return False

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncOpenAI]:
        import httpx2
        import openai

        if self._tls is None:
            # Certificates take 35 ms to read. Plain http looks at none, and a context without any trusts nobody.
            secure = urlsplit(self._url).scheme == "https"
            self._tls = httpx2.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A redirect would carry the texts to a host that nobody checked; a proxy has no business with this machine's own.
        transport = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, trust_env=not self._loopback, verify=self._tls
        )
        async with openai.AsyncOpenAI(
            # The client wants a key, and would look for OPENAI_API_KEY; servers that need none do not look at it.
            api_key=self._key.get_secret_value() if self._key else "none",
            base_url=self._url,
            timeout=self._timeout_s,
            max_retries=0,
            http_client=transport,
        ) as client:
            # From the environment; meant for another endpoint.
            client.organization = client.project = None
            yield client

    def _judged(self, error: APIStatusError) -> _Unanswered | _Refused:
        status = error.status_code
        what = f"status {status}{self._code(error)}"
        if status in PASSING or status >= 500:
            header = error.response.headers.get("retry-after") if status in SAYS_WHEN else None
            return _Unanswered(what, _seconds(header))
        return _Refused(what, "invalid" if status in THIS_REQUEST else "unavailable", status in EVERY_REQUEST)

    def _code(self, error: Any) -> str:
        """The endpoint's word for an error. Its message is left out: many repeat the prompt or the key in it."""
        key = self._key.get_secret_value() if self._key else None
        for word in (error.code, error.type):
            # llama.cpp repeats the status as code.
            if (
                isinstance(word, str)
                and CODE.fullmatch(word)
                and not word.isdigit()
                and not (key and key in word)
            ):
                return f" ({word})"
        return ""

    def _wait(self, failures: int, after_s: float | None) -> float:
        """Seconds until the next try: twice as long each time, by half a matter of chance; never before `after_s`."""
        longest = min(self._backoff_s * 2 ** (failures - 1), LONGEST_BACKOFF_S)
        if after_s is not None:
            return after_s + self._random.uniform(0, self._backoff_s)
        return self._random.uniform(longest / 2, longest)

    def _too_poor(self) -> str:
        """Why the night's money bears no further call; empty where it does."""
        if self._cost_per_night is None or self.spent.prices.are_none:
            return ""
        spent = (self._cost_before or Decimal(0)) + self.spent.cost
        if spent < self._cost_per_night:
            return ""
        told = self.spent.prices.told
        return f"{told(spent)} of the night's {told(self._cost_per_night)} are spent"

    def _left(self) -> float:
        return self._opened + self._deadline_s - time.monotonic()

    def _whom(self) -> str:
        parts = urlsplit(self._url)
        return f"{self.name} at {parts.scheme}://{parts.netloc}{parts.path}"


@dataclass
class _Heard:
    """What has come of a reply so far; worth nothing before its `finish`."""

    text: str = ""
    finish: str | None = None
    chunks: int = 0
    began: bool = False
    usage: tuple[int, int] | None = None

    def add(self, chunk: Any) -> None:
        """Take a chunk as the client read it, which does not check its form.

        Raises:
            _Malformed: it has not the form of a chunk.
        """
        self.chunks += 1
        usage = getattr(chunk, "usage", None)
        counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        if all(isinstance(count, int) and count >= 0 for count in counts):
            self.usage = counts  # type: ignore[assignment]
        choices = getattr(chunk, "choices", None)
        if not isinstance(choices, list):
            raise _Malformed("it sent a chunk without choices")
        for choice in choices[:1]:
            content = getattr(getattr(choice, "delta", None), "content", None)
            if not isinstance(content, str | None):
                raise _Malformed("it sent a chunk whose content is not text")
            self.text += content or ""
            self.finish = getattr(choice, "finish_reason", None) or self.finish

    def tokens(self, request: Request) -> tuple[int, int]:
        """Tokens in and out: the endpoint's count, an estimate where it gave none, 0 where it never began."""
        if self.usage:
            return self.usage
        if not self.began:
            return 0, 0
        return estimate(request, self.text)


def estimate(request: Request, text: str) -> tuple[int, int]:
    """Tokens in and out of a reply whose server did not count them."""
    prompt = sum(len(message.content.encode()) for message in request.messages)
    return math.ceil(prompt / BYTES_PER_TOKEN), math.ceil(
        len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN
    )


def _checked(url: str, insecure: bool) -> bool:
    """Whether `url` is on this machine.

    Raises:
        SettingMissing: it is no address, has a name or password in it, or is plain http to another machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise SettingMissing(
            "NIGHTMARKET_ENDPOINT_URL is not the address of an endpoint, such as https://models.example.com/v1."
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingMissing(
            "NIGHTMARKET_ENDPOINT_URL has a name, a password or a query in it, which logs would show. Put the key in "
            "NIGHTMARKET_ENDPOINT_KEY."
        )
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if parts.scheme == "http" and not loopback and not insecure:
        raise SettingMissing(
            f"NIGHTMARKET_ENDPOINT_URL is plain http to {host}: texts and key would travel unencrypted. Use https, or "
            f"set NIGHTMARKET_ENDPOINT_INSECURE=true where the network is yours."
        )
    return loopback


def _usable(key: SecretStr | None) -> SecretStr | None:
    """The key without blanks around it, or None where it is empty.

    Raises:
        SettingMissing: it cannot stand in a header; the transport's own error would show it.
    """
    value = key.get_secret_value().strip() if key else ""
    if not value:
        return None
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise SettingMissing("NIGHTMARKET_ENDPOINT_KEY has characters that no key has. Set it again.")
    return SecretStr(value)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a `Retry-After` header, given as a number or an HTTP date; None where it says neither."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(
            UTC
        ).timestamp()
    return max(0.0, seconds) if not math.isnan(seconds) else None
