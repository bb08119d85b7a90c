"""What can be set from outside, read once, typed and frozen.

This is the only reader of the environment and of `.env` in the current folder: every variable begins with `NIGHTMARKET_`
and stands in `.env.example`.
Not here: model and prompt choices (the registry's alias and versioned files) and rules of the shop (`shop.toml`).
"""

from __future__ import annotations

import hashlib
import os
import re
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from nightmarket.errors import SettingMissing

ROOT = Path(__file__).resolve().parents[2]
GENERATED_SHOPS = ("demo", "completejourney")
_OrNone = BeforeValidator(lambda value: None if value == "" else value)


class Settings(BaseSettings):
    """All settings of one process. Defaults run on a laptop."""

    model_config = SettingsConfigDict(env_prefix="NIGHTMARKET_", frozen=True, extra="ignore", env_file=".env")

    home: Path = Field(Path("var"), description="Where all state lives; relative to the current folder.")
    shop: str = Field("demo", description="`demo`, `completejourney`, or the path of a landing folder.")
    project: Path = Field(ROOT, description="The checkout: where dags/, dbt/ and plugins/ stand.")
    seed: int = Field(7, description="Seed of everything random.")
    threads: int = Field(1, ge=1, description="Threads a task may use; tasks run side by side.")

    quarantine_limit: float = Field(
        0.01, ge=0, le=1, description="Share of bad rows at which a file is refused."
    )
    warehouse_wait_s: float = Field(120.0, ge=0, description="Seconds to wait for another writer.")
    warehouse_memory: str = Field("4GB", description="Memory that DuckDB may use before it spills to disk.")
    keep_days: int = Field(14, ge=2, description="Days of extracts and scratch kept in the lake.")

    retrain_after_days: int = Field(7, ge=1, description="A champion older than this is trained again.")
    retrain_share: float = Field(
        0.02, ge=0, description="Share of new purchases that calls for training again."
    )
    ease_max_items: int = Field(
        8000, ge=10, description="Most bought products in EASE's dense inverse (n² memory)."
    )
    ranker_max_mb: float = Field(
        2048.0, gt=0, description="A ranker with larger arrays is refused by the gate."
    )
    ranker_max_ms_per_customer: float = Field(
        20.0, gt=0, description="A ranker that takes longer to make one list is refused by the gate."
    )
    compute_engine: Literal["local", "ray"] = Field(
        "local", description="Where partitions of customers are scored: `local` (this process) or `ray`."
    )
    partition_customers: int = Field(4096, ge=1, description="Most customers scored at once; bounds memory.")
    recommendations_per_customer: int = Field(20, ge=1, le=200, description="Length of a customer's list.")
    similar_per_product: int = Field(10, ge=1, le=200, description="Length of a product's list.")
    lists_expire_after_days: int = Field(
        14, ge=1, description="A list made so many days ago is made anew, whatever changed."
    )
    exploration_share: float = Field(
        0.05, ge=0, le=1, description="Chance that a free slot of a personal list tries another product."
    )
    texts_embedded_per_night: int = Field(
        6_000, ge=0, description="New product texts that may be embedded in a night, most bought first."
    )

    encoder_steps: int = Field(
        6, ge=1, description="Steps of each objective when the encoder is tuned (some 0.8 s each)."
    )
    encoder_trial_products: int = Field(
        256, ge=50, description="Products that the trial of a tuned encoder ranks at most."
    )

    writer_steps: int = Field(
        72,
        ge=1,
        description="Steps of tuning the writer on pairs of facts and text (10 to 15 s each on two cores).",
    )
    writer_pretrain_steps: int = Field(
        6, ge=0, description="Steps of reading the shop's texts on before that (some 8 s each)."
    )
    writer_parts: int = Field(1, ge=1, description="Micro-batches of 8 pairs whose gradients make one step.")
    writer_method: Literal["lora", "full"] = Field(
        "lora",
        description="What of the writer learns: `lora` (adapters, 20 MB a version) or `full` (all its weights, 270 MB).",
    )
    writer_processes: int = Field(
        1, ge=1, description="Processes that share the micro-batches of a step; at most as many as there are."
    )
    writer_preferences: int = Field(
        32, ge=1, description="Edits of copy by people from which on the writer is tuned on them too."
    )
    writer_trial_products: int = Field(
        24, ge=1, description="Held-out products that the trial of a tuned writer writes about at most."
    )
    writer_schedule: str = Field(
        "0 6 * * 0",
        description="Cron (UTC) of finetune_writer, once it is unpaused; empty: only when asked.",
    )

    copy_products_per_night: int = Field(
        60, ge=0, description="Products whose copy may be written in a night."
    )
    copy_tokens_per_night: int = Field(20_000, ge=0, description="Tokens the writer may produce in a night.")
    copy_cost_per_night: Annotated[Decimal | None, _OrNone] = Field(
        None,
        ge=0,
        description="Money that the copy of a night may cost, at the prices of the endpoint; empty: no limit.",
    )
    copy_fields: str = Field(
        "description,meta_description",
        pattern=r"^ *(description|title|bullets|meta_description)( *, *(description|title|bullets|meta_description))* *$",
        description="What of a page a free writer writes itself, with commas: description, title, bullets, meta_description.",
    )
    copy_review_share: float = Field(
        0.05, ge=0, le=1, description="Share of published copy that people are asked to look at."
    )
    copy_review_days: int = Field(
        3, ge=1, description="Days after which copy that waits for a person is rejected."
    )
    copy_questions_per_night: int = Field(
        60,
        ge=0,
        description="Texts that review_copy asks people about at a time; the rest waits for the next.",
    )

    summaries_per_night: int = Field(
        0,
        ge=0,
        description="Customers whose summary a free writer may write in a night, of those who are made anew.",
    )

    bake_off_pairs: int = Field(
        256, ge=0, description="Most pairs that a bake-off tunes a candidate on, of 16, 64, 256 and 1024."
    )

    generator: Literal["local", "network", "endpoint", "batch"] = Field(
        "local",
        description="Who writes: `local` (the packaged weights, in this process), `network` (another model, here, on a GPU "
        "where there is one), `endpoint` (a server) or `batch` (a provider's batch API).",
    )
    generator_model: str | None = Field(
        None,
        description="Of `network`: a folder of safetensors, or owner/model@commit of the Hugging Face Hub.",
    )
    generator_languages: str = Field("en", description="Languages that this model writes, with commas.")
    endpoint_url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible endpoint, such as https://models.example.com/v1."
    )
    endpoint_model: str | None = Field(None, description="The model's name at the endpoint.")
    endpoint_key: SecretStr | None = Field(
        None, description="Key of the endpoint, if it wants one; never shown or stored."
    )
    endpoint_revision: str = Field(
        "",
        description="Change it when the endpoint serves other weights by the same name: nothing is reused.",
    )
    endpoint_concurrency: int = Field(4, ge=1, description="Most calls of a process that are open at once.")
    endpoint_timeout_s: float = Field(60.0, gt=0, description="Seconds that one call may take in all.")
    endpoint_stall_s: float = Field(
        20.0,
        gt=0,
        description="Seconds of silence in the middle of a reply after which the call is given up.",
    )
    endpoint_tries: int = Field(
        5, ge=1, description="Calls made for one reply while the endpoint is in trouble."
    )
    endpoint_deadline_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that a run may wait for the endpoint in all; the rest is not asked.",
    )
    endpoint_tokens_per_run: int = Field(
        200_000, ge=0, description="Tokens, in and out, after which a run begins no further call."
    )
    endpoint_price_in: Decimal = Field(
        Decimal(0), ge=0, description="Money for a million tokens that the endpoint's model reads; 0: none."
    )
    endpoint_price_out: Decimal = Field(
        Decimal(0), ge=0, description="Money for a million tokens that it writes; 0: none."
    )
    endpoint_batch_discount: Decimal = Field(
        Decimal("0.5"), ge=0, le=1, description="Share of these prices that its batch API takes off."
    )
    endpoint_currency: str = Field(
        "EUR", pattern=r"^[A-Z]{3}$", description="Currency of these prices and of COPY_COST_PER_NIGHT."
    )
    endpoint_grammar: Literal["none", "llama.cpp", "vllm"] = Field(
        "none", description="How the endpoint takes grammars: `none`, `llama.cpp` or `vllm`."
    )
    endpoint_languages: str = Field(
        "en,zh", description="Languages the endpoint's model writes, with commas."
    )
    endpoint_insecure: bool = Field(
        False, description="Allow http:// to another machine: texts and key then travel unencrypted."
    )

    schedule: str = Field(
        "0 3 * * *",
        description="Cron (UTC) of build_warehouse, which starts the night; empty: only when asked.",
    )
    follow_schedule: str = Field(
        "*/5 * * * *",
        description="Cron (UTC) at which follow_events looks for new files, once it is unpaused; empty: only when asked.",
    )
    tracking_uri: str | None = Field(None, description="MLflow server; default a SQLite file under the home.")
    ledger_uri: str | None = Field(None, description="SQLAlchemy URL of the ledgers; default a SQLite file.")

    @property
    def slug(self) -> str:
        """The shop's name as a folder name."""
        return slug_of(self.shop)

    @property
    def state(self) -> Path:
        """The folder that holds all state of this shop."""
        return self.home.expanduser().resolve() / "shops" / self.slug


