"""The command line: the night with and without a scheduler, the warehouse, the registry, and what is wrong with this
machine.

Each command is a few lines over a module that does the work. Heavy libraries are imported by the command that needs
them, so `--help` and `query` answer at once.
"""

from __future__ import annotations

import getpass
import logging
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nightmarket.errors import NightmarketError
from nightmarket.settings import choose_shop, get_settings

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.text import Text

    from nightmarket.ledger import Outcome
    from nightmarket.night import Report

app = typer.Typer(
    name="nightmarket", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="The nightly marketing desk of an online shop: from landing files to profiles, recommendations and copy.",
)  # fmt: skip

Shop = Annotated[
    str | None,
    typer.Option(
        help="`demo`, `completejourney`, or the path of a folder of landing files.", envvar="NIGHTMARKET_SHOP"
    ),
]
Day = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], envvar="DAY",
        help="The night's day: it sees events before that day's midnight. Default: the day after the shop's last event.",
    ),
]  # fmt: skip
Reason = Annotated[str, typer.Option(help="Why; kept in `ops.promotions`.")]
Task = Annotated[str, typer.Argument(help="The model's task, for example `ranking`.")]


@app.command()
def nightly(shop: Shop = None, day: Day = None) -> None:
    """Run one whole night under a real Airflow scheduler, and stop it again. Exit 0 only if every DAG succeeded."""
    from nightmarket import scheduler

    with _errors_told():
        report = scheduler.nightly(shop or None, _date(day), _console())
        _tell_report(report)
    raise typer.Exit(0 if report.succeeded else 1)


@app.command()
def run(
    shop: Shop = None,
    day: Day = None,
    only: Annotated[
        str, typer.Option(help="DAGs to run, separated by commas; what they read must be there.")
    ] = "",
) -> None:
    """Run the same night without a scheduler, in this one process."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(get_settings().threads))
    from nightmarket import night, scheduler

    console = _console()

    def tell(dag: str, step: str, state: str, seconds: float, outcome: Outcome) -> None:
        counts = (
            f"{outcome.rows_in:,} in, {outcome.rows_out:,} out" if outcome.rows_in or outcome.rows_out else ""
        )
        told = textwrap.shorten("; ".join(filter(None, [counts, outcome.note])), 120, placeholder=" ...")
        colour = "green" if state == "success" else "red"
        console.print(
            f"{dag:<23} {step:<16} [{colour}]{state}[/] {seconds:7.1f} s  [dim]{told}[/]",
            highlight=False,
            soft_wrap=True,
        )

    with _errors_told():
        settings = choose_shop(shop or None)
        with scheduler.only_one(settings):
            settings, chosen = night.prepare(shop or None, _date(day))
            console.print(f"Night of {chosen} for shop {settings.shop}, in this process.")
            with _training_told(console):
                report = night.run(chosen, [name.strip() for name in only.split(",") if name.strip()], tell)
        _tell_report(report)
    raise typer.Exit(0 if report.succeeded else 1)


@app.command()
def follow(
    shop: Shop = None,
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The coming night's day. Default: the day after the last published night.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="One look, and one micro-batch if files are new.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
) -> None:
    """Between two nights: make the lists of the customers anew whom new landing files touch, until stopped.

    The same steps as the DAG `follow_events`, in this process. Ctrl-C ends it after the micro-batch at work."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(get_settings().threads))
    from nightmarket import microbatch, scheduler

    console = _console()

    def turn() -> str | None:
        chosen = microbatch.required_day(_date(day))
        if not microbatch.has_work(chosen):
            return None
        with scheduler.only_one(get_settings()):
            outcome = microbatch.follow(chosen, f"follow__{chosen}__{datetime.now(UTC):%Y%m%dT%H%M%S}")
        return f"{chosen}  {outcome.note}"

    with _errors_told():
        _last_shop(shop)
        if once:
            console.print(turn() or "Nothing new.", highlight=False)
            return
        console.print(
            f"Following shop {get_settings().shop}: a look every {every:g} s until Ctrl-C.", highlight=False
        )
        with scheduler.asked_to_stop() as stop:
            microbatch.keep_following(turn, every, stop, partial(console.print, highlight=False))
        console.print("Stopped after the last micro-batch.")


@app.command()
def prepare(shop: Shop = None, day: Day = None) -> None:
    """Make or find the shop's landing files and dbt's manifest: what must be there before a scheduler reads the DAGs."""
    from nightmarket import night, transform

    with _errors_told():
        settings, chosen = night.prepare(shop or None, _date(day))
        transform.ensure_manifest()
        _console().print(f"Shop {settings.shop} is ready; its default day is {chosen}.", highlight=False)


