"""Which upstreams a configuration has, what each is, and which one is the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qproxy.config import Secret, Settings
from qproxy.core.upstream import Upstream
from qproxy.upstreams import PRESETS
from tests.support.config_place import Place

if TYPE_CHECKING:
    from pathlib import Path

MINE = "[upstreams.mine]\nurl = 'http://127.0.0.1:9000/v1/'\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def default_of(settings: Settings) -> tuple[str, str | None]:
    """The default upstream's address and key."""
    assert settings.default_upstream is not None
    chosen = settings.upstreams[settings.default_upstream]
    return str(chosen.upstream.base), chosen.key.reveal() if chosen.key else None


class TestTheDefault:
    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_can_be_chosen(self, place: Place, name: str) -> None:
        preset = PRESETS[name]
        place.flags["upstream"] = name
        if preset.key_variable:
            place.environ[preset.key_variable] = "k"
        settings = place.load()
        assert settings.default_upstream == name
        assert settings.upstreams[name].upstream == preset.upstream()
        assert settings.upstreams[name].key == (Secret("k") if preset.key_variable else None)

    @pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.key_required])
    def test_a_missing_key_stops_the_start(self, place: Place, name: str) -> None:
        place.flags["upstream"] = name
        message = place.refused()
        assert message.startswith(f"--upstream = '{name}' must come with a key")
        assert PRESETS[name].key_variable in message
        place.flags["upstream_key"] = "k"
        assert default_of(place.load())[1] == "k"

    @pytest.mark.parametrize(
        ("url", "base"),
        [
            ("http://127.0.0.1:9000/v1/", "http://127.0.0.1:9000/v1"),
            ("https://Host.Example/v1", "https://host.example/v1"),
            ("http+unix:///run/model.sock", "http+unix:///run/model.sock"),
        ],
    )
    def test_a_url_is_a_generic_upstream(self, place: Place, url: str, base: str) -> None:
        place.flags |= {"upstream": url, "upstream_key": "k"}
        place.environ["DASHSCOPE_API_KEY"] = "not for other hosts"
        settings = place.load()
        assert default_of(settings) == (base, "k")
        assert settings.upstreams["default"].upstream.kind == "openai"
        place.flags["upstream_key"] = None
        assert default_of(place.load())[1] is None

    @pytest.mark.parametrize(
        ("upstream", "part"),
        [
            ("dashscop", "must be mine, dashscope, dashscope-intl"),
            ("ftp://host", "must start with http://"),
            ("https://", "no host"),
            ("https://host:99999/v1", "port must be"),
            ("https://me:k@host/v1", "must not carry credentials"),
        ],
    )
    def test_what_is_neither(self, place: Place, upstream: str, part: str) -> None:
        place.write(MINE)
        place.flags["upstream"] = upstream
        assert part in place.refused()

    def test_the_first_key_in_the_order_of_the_presets(self, place: Place) -> None:
        for variable, name in (
            ("BAILIAN_TOKEN_PLAN_API_KEY", "token-plan"),
            ("BAILIAN_CODING_PLAN_API_KEY", "coding-plan"),
            ("DASHSCOPE_API_KEY", "dashscope"),
        ):
            place.environ[variable] = "k"
            assert place.load().default_upstream == name
            assert list(place.load().upstreams) == [name]

    def test_a_key_from_dotenv_by_reference(self, place: Place) -> None:
        place.write_env("DASHSCOPE_API_KEY=file:key")
        place.write("sk-1", "cwd/key")
        assert default_of(place.load())[1] == "sk-1"

    def test_the_login_only_where_there_is_no_key(self, place: Place) -> None:
        login = place.root / "home" / ".qwen" / "oauth_creds.json"
        login.parent.mkdir(parents=True)
        login.write_text("{}")
        settings = place.load()
        assert settings.default_upstream == "qwen-oauth"
        assert settings.upstreams["qwen-oauth"].upstream.base is None
        place.environ["DASHSCOPE_API_KEY"] = "k"
        assert place.load().default_upstream == "dashscope"

    @pytest.mark.parametrize("name", ["oauth_creds_work.json", "oauth_creds.json"])
    def test_the_login_of_any_account(self, place: Place, name: str) -> None:
        login = place.root / "home" / ".qwen" / name
        login.parent.mkdir(parents=True)
        login.write_text("{}")
        assert place.load().default_upstream == "qwen-oauth"

    def test_a_login_from_a_setting(self, place: Place) -> None:
        place.environ["QWEN_OAUTH_CREDS"] = '{"access_token": "t", "expiry_date": 1}'
        assert place.load().default_upstream == "qwen-oauth"

    def test_the_first_table_before_any_key(self, place: Place) -> None:
        place.write(MINE + "[upstreams.other]\npreset = 'vllm'\n")
        place.environ["DASHSCOPE_API_KEY"] = "k"
        assert place.load().default_upstream == "mine"

    def test_a_key_without_an_upstream(self, place: Place) -> None:
        place.flags["upstream_key"] = "hush"
        assert place.refused() == "upstream_key = (hidden): must come with upstream, which says whose key it is"

    def test_the_login_takes_no_key(self, place: Place) -> None:
        place.flags |= {"upstream": "qwen-oauth", "upstream_key": "hush"}
        assert "neither key nor url" in place.refused()


