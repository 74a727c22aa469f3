from __future__ import annotations

import pytest

from qproxy.core.upstream import BaseUrl
from qproxy.upstreams import KINDS, PRESETS
from qproxy.upstreams.openai import GENERIC
from qproxy.upstreams.preset import Preset

ORDER = [
    "dashscope",
    "dashscope-intl",
    "dashscope-us",
    "dashscope-hk",
    "coding-plan",
    "coding-plan-intl",
    "token-plan",
    "token-plan-intl",
    "vllm",
    "sglang",
    "ollama",
    "llamacpp",
    "qwen-oauth",
]
PLAN_KEY = "sk-sp-secret"


def test_the_table_has_the_documented_rows_in_their_order() -> None:
    assert list(PRESETS) == ORDER


@pytest.mark.parametrize("preset", PRESETS.values(), ids=ORDER)
class TestEveryPreset:
    def test_its_url_is_a_base_url_in_normal_form(self, preset: Preset) -> None:
        if preset.base_url:
            assert str(BaseUrl.parse(preset.base_url)) == preset.base_url
            assert preset.base_url.endswith("/v1")

    def test_its_address_is_known_or_comes_with_the_credential(self, preset: Preset) -> None:
        upstream = preset.upstream()
        assert (upstream.name, upstream.kind, upstream.keepalive_s) == (preset.name, preset.kind, preset.keepalive_s)
        assert (upstream.base is None) == (preset.kind == "qwen_oauth")

    def test_a_required_key_has_a_variable(self, preset: Preset) -> None:
        assert preset.key_required == bool(preset.key_variable)

    def test_plain_http_only_to_this_machine_and_without_a_key(self, preset: Preset) -> None:
        if preset.base_url.startswith("http://"):
            assert preset.base_url.startswith("http://127.0.0.1:")
            assert not preset.key_required

    def test_its_kind_knows_it(self, preset: Preset) -> None:
        assert preset in KINDS[preset.kind].presets

    def test_an_upstream_without_a_list_has_built_in_ids(self, preset: Preset) -> None:
        assert preset.has_model_list or preset.models

    def test_the_idle_limit_is_below_what_its_servers_keep(self, preset: Preset) -> None:
        assert preset.keepalive_s == (4.0 if preset.kind == "selfhosted" else 45.0)

    def test_only_plans_see_the_clients_own_user_agent(self, preset: Preset) -> None:
        assert preset.forward_user_agent == (preset.kind == "plan")

    def test_its_own_address_is_no_mistake(self, preset: Preset) -> None:
        base = preset.upstream().base
        if base is not None:
            assert KINDS[preset.kind].mistakes(base, "sk-1") == ()

    def test_it_says_what_people_get_wrong(self, preset: Preset) -> None:
        assert preset.hint


def test_the_login_has_a_default_model_from_its_own_list() -> None:
    login = PRESETS["qwen-oauth"]
    assert login.default_model == "qwen3-coder-plus"
    assert login.default_model in login.models


@pytest.mark.parametrize("kind", ["dashscope", "plan", "openai"])
def test_the_native_api_is_pointed_out(kind: str) -> None:
    base = BaseUrl.parse("https://dashscope-intl.aliyuncs.com/api/v1")
    (mistake,) = KINDS[kind].mistakes(base, "sk-1")
    assert "/compatible-mode/v1" in mistake


@pytest.mark.parametrize(
    "url",
    [
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode/v1",
        "https://ws1.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
    ],
)
def test_a_plans_key_on_a_general_host_is_pointed_out_without_quoting_it(url: str) -> None:
    (mistake,) = KINDS["dashscope"].mistakes(BaseUrl.parse(url), PLAN_KEY)
    assert "coding-plan" in mistake
    assert PLAN_KEY not in mistake


@pytest.mark.parametrize("name", [name for name in ORDER if "plan" in name])
def test_a_plans_key_on_a_plans_host_is_right(name: str) -> None:
    base = PRESETS[name].upstream().base
    assert base is not None
    assert KINDS["plan"].mistakes(base, PLAN_KEY) == ()


@pytest.mark.parametrize("url", ["https://api.example/api/v1", "https://notdashscope.aliyuncs.com.example/api/v1"])
def test_other_hosts_may_use_any_path_and_key(url: str) -> None:
    assert KINDS["openai"].mistakes(BaseUrl.parse(url), PLAN_KEY) == ()


def test_an_unknown_server_is_reused_as_carefully_as_a_self_hosted_one() -> None:
    assert GENERIC.keepalive_s == 4.0
    assert not GENERIC.forward_user_agent