@app.command()
def query(
    sql: Annotated[
        str, typer.Argument(help="One reading statement; schemas raw, staging, marts, outputs, reports, ops.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Write the rows to this .csv or .parquet file instead.")
    ] = None,
    shop: Shop = None,
) -> None:
    """Read the warehouse, at any moment, without locking it. The shop is the one last run unless you name another."""
    from nightmarket import warehouse
    from nightmarket.night import last_shop

    with _errors_told():
        choose_shop(shop or last_shop(get_settings().home))
        if to is not None and to.suffix not in {".csv", ".parquet"}:
            raise NightmarketError(f"--to {to}: name a file that ends in .csv or .parquet.")
        rows = warehouse.read(sql)
        if to is None:
            _print_rows(rows)
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix == ".csv":
            import pyarrow.csv as csv

            csv.write_csv(rows, to)
        else:
            import pyarrow.parquet as parquet

            parquet.write_table(rows, to)
        _console().print(f"{rows.num_rows:,} rows written to {to}", highlight=False)


@app.command()
def models(shop: Shop = None) -> None:
    """The registered models: versions, who is champion, challenger and previous, and their measures."""
    from nightmarket import tracking

    with _errors_told():
        _last_shop(shop)
        _print_rows(tracking.models())


@app.command()
def promote(
    task: Task,
    version: Annotated[str, typer.Argument(help="The version to make champion.")],
    reason: Reason,
    shop: Shop = None,
) -> None:
    """Make a version the champion of its task; the next night uses it."""
    from nightmarket import tracking

    with _errors_told():
        _last_shop(shop)
        tracking.promote(task, version, reason=reason, actor=_who())
        _console().print(f"Version {version} is champion of {task}. The next night uses it.", highlight=False)


@app.command()
def rollback(task: Task, reason: Reason, shop: Shop = None) -> None:
    """Make the previous champion of a task champion again."""
    from nightmarket import tracking

    with _errors_told():
        _last_shop(shop)
        champion = tracking.rollback(task, reason=reason, actor=_who())
        _console().print(f"Version {champion} is champion of {task} again.", highlight=False)