class TestTables:
    def test_everything_that_can_be_set(self, place: Place) -> None:
        place.write(
            "upstream = 'mine'\n" + MINE + "key = 'env:MY_KEY'\nforward_user_agent = true\nkeepalive_s = 20\n"
            "max_connections = 7\nwarm = 2\nmax_exchanges = 5\nmax_per_account = 3\ndefault_model = 'm'\n"
            "headers = {X-One = '1', X-Two = 'ü'}\n"
        )
        place.environ["MY_KEY"] = "k"
        settings = place.load()
        assert default_of(settings) == ("http://127.0.0.1:9000/v1", "k")
        upstream = settings.upstreams["mine"].upstream
        assert upstream == Upstream(
            name="mine",
            kind="openai",
            base=upstream.base,
            headers=((b"X-One", b"1"), (b"X-Two", "ü".encode())),
            forward_user_agent=True,
            keepalive_s=20.0,
            max_connections=7,
            warm=2,
            max_exchanges=5,
            max_per_account=3,
            default_model="m",
        )

    def test_a_table_starts_from_its_preset(self, place: Place) -> None:
        place.write("[upstreams.work]\npreset = 'coding-plan'\nkey = 'k'\nforward_user_agent = false\n")
        work = place.load().upstreams["work"].upstream
        assert str(work.base) == PRESETS["coding-plan"].base_url
        assert (work.name, work.kind, work.keepalive_s, work.forward_user_agent) == ("work", "plan", 45.0, False)
        assert work.models == PRESETS["coding-plan"].models

    def test_a_url_moves_a_preset(self, place: Place) -> None:
        place.write(
            "[upstreams.ws]\npreset = 'dashscope'\nurl = 'https://ws1.cn-beijing.maas.aliyuncs.com/v1'\nkey = 'k'"
        )
        workspace = place.load().upstreams["ws"].upstream
        assert (str(workspace.base), workspace.keepalive_s) == ("https://ws1.cn-beijing.maas.aliyuncs.com/v1", 45.0)

    def test_a_table_with_a_presets_name_changes_that_preset(self, place: Place) -> None:
        place.write("upstream = 'vllm'\n[upstreams.vllm]\nurl = 'http://gpu.example:8000/v1'\n")
        assert default_of(place.load()) == ("http://gpu.example:8000/v1", None)

    def test_a_tables_own_key_is_above_the_variable_of_its_preset(self, place: Place) -> None:
        place.write("[upstreams.a]\npreset = 'dashscope'\n[upstreams.b]\npreset = 'dashscope'\nkey = 'of-b'\n")
        place.environ["DASHSCOPE_API_KEY"] = "shared"
        upstreams = place.load().upstreams
        assert (upstreams["a"].key, upstreams["b"].key) == (Secret("shared"), Secret("of-b"))

    def test_a_flag_gives_the_chosen_table_its_key(self, place: Place) -> None:
        place.write("[upstreams.a]\npreset = 'dashscope'\n")
        place.flags |= {"upstream": "a", "upstream_key": "k"}
        assert default_of(place.load())[1] == "k"

    def test_several_keys_are_several_accounts(self, place: Place) -> None:
        place.write(MINE + "key = 'one'\nkeys = ['env:TWO', 'file:three', 'one']\n")
        place.write("three\n", "cwd/three")
        place.environ["TWO"] = "two"
        mine = place.load().upstreams["mine"]
        assert mine.key == Secret("one")
        assert mine.key_accounts() == {"key-1": Secret("one"), "key-2": Secret("two"), "key-3": Secret("three")}

    def test_a_lone_key_is_an_account_without_a_number(self, place: Place) -> None:
        place.write(MINE + "keys = ['one']\n[upstreams.open]\nurl = 'http://127.0.0.1:1/v1'\n")
        upstreams = place.load().upstreams
        assert upstreams["mine"].key_accounts() == {"key": Secret("one")}
        assert upstreams["open"].key_accounts() == {}

    def test_a_flag_replaces_all_keys_of_a_table(self, place: Place) -> None:
        place.write(MINE + "keys = ['one', 'two']\n")
        place.flags |= {"upstream": "mine", "upstream_key": "three"}
        assert place.load().upstreams["mine"].key_accounts() == {"key": Secret("three")}

    @pytest.mark.parametrize(
        "toml",
        [
            "[upstreams.a]\npreset = 'coding-plan'\nkeys = ['hush-1', 'hush-2']\n",
            "[upstreams.token-plan]\nkey = 'hush-1'\nkeys = ['hush-2']\n",
            MINE + "keys = ['hush-1', 'sk-sp-hush']\n",
        ],
    )
    def test_plan_keys_are_not_pooled_unasked(self, place: Place, toml: str) -> None:
        place.write(toml)
        message = place.refused()
        assert "has 2 keys of a plan: the plans' terms forbid to pool them" in message
        assert "pool_plan_keys = true" in message
        assert "hush" not in message
        place.flags["pool_plan_keys"] = True
        assert sum(len(each.keys) for each in place.load().upstreams.values()) == 2

    def test_one_key_of_a_plan_is_no_pool(self, place: Place) -> None:
        place.write("[upstreams.a]\npreset = 'coding-plan'\nkeys = ['one', 'one']\n")
        assert len(place.load().upstreams["a"].keys) == 1

    @pytest.mark.parametrize(
        ("toml", "part"),
        [
            (MINE + "keys = 'one'", "keys in [upstreams.mine] in qproxy.toml = (hidden): must be a list of keys"),
            (MINE + "keys = ['hush two']", "keys in [upstreams.mine] in qproxy.toml = (hidden): must be a key without"),
            (MINE + "keys = ['env:MISSING']", "keys in [upstreams.mine] in qproxy.toml = env:MISSING: that variable"),
            ("[upstreams.a]\npreset = 'qwen-oauth'\nkeys = ['k']", "neither key nor url"),
            ("[upstreams.a]", "[upstreams.a] in qproxy.toml must have url or preset"),
            ("[upstreams.'a:b']\nurl = 'http://h/v1'", "NAME of [upstreams.NAME] in qproxy.toml = 'a:b'"),
            ("[upstreams.default]\nurl = 'http://h/v1'", "and not 'default'"),
            ("[upstreams]\na = 'http://h/v1'", "upstreams.a in qproxy.toml = 'http://h/v1': must be a table"),
            ("upstreams = 1", "[upstreams] in qproxy.toml = 1: must be a table"),
            (MINE + "ulr = 'x'", "ulr in [upstreams.mine] in qproxy.toml is unknown: did you mean url?"),
            (MINE + "timeouts = {}", "timeouts in [upstreams.mine]"),
            ("[upstreams.a]\nurl = 'h'", "url in [upstreams.a] in qproxy.toml = 'h': the URL must start with"),
            ("[upstreams.a]\npreset = 'x'", "preset in [upstreams.a] in qproxy.toml = 'x': must be one of dashscope,"),
            ("[upstreams.a]\npreset = 'qwen-oauth'\nkey = 'k'", "neither key nor url"),
            ("[upstreams.qwen-oauth]\nurl = 'https://h/v1'", "neither key nor url"),
            ("[upstreams.a]\npreset = 'token-plan'", "BAILIAN_TOKEN_PLAN_API_KEY"),
            (MINE + "key = 3", "key in [upstreams.mine] in qproxy.toml = (hidden)"),
            (MINE + "keepalive_s = 0", "keepalive_s in [upstreams.mine]"),
            (MINE + "max_connections = 0", "max_connections in [upstreams.mine]"),
            (MINE + "warm = -1", "warm in [upstreams.mine]"),
            (MINE + "max_exchanges = -1", "max_exchanges in [upstreams.mine]"),
            (MINE + "max_per_account = -1", "max_per_account in [upstreams.mine]"),
            (MINE + "headers = 'x'", "headers in [upstreams.mine] in qproxy.toml = 'x': must be a table"),
            (MINE + "headers = {'a b' = 'x'}", "= 'a b': must be"),
            (MINE + "headers = {Host = 'x'}", "must not set Host"),
            (MINE + "headers = {authorization = 'x'}", "must not set authorization"),
            (MINE + "headers = {Transfer-Encoding = 'x'}", "must not set Transfer-Encoding"),
            (MINE + 'headers = {X = "hush\\r\\nY: z"}', "X in headers in [upstreams.mine] in qproxy.toml = (hidden)"),
            (MINE + "headers = {X = 1}", "X in headers in [upstreams.mine]"),
        ],
    )
    def test_what_cannot_be_meant(self, place: Place, toml: str, part: str) -> None:
        place.write(toml)
        message = place.refused()
        assert part in message
        assert "hush" not in message


