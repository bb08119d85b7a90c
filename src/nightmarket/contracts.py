"""The tables that people and scripts outside rely on, as data: landing files and output tables.

Landing reads files by it, the warehouse makes tables by it, the documentation is generated from it. Not here: marts
(dbt's YAML holds those) and rules about values inside the warehouse (dbt tests).
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, WHOLE, FLOAT, MONEY, TIME, DATE, FLAG, JSON = (
    "VARCHAR", "BIGINT", "DOUBLE", "DECIMAL(18,4)", "TIMESTAMP", "DATE", "BOOLEAN", "JSON",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table: `kind` is one of the names above (JSON is stored as VARCHAR text)."""

    name: str
    kind: str
    required: bool = False
    accepted: tuple[str, ...] = ()
    references: str | None = None
    personal: bool = False
    about: str = ""

    @property
    def sql_type(self) -> str:
        return "VARCHAR" if self.kind == JSON else self.kind


@dataclass(frozen=True)
class LandingTable:
    """A table of the landing contract; `key` columns identify a row, a later row replaces an earlier one."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    required: bool = False

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


@dataclass(frozen=True)
class OutputTable:
    """A published table: `key` identifies a row within a day, `current_key` what `_current` shows the latest day of."""

    name: str
    key: tuple[str, ...]
    current_key: tuple[str, ...]
    columns: tuple[Column, ...]
    about: str = ""

    @property
    def qualified(self) -> str:
        return f"outputs.{self.name}"


def _c(name: str, kind: str = TEXT, about: str = "", **more: object) -> Column:
    return Column(name, kind, about=about, **more)  # type: ignore[arg-type]


def _id(name: str, references: str | None = None) -> Column:
    return Column(name, TEXT, required=True, references=references)


EVENT_TYPES = (
    "product_viewed", "cart_updated", "checkout_started", "search_performed", "recommendation_shown",
    "recommendation_clicked", "message_sent", "message_opened", "message_clicked",
)  # fmt: skip
PURPOSES = ("marketing", "profiling", "training", "service")
PLACEMENTS = ("home", "email", "product_page")
RULE_ACTIONS = ("filter", "boost", "bury", "pin", "promote", "cap", "frequency_cap")

_LANDING = (
    LandingTable("products", ("product_id",), (
        _id("product_id"), _c("title", required=True), _c("description"), _c("brand"), _c("category"),
        _c("price", MONEY), _c("attributes", JSON), _c("stock", WHOLE),
        _c("status", accepted=("active", "draft", "archived")), _c("locale"), _c("created_at", TIME),
        _c("updated_at", TIME),
    ), required=True),
    LandingTable("customers", ("customer_id",), (
        _id("customer_id"), _c("created_at", TIME), _c("locale"), _c("country"), _c("email", personal=True),
        _c("name", personal=True), _c("phone", personal=True), _c("attributes", JSON, personal=True),
    )),
    LandingTable("orders", ("order_id",), (
        _id("order_id"), _id("customer_id", "customers"), _c("ordered_at", TIME, required=True),
        _c("status", accepted=("placed", "cancelled", "refunded")), _c("channel"), _c("discount", MONEY),
    ), required=True),
    LandingTable("order_items", ("order_id", "line"), (
        _id("order_id", "orders"), _c("line", WHOLE, required=True), _id("product_id", "products"),
        _c("quantity", WHOLE, required=True), _c("unit_price", MONEY), _c("discount", MONEY),
        _c("refunded_quantity", WHOLE),
    ), required=True),
    LandingTable("events", ("event_id",), (
        _id("event_id"), _id("customer_id", "customers"), _c("session_id"),
        _c("event_type", required=True, accepted=EVENT_TYPES), _c("product_id", references="products"),
        _c("occurred_at", TIME, required=True), _c("properties", JSON),
    )),
    LandingTable("reviews", ("review_id",), (
        _id("review_id"), _c("customer_id", references="customers"), _id("product_id", "products"),
        _c("rating", FLOAT), _c("title", personal=True), _c("body", required=True, personal=True), _c("locale"),
        _c("created_at", TIME, required=True),
    )),
    LandingTable("tickets", ("ticket_id",), (
        _id("ticket_id"), _c("customer_id", references="customers"), _c("channel"), _c("subject", personal=True),
        _c("body", required=True, personal=True), _c("order_id", references="orders"),
        _c("product_id", references="products"), _c("locale"), _c("opened_at", TIME, required=True),
        _c("closed_at", TIME), _c("satisfaction", FLOAT),
    )),
    LandingTable("ticket_messages", ("message_id",), (
        _id("message_id"), _id("ticket_id", "tickets"),
        _c("author", required=True, accepted=("customer", "agent", "bot")), _c("body", required=True, personal=True),
        _c("sent_at", TIME, required=True),
    )),
    LandingTable("articles", ("article_id",), (
        _id("article_id"), _c("title", required=True), _c("body", required=True), _c("locale"),
        _c("updated_at", TIME, required=True),
    )),
    LandingTable("consents", ("customer_id", "purpose", "effective_at"), (
        _id("customer_id", "customers"), _c("purpose", required=True, accepted=PURPOSES),
        _c("state", required=True, accepted=("granted", "refused")), _c("effective_at", TIME, required=True),
        _c("source"),
    )),
    LandingTable("experiments", ("experiment_id", "customer_id"), (
        _id("experiment_id"), _id("customer_id", "customers"), _c("variant", required=True),
        _c("exposed_at", TIME, required=True),
    )),
    LandingTable("privacy_requests", ("request_id",), (
        _id("request_id"), _id("customer_id", "customers"), _c("kind", required=True, accepted=("erase", "access")),
        _c("requested_at", TIME, required=True),
    )),
    LandingTable("recommendation_rules", ("rule_id",), (
        _id("rule_id"), _c("action", required=True, accepted=RULE_ACTIONS),
        _c("placement", about="Where it holds; everywhere when empty", accepted=PLACEMENTS),
        _c("product_id", about="One product; it may come later than the rule."), _c("brand"),
        _c("category", about="A path of the shelves, and all below it: `Kitchen > Coffee`."),
        _c("attribute", about="A fact of the product and its value: `Colour=blue`."),
        _c("value", FLOAT, "Boost, bury: factor. Pin: place. Promote: share. Cap, frequency_cap: most of them."),
        _c("per", about="Cap: of each brand or each category", accepted=("brand", "category")),
        _c("within_days", WHOLE, "Frequency_cap: days back in which showings count, 28 at most."),
        _c("owner", about="Who answers for the rule.", required=True), _c("reason"),
        _c("starts_on", TIME, "First day it holds; already when empty."),
        _c("ends_on", TIME, "Last day it holds; without end when empty."),
        _c("priority", WHOLE, "Of two rules that want one slot the higher one wins; 0 when empty."),
    )),
)  # fmt: skip
LANDING: dict[str, LandingTable] = {table.name: table for table in _LANDING}

# Every output row says where it came from.
PROVENANCE = (
    _c(
        "day",
        DATE,
        "The night that made the row; a row holds until a later day has the same key.",
        required=True,
    ),
    _c("run_id", TEXT, "The run that made the row; see ops.runs.", required=True),
    _c(
        "model_name",
        TEXT,
        "What decided the row: a registered model, a rule set, or a template.",
        required=True,
    ),
    _c("model_version", TEXT, "Version of that model.", required=True),
    _c("created_at", TIME, "When the row was made (UTC).", required=True),
)
UNHASHED = ("run_id", "created_at")
_INPUT_HASH = _c(
    "input_hash", TEXT, "Digest of everything the row was made from; unchanged inputs keep the row."
)

_OUTPUTS = (
    OutputTable("customer_profiles", ("customer_id",), ("customer_id",), (
        _id("customer_id"),
        _c("first_order_at", TIME), _c("last_order_at", TIME),
        _c("rfm_recency_days", WHOLE, "Days from the last order to `day`."),
        _c("rfm_frequency", WHOLE, "Orders so far."), _c("rfm_monetary", MONEY, "Net revenue so far; null without prices."),
        _c("rfm_segment"), _c("historic_clv", MONEY), _c("predicted_clv", MONEY), _c("predicted_clv_p10", MONEY),
        _c("predicted_clv_p90", MONEY), _c("predicted_number_of_orders", FLOAT), _c("churn_probability", FLOAT),
        _c("churn_band"), _c("expected_date_of_next_order", DATE), _c("average_order_value", MONEY),
        _c("average_days_between_orders", FLOAT), _c("preferred_categories", JSON), _c("preferred_brands", JSON),
        _c("price_tier"), _c("discount_affinity", FLOAT), _c("preferred_send_hour", WHOLE, "0 to 23, in the shop's zone."),
        _c("review_sentiment", FLOAT), _c("lifecycle_stage"),
        _c("summary", about="A template's sentence, or a writer's that says the same facts: `model_name` is then `rfm+<writer>`."),
        _c("ineligible_reason", TEXT, "Why a value is missing: too little evidence is a null, not a number."),
        _INPUT_HASH,
    ), "One profile a customer: recency, frequency, value, cadence, preferences, and a sentence made of those facts."),
    OutputTable("customer_interests", ("customer_id", "interest"), ("customer_id",), (
        _id("customer_id"), _c("interest", required=True), _c("weight", FLOAT), _c("rank", WHOLE),
        _c("share_purchase", FLOAT), _c("share_browse", FLOAT), _c("share_review", FLOAT),
        _c("evidence", JSON, "Ids of the products that show the interest."), _c("last_seen_at", TIME), _INPUT_HASH,
    ), "What a customer is interested in, with the evidence."),
    OutputTable("recommendations", ("customer_id", "placement", "rank"), ("customer_id",), (
        _id("customer_id"), _c("placement", required=True), _c("rank", WHOLE, required=True), _id("product_id"),
        _c("score", FLOAT, "What the candidate's source said: scales of different sources do not compare."),
        _c("candidate_source", TEXT, "Kind of the ranker, `popularity`, `new_product`, or `rule:<id>`."),
        _c("rank_before_rules", WHOLE, "Place among the candidates; null: a rule put it there."),
        _c("rules_applied", JSON, "Ids of the rules that touched the slot."),
        _c("propensity", FLOAT, "Chance of this product in this slot under the serving policy."),
        _c("is_exploration", FLAG, "Drawn by chance in place of the regular product."), _c("is_personalised", FLAG),
        _c("fallback_reason", TEXT, "Why the slot is not from the customer's own purchases."),
        _c("reason_code", TEXT, "Because you: `because_you_bought`, `for_you`. Because we: `because_we_promote`, "
           "`because_we_explore`, `popular`."),
        _c("reason_text", TEXT, "The reason as a sentence in the customer's language."),
        _c("because_product_ids", JSON, "Purchases without which the score would be lower, the strongest first."),
        _INPUT_HASH,
    ), "Ranked products for every customer and placement (`home`, `email`), with the purchases that caused them. All "
       "placements of a customer are made together."),
    OutputTable("similar_products", ("product_id", "reason_code", "rank"), ("product_id",), (
        _id("product_id"), _c("rank", WHOLE, required=True), _id("similar_product_id"), _c("score", FLOAT),
        _c("reason_code", TEXT, "Which of the two lists: `bought_together` or `similar_text`."),
        _c("rank_before_rules", WHOLE, "Place before any rule; null: a rule put it there."),
        _c("rules_applied", JSON, "Ids of the rules that touched the slot."), _INPUT_HASH,
    ), "Two lists for a product's page: what is bought together with it, and what is alike by its text."),
    OutputTable("default_recommendations", ("placement", "rank"), ("placement",), (
        _c("placement", required=True), _c("rank", WHOLE, required=True), _id("product_id"), _c("score", FLOAT),
        _c("candidate_source"), _c("rank_before_rules", WHOLE), _c("rules_applied", JSON), _c("propensity", FLOAT),
        _c("reason_code"), _INPUT_HASH,
    ), "What each placement shows when nobody's traits are looked at: for who refused profiling, and to compare with."),
    OutputTable("recommendation_lift", ("placement",), ("placement",), (
        _c("placement", required=True), _c("lists_from", DATE, "Day of the oldest list that was held against a purchase."),
        _c("customers", WHOLE, "Customers with a personal list who bought a product for the first time since the night before."),
        _c("own_hit_rate", FLOAT, "Share of them whose own list held such a purchase."),
        _c("default_hit_rate", FLOAT, "Share of them whose placement's twin did."),
        _c("lift", FLOAT, "Difference of the two shares."),
        _c("lift_low", FLOAT, "Lower bound of its paired 95 % interval."), _c("lift_high", FLOAT, "Upper bound."), _INPUT_HASH,
    ), "What personal lists bring over their twin, measured by purchases made after both were published."),
    OutputTable("product_copy", ("product_id", "channel", "locale", "version"), ("product_id", "channel", "locale"), (
        _id("product_id"), _c("channel", required=True), _c("locale", required=True), _c("version", WHOLE, required=True),
        _c("title"), _c("description"), _c("bullets", JSON), _c("meta_description"),
        _c("status", accepted=("blocked", "pending", "approved", "published", "retired"), about=(
            "Readers see `approved` and `published`, of which a text has one at most. A `pending` version waits for a person; "
            "what is shown until then stands beside it")),
        _c("change_cause"),
        _c("policy_version", about="Digest of what is banned everywhere and of the rules of the text's own policy pack."),
        _c("free_sentences", WHOLE, about="Sentences of the description in the writer's own words."),
        _c("repaired_sentences", WHOLE, about="Its other sentences: house phrasings."),
        _c("is_ai_written", FLAG, about="Whether a model wrote the description or chose among house phrasings; not where the "
           "template stands, or a person's words."),
        _c("ai_label", about="Words that whoever shows the text puts beside it, as its policy pack says; null: none."),
        _c("ai_metadata", FLAG, about="Whether the metadata of what shows the text have to say that AI wrote it."),
        _c("reviewer", about="Who decided that the version stands."), _c("reviewed_at", TIME), _c("supersedes", WHOLE), _c("input_hash"),
        _c("prompt_version", about="Digest of how the text is asked for and read: templates, house phrasings, fields, recipe; behind `+` that of the shop's voice, where it has one."),
    ), "Shop copy of a product, every claim of it supported by the product's own facts."),
    OutputTable("copy_claims", ("product_id", "channel", "locale", "version", "claim_number"),
        ("product_id", "channel", "locale"), (
        _id("product_id"), _c("channel", required=True), _c("locale", required=True), _c("version", WHOLE, required=True),
        _c("claim_number", WHOLE, required=True), _c("sentence"), _c("claim"), _c("attribute"), _c("value"),
        _c("evidence"), _c("verdict", accepted=("supported", "unsupported", "misbound", "banned")),
        _c("origin", accepted=("free", "repaired", "template", "facts", "edited"), about=(
            "Where the sentence came from: the writer's own words, a house phrasing that it chose or that was added for a fact "
            "it left out, a house phrasing without a writer, a line of the fact sheet, a person's words. Null: it was removed.")),
        _c("input_hash"), _c("prompt_version"),
    ), "Every claim of a copy version with the fact that supports it."),
)  # fmt: skip
OUTPUTS: dict[str, OutputTable] = {table.name: table for table in _OUTPUTS}


def output_columns(table: str) -> tuple[Column, ...]:
    """All columns of a published table in order: its own, then where the row came from."""
    return OUTPUTS[table].columns + PROVENANCE