@app.command()
def doctor(shop: Shop = None) -> None:
    """What is installed, configured and reachable; what to do about what is not. Exit 1 if a night could not run."""
    from nightmarket import doctor as examination

    with _errors_told():
        _last_shop(shop)
        findings = examination.examine()
        marks = {"ok": "[green]ok[/]", "warn": "[yellow]look[/]", "bad": "[red]bad[/]"}
        for finding in findings:
            _console().print(
                f"{marks[finding.state]:<16} {finding.what}: {finding.found}", highlight=False, soft_wrap=True
            )
            if finding.todo:
                _console().print(f"{'':<7} → {finding.todo}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if any(finding.state == "bad" for finding in findings) else 0)


@app.command()
def up(
    shop: Shop = None, port: Annotated[int, typer.Option(help="Airflow's port; MLflow's is the next.")] = 8080
) -> None:
    """Serve the Airflow UI, the MLflow UI and Data Docs on loopback until stopped (Ctrl-C or `nightmarket down`)."""
    from nightmarket.scheduler import serving

    with _errors_told():
        _last_shop(shop)
        try:
            serving.up(port, _console())
        except KeyboardInterrupt:  # being stopped is how it ends
            _console().print("Stopped.")


@app.command()
def down(shop: Shop = None) -> None:
    """Stop what `up` started, also when its terminal is gone."""
    from nightmarket.scheduler import serving

    with _errors_told():
        _last_shop(shop)
        _console().print(serving.down())


rules_app = typer.Typer(
    no_args_is_help=True, help="Rules for recommendations: look at a file before it goes live."
)
app.add_typer(rules_app, name="rules")
RulesFile = Annotated[Path, typer.Argument(help="A file like the landing table `recommendation_rules`.")]


@rules_app.command("check")
def check_rules(file: RulesFile, shop: Shop = None, day: Day = None) -> None:
    """Say everything that is wrong with a file of rules, for the shop's products. Exit 0 only if it could go live."""
    from nightmarket.merchandising import simulate

    with _errors_told():
        _last_shop(shop)
        book, warnings = simulate.check_file(file, _date(day))
        for warning in warnings:
            _console().print(f"Warning: {warning}", markup=False, highlight=False)
        _console().print(f"{len(book.rule_ids)} rules in force, none wrong.", highlight=False)


@rules_app.command("simulate")
def simulate_rules(
    file: RulesFile, shop: Shop = None, day: Day = None,
    to: Annotated[Path | None, typer.Option(help="Write every changed product, brand and category to this .csv.")] = None,
    top: Annotated[int, typer.Option(help="Rows shown of each kind.")] = 10,
) -> None:  # fmt: skip
    """Who gains and who loses exposure under a file of rules, in the lists published now. Publishes nothing."""
    from nightmarket.merchandising import simulate

    with _errors_told():
        _last_shop(shop)
        on = _date(day) or simulate.night()
        book, warnings = simulate.check_file(file, on)
        rows = simulate.report(simulate.published(book, on), to)
        for effects in rows:
            _console().print(
                f"{effects.placement}: {effects.changed:,} of {effects.lists:,} lists change", highlight=False
            )
            _print_rows(effects.told(top))
            for rule_id, slots in effects.fired.items():
                _console().print(f"Rule {rule_id} touches {slots:,} slots.", markup=False, highlight=False)
        for told in (*warnings, *simulate.silence(rows), simulate.APPROXIMATE):
            _console().print(told, markup=False, highlight=False)


@app.command()
def policy(
    file: Annotated[
        Path | None, typer.Argument(help="A file of packs to check; default: the shop's own policy.toml.")
    ] = None,
    voice: Annotated[
        Path | None, typer.Option(help="A file of a voice to check; default: the shop's own voice.toml.")
    ] = None,
    channel: Annotated[str, typer.Option(help="`shop_page`, `email`, `push` or `search_ad`.")] = "shop_page",
    locale: Annotated[str, typer.Option(help="A language or locale, for example `zh-CN`.")] = "en",
    category: Annotated[str, typer.Option(help="A path, for example `Food > Tea`; empty: none.")] = "",
    shop: Shop = None,
) -> None:
    """Check policy packs and the shop's voice, and show the rules in effect for one channel, locale and category. Exit 0
    only if they could go live together."""
    import pyarrow as pa

    from nightmarket import guard

    with _errors_told():
        _last_shop(shop)
        own = (guard.shop_policy(), guard.shop_voice())
        read = [
            told or (path if path.exists() else None) for told, path in zip((file, voice), own, strict=True)
        ]
        pack = guard.read_packs(*read).pack(channel, locale, category)
        what, value, origin = zip(*pack.told(), strict=True)
        _print_rows(pa.table({"rule": what, "value": value, "pack": origin}))
        _console().print(
            f"Version {pack.version}, merged from: {', '.join(pack.merged)}.", markup=False, highlight=False
        )


copy_app = typer.Typer(
    no_args_is_help=True,
    help="Copy and people: what waits for a decision, and decisions that the next night applies.",
)
app.add_typer(copy_app, name="copy")
Product = Annotated[str, typer.Argument(help="The product's id.")]
Channel = Annotated[str | None, typer.Option(help="Only the text of this channel, for example `email`.")]
Locale = Annotated[str | None, typer.Option(help="Only the text in this locale, for example `zh-CN`.")]
Why = Annotated[str, typer.Option(help="Why; kept in `ops.copy_reviews`.")]
_NEXT_NIGHT = "The next night applies it."


@copy_app.command("list")
def list_copy(
    status: Annotated[
        str | None,
        typer.Option(help="`pending`, `published`, `approved`, `blocked` or `retired`; default: what to look at."),
    ] = None,
    product: Annotated[str | None, typer.Option(help="Only the texts of this product.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Texts shown.")] = 20,
    shop: Shop = None,
) -> None:  # fmt: skip
    """What waits for a person, then a sample of what was published without one: text, claims with evidence, cause."""
    from nightmarket.products.product_copy import desk

    with _errors_told():
        _last_shop(shop)
        entries = desk.listed(status, product)
        for entry in entries[:limit]:
            _console().print("\n".join([*desk.told(entry), ""]), markup=False, highlight=False)
        more = f", the first {limit} shown; --limit for more" if len(entries) > limit else ""
        _console().print(f"{len(entries):,} texts{more}", highlight=False)


@copy_app.command("approve")
def approve_copy(
    product: Product, channel: Channel = None, locale: Locale = None, reason: Why = "", shop: Shop = None
) -> None:
    """Let the texts of a product stand that wait; the next night publishes them."""
    from nightmarket.products.product_copy import desk

    with _errors_told():
        _last_shop(shop)
        rows = desk.approve(product, reviewer=_who(), reason=reason, channel=channel, locale=locale)
        _tell_copy("Approved", rows)


@copy_app.command("reject")
def reject_copy(
    product: Product,
    reason: Why,
    channel: Channel = None,
    locale: Locale = None,
    shop: Shop = None,
) -> None:
    """Refuse the texts of a product that wait: what was shown before stays, and they are not written again from the same
    facts."""
    from nightmarket.products.product_copy import desk

    with _errors_told():
        _last_shop(shop)
        rows = desk.reject(product, reviewer=_who(), reason=reason, channel=channel, locale=locale)
        _tell_copy("Rejected", rows)


@copy_app.command("edit")
def edit_copy(
    product: Product,
    text: Annotated[str, typer.Option(help="The description as it should be.")],
    channel: Channel = None, locale: Locale = None, reason: Why = "", shop: Shop = None,
) -> None:  # fmt: skip
    """Publish another description of a product. Exit 1, and nothing written down, where its facts do not bear the words."""
    from nightmarket.products.product_copy import desk

    with _errors_told():
        _last_shop(shop)
        row = desk.edit(product, text, reviewer=_who(), reason=reason, channel=channel, locale=locale)
        _tell_copy("Edited", [row])


@copy_app.command("rollback")
def rollback_copy(
    reason: Why,
    product: Annotated[str | None, typer.Option(help="Texts of this product.")] = None,
    category: Annotated[str | None, typer.Option(help="Texts of this category and all below it.")] = None,
    model_version: Annotated[
        str | None, typer.Option(help="Texts that this version of a writer wrote.")
    ] = None,
    shop: Shop = None,
) -> None:
    """Put back what readers saw before, for all texts that fit every option; the next night publishes it as a new version."""
    from nightmarket.products.product_copy import desk

    with _errors_told():
        _last_shop(shop)
        rows, without = desk.rollback(
            reviewer=_who(), reason=reason, product=product, category=category, model_version=model_version
        )
        _tell_copy("Rolled back", rows)
        if without:
            _console().print(f"{len(without):,} texts have no earlier one and stay.", highlight=False)


def _tell_copy(what: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows[:20]:
        named = f"{row['product_id']} {row['channel']} {row['locale']}, version {row['version']}"
        _console().print(f"{what}: {named}", markup=False, highlight=False)
    if len(rows) != 1:
        _console().print(f"{len(rows):,} texts.", highlight=False)
    if rows:
        _console().print(_NEXT_NIGHT)


def _last_shop(shop: str | None) -> None:
    from nightmarket.night import last_shop

    choose_shop(shop or last_shop(get_settings().home))


def _date(day: datetime | None) -> date | None:
    return day.date() if day else None


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in some containers
        return "command line"


def _console() -> Console:
    return Console(soft_wrap=not sys.stdout.isatty())


class _Told(logging.Handler):
    """Log lines between the lines of steps, where the steps' names end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(
            f"{'':<23} {record.getMessage()}", style="dim", markup=False, highlight=False, soft_wrap=True
        )


@contextmanager
def _training_told(console: Console) -> Iterator[None]:
    """A training tells how far it is while it is at work: one takes minutes."""
    log, told = logging.getLogger("nightmarket.training"), _Told(console)
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(told)
    try:
        yield
    finally:
        log.removeHandler(told)
        log.setLevel(before)


@contextmanager
def _errors_told() -> Iterator[None]:
    """An error raised on purpose is a sentence and an exit status, not a traceback."""
    try:
        yield
    except NightmarketError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"[red]{type(error).__name__}[/]: ", end="", highlight=False
        )
        Console(stderr=True, soft_wrap=True).print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        Console(stderr=True).print(f"Stopped ({stop or 'Ctrl-C'}). What was published stays.", markup=False)
        raise typer.Exit(130) from None


def _tell_report(report: Report) -> None:
    from nightmarket import night

    console = _console()
    if report.succeeded or any(state == "success" for state in report.states.values()):
        console.print(night.published_table(report))
    console.print(night.dag_table(report))
    if report.phases:
        console.print(
            ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.phases.items()), highlight=False
        )
    for failure in report.failures:
        console.print(f"\n[red]FAILED[/] {failure.dag_id}.{failure.task_id}", highlight=False)
        console.print(f"  {failure.message}", markup=False, highlight=False, soft_wrap=True)
        for name, value in (
            ("table", failure.table), ("checks", ", ".join(failure.checks)), ("rows", failure.where), ("log", failure.log),
        ):  # fmt: skip
            if value:
                console.print(f"  {name:<7}{value}", markup=False, highlight=False, soft_wrap=True)
    for name, place in night.where_to_look(get_settings()):
        console.print(f"{name:<10} {place}", markup=False, highlight=False, soft_wrap=True)


def _print_rows(rows: pa.Table, limit: int = 200) -> None:
    from rich.table import Table

    table = Table()
    for name, kind in zip(rows.column_names, rows.schema.types, strict=True):
        number = any(word in str(kind) for word in ("int", "double", "float", "decimal"))
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows.slice(0, limit).to_pylist():
        table.add_row(*(_cell(row[name]) for name in rows.column_names))
    console = _console() if sys.stdout.isatty() else Console(width=240)
    console.print(table, markup=False)
    more = f", the first {limit} shown; --to FILE.csv for all" if rows.num_rows > limit else ""
    console.print(f"{rows.num_rows:,} rows{more}", highlight=False)


def _cell(value: Any) -> Text:
    from rich.text import Text

    if value is None:
        return Text("null", style="dim")
    return Text(f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value))


if __name__ == "__main__":
    app()