class TestModels:
    def test_rules_keep_their_order(self, place: Place) -> None:
        place.write("[models]\n'b' = 'x'\n'a/*' = 'mine:*'\n'*' = 'y'\n")
        assert place.load().models == (("b", "x"), ("a/*", "mine:*"), ("*", "y"))

    def test_a_preset_that_a_rule_names_is_configured(self, place: Place) -> None:
        place.write(MINE + "[models]\nplan = 'token-plan:qwen3.7-plus'\n'ollama/*' = 'ollama:*'\n")
        place.environ["BAILIAN_TOKEN_PLAN_API_KEY"] = "k"
        settings = place.load()
        assert sorted(settings.upstreams) == ["mine", "ollama", "token-plan"]
        assert settings.default_upstream == "mine"

    def test_another_colon_is_a_models_own(self, place: Place) -> None:
        place.write(MINE + "[models]\nsmall = 'qwen3:8b'\n")
        assert list(place.load().upstreams) == ["mine"]

    @pytest.mark.parametrize(
        "rule", ["a = 1", "a = ''", "'' = 'b'", "'a*b' = 'c'", "'a/*' = 'b*c'", "a = 'mine:*'", '"a\\n" = "b"']
    )
    def test_rules_that_cannot_be_meant(self, place: Place, rule: str) -> None:
        place.write(f"[models]\n{rule}")
        assert "in [models] in qproxy.toml" in place.refused()


class TestNotices:
    def test_the_native_api_as_a_base(self, place: Place) -> None:
        place.flags |= {"upstream": "https://dashscope.aliyuncs.com/api/v1", "upstream_key": "k"}
        (notice,) = place.load().notices
        assert notice.startswith("upstream default: /api/v1 is DashScope's own API")

    def test_a_plans_key_on_a_general_host(self, place: Place) -> None:
        place.environ["DASHSCOPE_API_KEY"] = "sk-sp-hush"
        (notice,) = place.load().notices
        assert "belongs to a plan" in notice
        assert "hush" not in notice