def slug_of(shop: str) -> str:
    """A folder name for a shop: its own name, or the landing folder's with six digits of its path."""
    if shop in GENERATED_SHOPS:
        return shop
    path = Path(shop).expanduser().resolve()
    name = re.sub(r"[^a-z0-9_]+", "_", path.name.lower()).strip("_") or "shop"
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read from the environment at the first call.

    Raises:
        SettingMissing: a variable has a value that cannot be used; names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"NIGHTMARKET_{'_'.join(map(str, e['loc'])).upper()}={e.get('input')!r}: {e['msg']}"
            for e in error.errors()
        )
        raise SettingMissing(
            f"A setting cannot be used: {wrong}. See .env.example for all of them."
        ) from error


def from_file() -> dict[str, str]:
    """What `.env` in the current folder sets and the environment does not, by variable: for processes that start elsewhere."""
    found = {name.upper(): value for name, value in DotEnvSettingsSource(Settings).env_vars.items()}
    return {
        name: value
        for name, value in found.items()
        if name.startswith("NIGHTMARKET_") and value is not None and name not in os.environ
    }


def choose_shop(shop: str | None, home: Path | None = None) -> Settings:
    """Make `shop` the shop of this process and of every process it starts; returns the new settings."""
    if shop is not None:
        os.environ["NIGHTMARKET_SHOP"] = (
            shop if shop in GENERATED_SHOPS else str(Path(shop).expanduser().resolve())
        )
    if home is not None:
        os.environ["NIGHTMARKET_HOME"] = str(home.expanduser().resolve())
    get_settings.cache_clear()
    return get_settings()
