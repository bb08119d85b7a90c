"""What a shop allows by channel, locale and category is merged as told, checked before it counts, and found in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nightmarket import guard
from nightmarket.cli import app
from nightmarket.errors import PolicyRefused
from nightmarket.guard.pack_files import rules_of
from nightmarket.guard.packs import Pack, Packs, category_path, refused_characters
from nightmarket.settings import choose_shop
from nightmarket.shops import Shop


def packaged(channel: str = "shop_page", locale: str = "en", category: str | None = None) -> Pack:
    return guard.read_packs().pack(channel, locale, category)


def own(tmp_path: Path, text: str) -> Packs:
    file = tmp_path / "policy.toml"
    file.write_text(text, encoding="utf-8")
    return guard.read_packs(file)


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(PolicyRefused) as refused:
        own(tmp_path, text)
    return tuple(
        problem.replace(str(tmp_path / "policy.toml"), "policy.toml") for problem in refused.value.problems
    )


def kinds(breaches: list[guard.Breach]) -> list[tuple[str, str, str]]:
    return [(breach.kind, breach.field, breach.text) for breach in breaches]


# --- resolving --------------------------------------------------------------------------------------------------------


def test_the_packaged_packs_hold_together_and_give_every_channel_its_lengths(tmp_path: Path) -> None:
    assert own(tmp_path, "").pack("push", "de", None) == packaged("push", "de")
    assert {channel: dict(packaged(channel).limits) for channel in guard.CHANNELS} == {
        "shop_page": {"title": 150, "description": 1200, "bullet": 90, "bullets": 6, "meta_description": 155},
        "email": {"subject": 60, "headline": 60, "line": 120, "body": 1500},
        "push": {"headline": 40, "line": 120},
        "search_ad": {"headline": 30, "line": 90},
    }


def test_a_chinese_text_has_half_the_length_and_its_own_label() -> None:
    pack = packaged("search_ad", "zh-CN")
    assert (dict(pack.limits), pack.ai_label) == (
        {"headline": 15, "line": 45},
        guard.AiLabel("AI生成", True),
    )
    assert packaged("search_ad", "en-GB").ai_label == guard.AiLabel("Written with AI", True)


@pytest.mark.parametrize(("category", "risk"), [
    ("Baby > Changing > Nappies & Wipes", "high"), (" BABY>Play ", "high"), ("Babylon", "low"), (None, "low"),
    ("母婴 > 护理 > 纸尿裤", "high"), ("Kitchen > Tools > Knives", "low"),
])  # fmt: skip
def test_risk_is_that_of_the_category_and_all_below_it(category: str | None, risk: str) -> None:
    assert packaged("shop_page", "en", category).risk == risk


def test_a_pack_says_what_it_was_merged_from_general_to_specific() -> None:
    assert packaged("search_ad", "zh-CN", "母婴 > 护理").merged == (
        "everywhere", "search ad", "Chinese", "search ad, Chinese", "母婴",
    )  # fmt: skip


def test_the_more_specific_pack_wins_wherever_it_stands(tmp_path: Path) -> None:
    packs = own(
        tmp_path,
        """
        [[pack]]
        name = "green tea"
        category = "Food > Tea > Green"
        limits = { description = 300 }
        [[pack]]
        name = "tea"
        category = "Food > Tea"
        limits = { description = 400, title = 70 }
        [[pack]]
        name = "British"
        channel = "shop_page"
        locale = "en-GB"
        limits = { description = 900, title = 90 }
        """,
    )
    assert [
        (packs.pack("shop_page", "en-GB", path).limits["description"], packs.pack("shop_page", "en-GB", path).limits["title"])
        for path in ("Food > Tea > Green > Sencha", "food > tea", "Food", None)
    ] == [(300, 70), (400, 70), (900, 90), (900, 90)]  # fmt: skip
    assert packs.pack("shop_page", "en", None).limits["description"] == 1200


def test_of_two_packs_with_the_same_selectors_the_later_wins_and_phrases_add_up(tmp_path: Path) -> None:
    pack = own(
        tmp_path,
        """
        [[pack]]
        name = "first"
        channel = "push"
        limits = { headline = 35 }
        forbidden = ["hurry"]
        [[pack]]
        name = "second"
        channel = "push"
        limits = { headline = 25 }
        forbidden = ["don't miss"]
        """,
    ).pack("push", "en", None)
    assert (dict(pack.limits), sorted(pack.forbidden)) == (
        {"headline": 25, "line": 120}, ["act now", "click here", "don't miss", "hurry"],
    )  # fmt: skip


def test_a_pack_lifts_what_a_more_general_one_says(tmp_path: Path) -> None:
    packs = own(
        tmp_path,
        """
        [[pack]]
        name = "towels"
        category = "Home > Towels"
        lifted = ["Antibacterial", "act now"]
        """,
    )
    said = {"line": "Antibacterial towels. Act now."}
    assert kinds(guard.check(said, packs.pack("push", "en", "Home"))) == [
        ("certificate", "line", "Antibacterial"),
        ("forbidden", "line", "Act now"),
    ]
    assert guard.check(said, packs.pack("push", "en", "Home > Towels")) == []


def test_an_unknown_channel_is_refused_by_name() -> None:
    with pytest.raises(PolicyRefused, match="no channel 'fax'; there are shop_page, email, push, search_ad"):
        packaged("fax")


CATEGORIES = ("Food", "Food > Tea", "Food > Tea > Green", "Home")
PHRASES = ("alpha", "beta", "gamma", "delta")
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "channel": st.sampled_from(guard.CHANNELS),
        "locale": st.sampled_from(["en", "en-GB", "zh"]),
        "category": st.sampled_from(CATEGORIES),
        "limits": st.dictionaries(st.sampled_from(["headline", "line"]), st.integers(1, 99), max_size=2),
        "forbidden": st.lists(st.sampled_from(PHRASES), max_size=2),
        "certificates": st.dictionaries(st.just("epsilon"), st.sampled_from(["one", "two"]), max_size=1),
        "lifted": st.lists(st.sampled_from(PHRASES), max_size=1),
        "required": st.dictionaries(st.just("Ad"), st.sampled_from(["any", "line"]), max_size=1),
        "characters": st.sampled_from(["[a-z]", ["letters"], ["letters", "emoji"]]),
        "ai_label": st.fixed_dictionaries(
            {}, optional={"text": st.sampled_from(["AI", "KI"]), "metadata": st.booleans()}
        ),
        "risk": st.sampled_from(["low", "high"]),
    },
)


def packs_of(entries: list[dict[str, Any]]) -> Packs:
    told = {"pack": [entry | {"name": f"pack {number}"} for number, entry in enumerate(entries)]}
    return Packs(tuple(rules_of(told, "test")[0]))


def selectors(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in ("channel", "locale", "category"))


@given(
    st.lists(ENTRIES, max_size=8, unique_by=selectors).flatmap(
        lambda entries: st.tuples(st.just(entries), st.permutations(entries))
    ),
    st.sampled_from(["push", "search_ad"]),
    st.sampled_from(["en", "en_GB", "zh-CN", ""]),
    st.sampled_from([*CATEGORIES, "food > TEA > Green > Sencha", ""]),
)
def test_packs_with_different_selectors_mean_the_same_in_any_order(
    both: tuple[list[dict[str, Any]], list[dict[str, Any]]], channel: str, locale: str, category: str
) -> None:
    first, second = (packs_of(entries).pack(channel, locale, category) for entries in both)
    assert first == second and first.version == second.version


@given(st.lists(ENTRIES, max_size=8), st.sampled_from(["push", "email"]), st.sampled_from(CATEGORIES))
def test_resolving_twice_is_the_same(entries: list[dict[str, Any]], channel: str, category: str) -> None:
    packs = packs_of(entries)
    first, again = packs.pack(channel, "en-GB", category), packs.pack(channel, "en-GB", category)
    afresh = packs_of([*entries, *entries]).pack(channel, "en-GB", category)
    assert first == again == packs_of(entries).pack(channel, "en-GB", category)
    assert {first.version, again.version} == {packs_of(entries).pack(channel, "en-GB", category).version}
    assert afresh.limits == first.limits and afresh.risk == first.risk


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_change_of_one_category_leaves_the_versions_of_the_others(tmp_path: Path) -> None:
    changed = own(
        tmp_path, '[[pack]]\nname = "knives"\ncategory = "Kitchen > Tools"\nforbidden = ["razor"]\n'
    )
    paths = ("Kitchen > Tools > Knives", "Kitchen", "Baby", None)
    assert [
        changed.pack("shop_page", "en", path).version == packaged("shop_page", "en", path).version
        for path in paths
    ] == [False, True, True, True]


def test_the_version_knows_rules_and_not_their_names(tmp_path: Path) -> None:
    same = own(tmp_path, '[[pack]]\nname = "again"\nchannel = "push"\nlimits = { headline = 40 }\n')
    assert same.pack("push", "en", None).version == packaged("push").version
    assert len({packaged(channel).version for channel in guard.CHANNELS}) == 4


# --- checking texts ---------------------------------------------------------------------------------------------------


def test_a_text_within_its_pack_has_no_breach() -> None:
    texts = {
        "title": "Aquaron Bottle, 750 ml", "description": "It holds 750 ml.", "bullets": "Colour: blue\nWeight: 310 g",
        "meta_description": "It holds 750 ml.",
    }  # fmt: skip
    assert guard.check(texts, packaged()) == []


def test_what_is_too_long_or_too_much_is_found_with_what_is_over() -> None:
    texts = {"title": "x" * 152, "bullets": "\n".join(["y" * 91, *"abcdefg"])}
    assert guard.check(texts, packaged()) == [
        guard.Breach("length", "title", "xx", "152 of 150 characters", "shop page"),
        guard.Breach("length", "bullets", "y", "91 of 90 characters", "shop page"),
        guard.Breach("count", "bullets", "f\ng", "8 of 6 bullets", "shop page"),
    ]


@pytest.mark.parametrize(("text", "found"), [
    ("Organic tea.", [("certificate", "line", "Organic")]), ("An inorganic salt.", []), ("Not organic.", []),
    ("Organic: no", []), ("Organic: not yet", [("certificate", "line", "Organic")]), ("It isn't waterproof.", []),
    ("Not only waterproof.", [("certificate", "line", "waterproof")]), ("Waterproof rating: IPX4", []),
    ("有机茶", [("certificate", "line", "有机")]), ("您有机会", []), ("有机玻璃", []), ("不防水", []), ("防水：否", []), ("防水等级：IPX4", []),
    ("这款organic茶", [("certificate", "line", "organic")]), ("or\u200bganic", [("certificate", "line", "organic")]),
    ("Fair   trade", [("certificate", "line", "Fair trade")]),
])  # fmt: skip
def test_a_phrase_that_needs_a_certificate_is_found_unless_it_is_denied(
    text: str, found: list[tuple[str, str, str]]
) -> None:
    assert kinds(guard.check({"line": text}, packaged("push"))) == found


def test_a_certificate_that_the_product_carries_lets_its_own_phrases_pass() -> None:
    said = {"line": "Organic and waterproof."}
    assert guard.check(said, packaged("push"), certificates=frozenset({"Organic"})) == [
        guard.Breach("certificate", "line", "waterproof", "needs the certificate `waterproof`", "everywhere")
    ]


def test_what_is_banned_everywhere_is_banned_in_every_pack() -> None:
    assert guard.check({"line": "The best cup."}, packaged("push")) == [
        guard.Breach("banned", "line", "best", "superlative", "policy.toml")
    ]
    assert kinds(guard.check({"line": "国家级工艺"}, packaged("push", "zh"))) == [
        ("banned", "line", "国家级")
    ]
    name = "Perfect Day Teapot"
    assert guard.check({"line": f"The {name}."}, packaged("push"), names=[name]) == []


def test_the_longest_phrase_at_a_place_decides(tmp_path: Path) -> None:
    pack = own(
        tmp_path,
        '[[pack]]\nname = "a"\nforbidden = ["silk"]\ncertificates = { "silk road" = "road" }\nexcept = ["silk worm"]\n',
    ).pack("push", "en", None)
    said = {"line": "Silk. A silk worm. The Silk Road."}
    assert kinds(guard.check(said, pack)) == [
        ("forbidden", "line", "Silk"), ("certificate", "line", "Silk Road"),
    ]  # fmt: skip
    assert kinds(guard.check(said, pack, certificates=frozenset({"road"}))) == [("forbidden", "line", "Silk")]


def test_a_phrase_does_not_run_from_one_bullet_into_the_next() -> None:
    assert guard.check({"bullets": "Material: food\nGrade: A"}, packaged()) == []
    assert kinds(guard.check({"description": "Material: food grade A"}, packaged())) == [
        ("certificate", "description", "food grade")
    ]


def test_a_chinese_email_and_search_ad_say_that_they_are_advertising() -> None:
    email = packaged("email", "zh-CN")
    assert guard.check({"subject": "新茶上市", "body": "广告"}, email) == [
        guard.Breach("required", "subject", "广告", "`广告` must stand in it", "email, Chinese")
    ]
    assert guard.check({"subject": "【广告】新茶上市", "body": "新茶。"}, email) == []
    ad = packaged("search_ad", "zh-CN")
    assert kinds(guard.check({"headline": "新茶"}, ad)) == [("required", "any", "广告")]
    assert guard.check({"headline": "新茶", "line": "广告 · 新茶"}, ad) == []


def test_no_emoji_stands_in_a_search_ad() -> None:
    assert guard.check({"line": "Tea 🍵 for you ❤️!"}, packaged("search_ad")) == [
        guard.Breach("characters", "line", "🍵❤️", "3 characters not allowed", "search ad")
    ]
    assert guard.check({"line": "Crème brûlée, 50 % cacao™, 75 °C, €"}, packaged("search_ad")) == []
    assert guard.check({"line": "Tea 🍵"}, packaged("push")) == []


@pytest.mark.parametrize(("text", "allowed", "refused"), [
    ("Tea 茶 чай", ("latin",), "茶чай"), ("Café, 5", ("latin", "punctuation"), "5"), ("a1 b2", "[a-z]", "12"),
    ("カップ", ("kana",), ""), ("e\u0301", ("latin",), ""), ("a\x07", ("letters",), "\x07"), ("any🍵", None, ""),
])  # fmt: skip
def test_characters_are_allowed_by_script_by_kind_or_by_class(text: str, allowed: Any, refused: str) -> None:
    assert refused_characters(text, allowed) == refused


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_whole_sentences_fit_or_the_first_is_cut_between_words(tmp_path: Path) -> None:
    pack = own(tmp_path, '[[pack]]\nname = "short"\nchannel = "push"\nlimits = { line = 30 }\n').pack(
        "push", "en", None
    )
    assert (
        guard.fit("line", ["It holds 750 ml.", "It is blue.", "It is new."], pack)
        == "It holds 750 ml. It is blue."
    )
    assert guard.fit("line", ["A bottle of turquoise stainless steel."], pack) == "A bottle of turquoise"
    assert (
        guard.fit("line", ["This bottle of the shop holds 750 ml."], pack) == "This bottle of the shop holds"
    )
    assert guard.fit("line", ["x" * 31], pack) == "" and guard.fit("line", [], pack) == ""
    assert guard.fit("body", ["One.", "Two."], pack) == "One. Two."


def test_chinese_is_joined_without_blanks_and_never_cut_inside_a_number(tmp_path: Path) -> None:
    pack = own(
        tmp_path, '[[pack]]\nname = "short"\nchannel = "push"\nlocale = "zh"\nlimits = { line = 10 }\n'
    ).pack("push", "zh", None)
    assert guard.fit("line", ["产自浙江。", "青色。", "容量大。"], pack) == "产自浙江。青色。"
    assert guard.fit("line", ["这款茶杯容量为1250毫升。"], pack) == "这款茶杯容量为"


def test_bullets_that_fit_are_lines() -> None:
    assert guard.fit("bullets", ["a", "b" * 91, *"cdefgh"], packaged()) == "a\nc\nd\ne\nf\ng"


@given(
    st.lists(st.text(st.sampled_from("ab 茶7.，"), max_size=40), max_size=5), st.sampled_from(["en", "zh"])
)
def test_what_fits_is_a_beginning_of_the_text_and_within_its_length(
    sentences: list[str], locale: str
) -> None:
    pack = packaged("search_ad", locale)
    fitted = guard.fit("headline", sentences, pack)
    whole = ("" if locale == "zh" else " ").join(sentence for sentence in sentences if sentence)
    assert len(fitted) <= pack.limits["headline"] and whole.startswith(fitted)


# --- the shop's own file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "problem"), [
    ('forbiden = ["x"]', "forbiden = ['x'], but there is no such key. Did you mean `forbidden`? Keys are name, channel"),
    ('channel = "fax"', "channel = 'fax', but there is no such channel; write one of shop_page, email, push, search_ad"),
    ('locale = "Chinese, please"', "locale = 'Chinese, please', but it must be a language or a locale"),
    ('category = " > "', "category = ' > ', but it must be a category with all below it"),
    ("limits = { description = 0 }", "limits = {'description': 0}, but description must be a whole number from 1 to 5000; with 0 nothing"),
    ("limits = { title = 201 }", "title must be a whole number from 1 to 200"),
    ("limits = { title = true }", "title must be a whole number"),
    ("limits = { slogan = 3 }", "'slogan' has no limit; limits are title, description"),
    ('forbidden = "x"', "forbidden = 'x', but it must be a list of phrases"),
    ('forbidden = [" "]', "' ' is no phrase"),
    ('certificates = { organic = "EU organic!" }', "the certificate of 'organic' is 'EU organic!'; write its name with"),
    ('required = { "Ad" = "footer" }', "the field of 'Ad' is 'footer'; write any, title"),
    ('characters = "[a-"', "characters = '[a-', but it is no regular expression"),
    ('characters = "a|b"', "it must be one class in brackets"),
    ('characters = "[a]+[b]"', "it must be one class in brackets"),
    ('characters = "[0-9]"', "it allows no letter, so nothing could be written"),
    ("characters = []", "it allows no letter, so nothing could be written"),
    ('characters = ["emojis"]', "'emojis' names no characters"),
    ("ai_label = { words = 1 }", 'it must be { text = "words, or nothing for none", metadata'),
    ('risk = "medium"', "the risk is `low` or `high`"),
])  # fmt: skip
def test_a_wrong_key_or_value_names_file_pack_key_and_what_to_do(
    tmp_path: Path, line: str, problem: str
) -> None:
    (found,) = problems(tmp_path, f'[[pack]]\nname = "mine"\n{line}\n')
    assert found.startswith("policy.toml: pack `mine`: ") and problem in found


@pytest.mark.parametrize(("pack", "problem"), [
    ('forbidden = ["ad"]\nrequired = { "Ad" = "any" }',
     "policy.toml: pack `mine`: required = 'Ad', but policy.toml: pack `mine` forbids 'ad'. Take one away, or write"),
    ('channel = "push"\nrequired = { "click here" = "line" }', "but packs.toml: pack `push` forbids 'click here'"),
    ('required = { "organic" = "any" }', "packs.toml: pack `everywhere` allows only with the certificate `organic` 'organic'"),
    ('required = { "the best" = "any" }', "required = 'the best', but 'best' is banned everywhere (superlative)"),
    ('channel = "search_ad"\nrequired = { "🍵 Ad" = "any" }', "but packs.toml: pack `search ad` does not allow '🍵'"),
    ('channel = "push"\nlimits = { headline = 3 }\nrequired = { "Advert" = "headline" }',
     "which has 6 characters, but policy.toml: pack `mine` allows 3 in `headline` (push, any locale, any category)"),
    ('channel = "search_ad"\ncharacters = "[A-Za-z0-9]"', "no Chinese letter is in it, so nothing could be written for locale zh"),
    ('channel = "push"\nlimits = { title = 3 }', "limits = 'title', but push has headline, line. Take the limit away"),
    ('channel = "push"\nrequired = { "Ad" = "subject" }', "required = 'Ad' in 'subject', but push has headline, line"),
    ('forbidden = ["wool"]\ncertificates = { wool = "wool" }', "forbidden = 'wool', but `certificates` allows it with a certificate"),
])  # fmt: skip
def test_packs_that_cannot_hold_together_are_refused_with_both_sides(
    tmp_path: Path, pack: str, problem: str
) -> None:
    assert problem in problems(tmp_path, f'[[pack]]\nname = "mine"\n{pack}\n')[0]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, 'limits = 1\n[[pack]]\nrisk = "low"\n[[pack]]\nname = "a"\nrisk = "none"\n[[pack]]\nname = "a"\n')  # fmt: skip
    assert [problem[:44] for problem in found] == [
        "policy.toml: `limits` is no part of a file o",
        "policy.toml: pack 1: name = None, but each p",
        "policy.toml: pack `a`: risk = 'none', but th",
        "policy.toml: pack `a`: name = 'a' is taken b",
    ]


def test_a_required_phrase_may_be_lifted_where_a_general_pack_forbids_it(tmp_path: Path) -> None:
    packs = own(
        tmp_path, '[[pack]]\nname = "mine"\nchannel = "push"\nlifted = ["act now"]\nrequired = { "Act now" = "any" }\n'
    )  # fmt: skip
    assert kinds(guard.check({"line": "Tea."}, packs.pack("push", "en", None))) == [
        ("required", "any", "Act now")
    ]


def test_a_file_that_is_not_there_or_no_toml_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="No such file or directory"):
        guard.read_packs(tmp_path / "nowhere.toml")
    assert "policy.toml is not TOML" in problems(tmp_path, "[[pack]\n")[0]


def test_a_shop_of_a_thousand_categories_is_checked_in_seconds(tmp_path: Path) -> None:
    text = "".join(
        f'[[pack]]\nname = "p{i}"\ncategory = "Shelf {i}"\nforbidden = ["word {i}"]\n' for i in range(1000)
    )
    assert own(tmp_path, text).pack("push", "en", "shelf 7").forbidden >= {"word 7", "act now"}


def test_the_shops_own_file_stands_in_its_folder_and_is_no_stray(tmp_path: Path, home: Path) -> None:
    choose_shop(str(tmp_path))
    assert guard.shop_packs().pack("push", "en", None).version == packaged("push").version
    own(tmp_path, '[[pack]]\nname = "mine"\nchannel = "push"\nrisk = "high"\n')
    assert guard.shop_policy() == tmp_path / "policy.toml"
    assert guard.shop_packs().pack("push", "en", None).risk == "high"
    assert Shop("s", "s", "s", tmp_path).unread() == []


def test_the_example_of_the_operations_page_can_be_copied(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    example = page.split("## Policy packs")[1].split("```toml\n")[1].split("```")[0]
    packs = own(tmp_path, example)
    names = {name for channel in guard.CHANNELS for locale in ("en", "zh") for name in packs.pack(channel, locale, "Food > Tea").merged}  # fmt: skip
    assert {"tea", "English e-mail", "short push"} <= names


# --- looking again ----------------------------------------------------------------------------------------------------


def test_a_rescan_finds_live_copy_that_todays_packs_refuse(tmp_path: Path) -> None:
    packs = own(tmp_path, '[[pack]]\nname = "tea"\ncategory = "Food > Tea"\nforbidden = ["soothing"]\n')
    row = {
        "product_id": "p1", "channel": "shop_page", "locale": "en", "status": "published", "title": "Tea", "category": "Food > Tea",
        "description": "A soothing tea.", "bullets": json.dumps(["Organic: yes"]), "meta_description": None,
    }  # fmt: skip
    rows = [
        row,
        row | {"product_id": "p2", "certificates": ["organic"], "category": "Food > Coffee"},
        row | {"product_id": "p3", "status": "retired"},
        row | {"product_id": "p4", "certificates": ["organic"]},
    ]
    found = guard.rescan(rows, lambda r: packs.pack(r["channel"], r["locale"], r["category"]))
    assert [(key, kinds(breaches)) for key, breaches in found] == [
        (("p1", "shop_page", "en"), [("forbidden", "description", "soothing"), ("certificate", "bullets", "Organic")]),
        (("p4", "shop_page", "en"), [("forbidden", "description", "soothing")]),
    ]  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_a_pack_and_refuses_a_wrong_file(tmp_path: Path, home: Path) -> None:
    def policy(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["policy", *arguments], env={"COLUMNS": "200"})

    shown = policy("--channel", "search_ad", "--locale", "zh-CN", "--category", "母婴 > 护理")
    assert shown.exit_code == 0, shown.output
    assert (
        packaged("search_ad", "zh-CN", "母婴").version in shown.output
        and "search ad, Chinese" in shown.output
    )
    file = tmp_path / "policy.toml"
    file.write_text('[[pack]]\nname = "mine"\nrisk = "none"\n')
    refused = policy(str(file))
    assert (
        refused.exit_code == 1 and "PolicyRefused" in refused.stderr and "pack `mine`: risk" in refused.stderr
    )


def test_category_paths_are_compared_as_people_mean_them() -> None:
    assert category_path(" Tea &  Coffee>Tea > ") == ("tea & coffee", "tea")
