"""A text of a product: sentences that may go out, each with its claims and where it came from, fitted into its pack.

Here: judging sentences, and composing those that are kept into the fields of a channel. Not here: who wrote them
(`asking`, `freely`) and the rows of the published tables (`product_copy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nightmarket import guard
from nightmarket.guard.claims import OWN, Verdict
from nightmarket.guard.packs import ANY_FIELD
from nightmarket.guard.policy import language
from nightmarket.products.product_copy import policies
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.titles import without_loose_end

Origin = Literal["free", "repaired", "template", "facts", "edited"]
# The two fields that a channel's title and description are, in the columns of outputs.product_copy.
CHANNEL_FIELDS = {
    "shop_page": ("title", "description"),
    "email": ("subject", "body"),
    "push": ("headline", "line"),
    "search_ad": ("headline", "line"),
}
# Where a description is lines that stand each by itself: how many.
MOST_LINES = {"search_ad": 2}
# A writer that raves is not recorded in full: faults of one sentence, and of all that a writer said of a product.
MOST_FAULTS, MOST_REMOVED = 3, 20


@dataclass(frozen=True)
class Sentence:
    """A sentence that may go out.

    Attributes:
        claims: what it says, each with its evidence.
        origin: `free` (the writer's own words), `repaired` (a house phrasing that the writer chose, or that was added for
            a fact it left out), `template` (a house phrasing without a writer), `facts` (a line of the fact sheet) or
            `edited` (a person's words).
    """

    text: str
    claims: tuple[guard.Claim, ...]
    origin: Origin

    @property
    def told(self) -> frozenset[str]:
        """The attributes that it tells."""
        return frozenset(claim.attribute for claim in self.claims if claim.attribute)


@dataclass(frozen=True)
class Text:
    """What was written of a sheet for a channel, before it becomes rows.

    Attributes:
        sheet, pack: what could be said and what might: the sheet is held against the pack.
        body: sentences of the description (lines of an ad).
        lines: bullets.
        headline: the title where a writer wrote it, else empty: it is the catalogue's own name.
        meta: sentences of the meta description where a writer wrote it, else empty: it is the first of the description.
        removed: what must not go out, of the product's own data and of what a writer said.
        blocked: why there is nothing to show, or empty.
        is_ai_written: whether a model wrote or chose its sentences.
        size, tonight: of its replies, as `llm.Reply` has them.
    """

    sheet: Sheet
    pack: guard.Pack
    title: str
    body: tuple[Sentence, ...]
    lines: tuple[Sentence, ...]
    meta_description: str
    removed: tuple[Removed, ...]
    blocked: str
    model_name: str = ""
    model_version: str = ""
    is_ai_written: bool = False
    headline: tuple[Sentence, ...] = ()
    meta: tuple[Sentence, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    size: int = 0
    tonight: tuple[int, int] = (0, 0)

    @property
    def description(self) -> str:
        return joined([s.text for s in self.body], self.pack)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(sentence.text for sentence in self.body)

    @property
    def bullets(self) -> tuple[str, ...]:
        return tuple(line.text for line in self.lines)

    @property
    def free(self) -> int:
        return sum(sentence.origin == "free" for sentence in self.body)

    @property
    def repaired(self) -> int:
        return len(self.body) - self.free

    @property
    def judged(self) -> tuple[tuple[guard.Claim, Origin | None], ...]:
        """Every claim with the origin of its sentence: of what is published, then (without one) of what was removed."""
        told = dict.fromkeys(self.sentences)
        beside = {s.text: s for s in (*self.lines, *self.headline, *self.meta)}
        shown = [*self.body, *(sentence for text, sentence in beside.items() if text not in told)]
        out: list[tuple[guard.Claim, Origin | None]] = [(c, s.origin) for s in shown for c in s.claims]
        for lost in dict.fromkeys(self.removed):
            claim = f"{lost.attribute}: {lost.value}"
            out.append((guard.Claim("", claim, lost.attribute, lost.value, lost.reason, lost.verdict), None))
        return tuple(out)

    @property
    def claims(self) -> tuple[guard.Claim, ...]:
        return tuple(claim for claim, _ in self.judged)


def joined(texts: Sequence[str], pack: guard.Pack) -> str:
    """Sentences as one text, or the lines of an ad."""
    joint = "\n" if pack.channel in MOST_LINES else "" if language(pack.locale) == "zh" else " "
    return joint.join(text for text in texts if text)


def judge(
    told: Iterable[str], sheet: Sheet, pack: guard.Pack, removed: list[Removed], *, origin: Origin, field: str = ""
) -> list[Sentence]:  # fmt: skip
    """The sentences that may go out with their claims; of the others, what was wrong goes into `removed`."""
    kept: list[Sentence] = []
    field = field or CHANNEL_FIELDS[pack.channel][1]
    for text in told:
        if any(text == other.text for other in kept):
            continue
        claims = guard.claims(text, sheet.evidence, sheet.locale)
        wrong = [claim for claim in claims if claim.verdict != "supported"]
        if wrong:
            removed += [gone(text, claim.claim, claim.verdict) for claim in wrong[:MOST_FAULTS]]
        elif found := policies.breaches(field, text, sheet, pack):
            removed += [_of(breach, text) for breach in found[:MOST_FAULTS]]
        else:
            kept.append(Sentence(text, tuple(claims), origin))
    return kept


def gone(text: str, why: str, verdict: Verdict) -> Removed:
    """A sentence that went, for the record that people read: personal data that a writer made up does not enter it."""
    return Removed("sentence", guard.scrub(why)[:200], f"in: {guard.scrub(text)}"[:200], verdict)


def _of(breach: guard.Breach, text: str) -> Removed:
    kind = breach.detail if breach.kind == "banned" else breach.kind
    is_harmless = breach.kind in ("length", "count", "characters")
    return gone(text, f"{kind}: {breach.text}", "unsupported" if is_harmless else "banned")


def compose(
    sheet: Sheet, pack: guard.Pack, kept: Sequence[Sentence], bullets: Sequence[Sentence], removed: Sequence[Removed],
    *, headline: Sequence[Sentence] = (), meta: Sequence[Sentence] = (),
) -> Text:  # fmt: skip
    """A text of a channel from judged sentences: as much as fits, and what the pack requires in front.

    Where no title or no sentence is left, or the whole still breaks the pack, the text is blocked and says why.

    Args:
        headline, meta: a title and a meta description that a writer wrote; what the pack requires is put before that title too,
            and where it has no room for both, the catalogue's own name stands.
    """
    title_field, body_field = CHANNEL_FIELDS[pack.channel]
    shown = sheet.title if pack.channel == policies.SHOP_PAGE else sheet.name or sheet.title
    title = _title(shown, title_field, pack)
    written = _title(headline[0].text, title_field, pack) if headline else ""
    if headline and written.endswith(headline[0].text):
        title = written
    else:
        headline = ()
    lines = _lines(bullets, pack) if pack.channel == policies.SHOP_PAGE else ()
    front = _required(pack, body_field, [s.text for s in kept], [title, *(line.text for line in lines)])
    body = _fitting([*front, *kept], pack)
    said = [entry for entry in dict.fromkeys(removed) if entry.attribute == "sentence"][:MOST_REMOVED]
    recorded = [entry for entry in dict.fromkeys(removed) if entry.attribute != "sentence" or entry in said]
    text = Text(
        sheet, pack, title, body, lines, "", tuple(recorded), "", headline=tuple(headline), meta=tuple(meta)
    )
    text = replace(text, meta_description=_meta(text))
    return replace(text, blocked=_blocked(text))


def retold(text: Text, sheet: Sheet, pack: guard.Pack) -> Text:
    """The text of a shop page on another channel, from the same sentences: what its pack allows and has room for.

    `sheet` is the product's own, not yet held against a pack. In a push message or an ad, which name the product above,
    sentences that only name it are left out, and where none is left lines of the fact sheet stand.
    """
    held = policies.hold(sheet, pack)
    found: list[Removed] = []

    def allowed(wanted: Iterable[Sentence]) -> list[Sentence]:
        return [s for w in wanted for s in judge([w.text], held, pack, found, origin=w.origin)]

    kept = allowed(s for s in text.body if pack.channel == "email" or s.told - set(OWN))
    room = MOST_LINES.get(pack.channel, 1) - len(kept)
    if pack.channel != "email" and room > 0:
        told = frozenset().union(*(s.told for s in kept))
        kept += allowed(line for line in text.lines if not line.told <= told)[:room]
    # That a sentence is too long for another channel is no fault of it.
    removed = [*held.removed, *(gone for gone in found if gone.verdict == "banned")]
    made = compose(held, pack, kept, (), removed)
    return replace(made, model_name=text.model_name, model_version=text.model_version)


def reordered(text: Text, order: Sequence[Sentence]) -> Text:
    """The same sentences in another order."""
    text = replace(text, body=tuple(order))
    return replace(text, meta_description=_meta(text))


def fields(text: Text) -> dict[str, str]:
    """A text by the fields of its channel, as a pack judges it."""
    title_field, body_field = CHANNEL_FIELDS[text.pack.channel]
    told = {title_field: text.title, body_field: text.description}
    if text.lines:
        told["bullets"] = "\n".join(text.bullets)
    if text.meta_description:
        told["meta_description"] = text.meta_description
    return told


def faults(told: dict[str, str], sheet: Sheet, pack: guard.Pack) -> list[guard.Breach]:
    """What whole fields break."""
    return [breach for breach in policies.check(told, sheet, pack) if not is_of_name(breach, pack.channel)]


def is_of_name(breach: guard.Breach, channel: str) -> bool:
    """Whether a breach is no fault of a text: what policy.toml and the voice find in a title is the catalogue's own name,
    cleaned before."""
    return breach.field == CHANNEL_FIELDS[channel][0] and breach.kind in ("banned", "avoided")


def _title(title: str, field: str, pack: guard.Pack) -> str:
    colon = "：" if language(pack.locale) == "zh" else ": "
    front = [phrase for phrase, where in pack.required.items() if where == field and phrase not in title]
    whole = colon.join([*front, title]) if title else ""
    told = guard.fit(field, [whole], pack)
    return told if told == whole else without_loose_end(told)


def _lines(bullets: Sequence[Sentence], pack: guard.Pack) -> tuple[Sentence, ...]:
    wanted = [*_required(pack, "bullets", [s.text for s in bullets]), *bullets]
    fitting = guard.fit("bullets", [line.text for line in wanted], pack).split("\n")
    by_text = {line.text: line for line in wanted}
    return tuple(by_text[text] for text in fitting if text)


def _required(
    pack: guard.Pack, field: str, told: Sequence[str], beside: Sequence[str] = ()
) -> list[Sentence]:
    """Sentences of what a pack requires in a field, where neither it nor, for `any`, what stands beside it says so."""
    stop = "。" if language(pack.locale) == "zh" else "."
    made = []
    for phrase, where in pack.required.items():
        if where not in ((field,) if field == "bullets" else (field, ANY_FIELD)):
            continue
        if not any(phrase in text for text in (told if where == field else [*told, *beside])):
            sentence = phrase if field == "bullets" or phrase[-1] in ".!?。！？" else f"{phrase}{stop}"
            claim = guard.Claim(
                sentence, f"required: {phrase}", None, phrase, f"policy pack for {pack.channel}", "supported"
            )
            made.append(Sentence(sentence, (claim,), "template"))
    return made


def _fitting(kept: Sequence[Sentence], pack: guard.Pack) -> tuple[Sentence, ...]:
    """As many whole sentences from the first on as the description holds, or as many lines as an ad shows."""
    field = CHANNEL_FIELDS[pack.channel][1]
    if pack.channel in MOST_LINES:
        return tuple(kept[: MOST_LINES[pack.channel]])
    told = guard.fit(field, [sentence.text for sentence in kept], pack)
    for number in range(len(kept), 0, -1):
        if joined([sentence.text for sentence in kept[:number]], pack) == told:
            return tuple(kept[:number])
    return ()


def _meta(text: Text) -> str:
    """What search engines show; empty where a cut goes through a name that was whole in its sentence."""
    if text.pack.channel != policies.SHOP_PAGE:
        return ""
    if text.meta:
        return joined([sentence.text for sentence in text.meta], text.pack)
    told = guard.fit("meta_description", text.sentences, text.pack)
    return "" if policies.breaches("meta_description", told, text.sheet, text.pack) else told


def _blocked(text: Text) -> str:
    banned = [gone for gone in text.removed if gone.verdict == "banned"]
    if not text.title and text.sheet.title:
        field = CHANNEL_FIELDS[text.pack.channel][0]
        return f"`{text.sheet.title[:40]}`: no word of it fits into {text.pack.limits.get(field)} characters"
    if not text.title or not text.body:
        of_title = [gone for gone in banned if gone.attribute == "title"]
        said = (of_title if not text.title and of_title else banned)[-1:] or text.removed[-1:]
        return f"`{said[0].value}`: {said[0].reason}" if said else "nothing is known that may be said"
    if found := faults(fields(text), text.sheet, text.pack):
        return policies.said(found[0])
    return ""
