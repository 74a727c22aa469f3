"""Request bodies: every rule and every error by example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qproxy.core.jsonscan import MAX_DEPTH
from qproxy.core.splice import COPIED_BYTES, BodyFacts, DefaultModel, IncludeUsage, Rename, apply, examine
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from qproxy.core.splice import Edit

WHOLE = 256 * 1024
LONG = 0  # every body is a long one


def facts_of(body: bytes, *, inspect_bytes: int = WHOLE) -> BodyFacts:
    return examine([body], inspect_bytes=inspect_bytes)


def edited(body: bytes, *edits: Edit, inspect_bytes: int = WHOLE) -> bytes:
    facts = examine([body], inspect_bytes=inspect_bytes)
    return b"".join(apply([body], facts, edits))


def refused(body: bytes, *, inspect_bytes: int = WHOLE) -> DownstreamError:
    with pytest.raises(DownstreamError) as caught:
        examine([body], inspect_bytes=inspect_bytes)
    return caught.value


def long_body(first: str = "", last: str = "", content: str = 'say "model" and "stream"') -> bytes:
    """Messages of about 200 KB with the members `first` in front of them and `last` behind them."""
    messages = '"messages":' + json.dumps([{"role": "user", "content": content * 100}] * 60)
    return ("{" + ",".join(filter(None, [first, messages, last])) + "}").encode()


# What is read


@pytest.mark.parametrize(
    ("body", "model", "has_model", "stream"),
    [
        (b"{}", None, False, False),
        (b' \n{"model" : "a" }\t', "a", True, False),
        (b'{"model":"a","stream":true}', "a", True, True),
        (b'{"stream":false,"model":""}', "", True, False),
        (b'{"model":null,"stream":null}', None, True, None),
        (b'{"model":["a"],"stream":"true"}', None, True, None),
        (b'{"model":"a","stream":1}', "a", True, None),
        (b'{"\\u006dodel":"a","str\\u0065am":true}', "a", True, True),
        (b'{"model":"q\\u0077en \\u00e9\\ud83d\\ude00"}', "qwen é\U0001f600", True, False),
        (b'{"model":"\\ud800"}', "\ufffd", True, False),
        (b'{"messages":[{"model":"x","stream":true}],"a":"model"}', None, False, False),
        (b'{"say \\"model":"x","b":"\\"model\\":\\"y\\""}', None, False, False),
        (b'{"tools":[{"model":{"stream":1}}],"model":"a","stream":true,"b":{"model":1}}', "a", True, True),
        (b'{"Model":"x"}', None, False, False),
    ],
)
def test_facts(body: bytes, model: str | None, has_model: bool, stream: bool | None) -> None:
    facts = facts_of(body)
    assert (facts.model, facts.has_model, facts.stream, facts.checked) == (model, has_model, stream, True)
    if facts.model_span is not None:
        assert json.loads(body[slice(*facts.model_span)]).replace("\ud800", "\ufffd") == model


@pytest.mark.parametrize(
    ("first", "last", "stream"),
    [
        ('"model":"a"', "", None),
        ('"model":"a","stream":true', "", True),
        ("", '"model":"a"', None),
        ("", '"model":"a","stream":false', False),
        ('"stream":true', '"model":"a"', True),
        ('"model":"a"', '"stream":false', False),
        ('"model":"a"', '"stream":null', None),
        ('"model":"z"', '"model":"a"', None),  # the last one counts
        ('"model":"a","tools":[{"model":1}]', '"tools":[{"model":1}]', None),
    ],
)
def test_a_long_body_is_read_at_its_ends(first: str, last: str, stream: bool | None) -> None:
    body = long_body(first, last)
    facts = facts_of(body, inspect_bytes=len(body) - 1)
    assert (facts.model, facts.has_model, facts.stream, facts.checked) == ("a", True, stream, False)
    assert facts.model_span is not None
    assert body[slice(*facts.model_span)] == b'"a"'


def test_a_body_of_exactly_the_limit_is_checked_whole() -> None:
    body = long_body('"model":"z"', '"model":"a"')
    assert refused(body, inspect_bytes=len(body)).code == "duplicate_key"
    assert facts_of(body, inspect_bytes=len(body) - 1).model == "a"


@pytest.mark.parametrize("model", ['"model":"a"', r'"\u006dodel":"a"'])
def test_a_model_in_the_middle_of_a_long_body_takes_a_whole_check(model: str) -> None:
    padding = f'"pad":"{"x" * 70_000}"'
    body = long_body(f"{padding},{model}", padding)
    facts = facts_of(body, inspect_bytes=LONG)
    assert (facts.model, facts.stream, facts.checked) == ("a", False, True)
    assert edited(body, Rename("b"), inspect_bytes=LONG) == body.replace(b':"a"', b':"b"')


@pytest.mark.parametrize("last", [r'"\u006dodel":"z"', r'"model":"z","\u006dodel":"z"', r'"\u0078":1,"model":"z"'])
def test_a_model_in_the_head_does_not_count_where_the_tail_may_have_another(last: str) -> None:
    assert refused(long_body('"model":"a"', last + r',"\u0079":1'), inspect_bytes=LONG).code == "duplicate_key"


@pytest.mark.parametrize("piece_bytes", [1, 7, 30, 1000])
@pytest.mark.parametrize(
    ("before", "behind", "needed_bytes"),
    [
        (b'{"pad":"234567890",', b',"pad":"' + b"x" * 500 + b'"}', len('{"pad":"234567890","model":"a"')),
        (b'{"pad":"' + b"x" * 500 + b'",', b',"pad":"234567890"}', len(',"model":"a","pad":"234567890"}')),
    ],
)
def test_no_more_than_the_ends_is_looked_at(before: bytes, behind: bytes, needed_bytes: int, piece_bytes: int) -> None:
    body = before + b'"model":"a"' + behind
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]
    assert examine(pieces, inspect_bytes=LONG, window_bytes=needed_bytes - 1).checked
    assert not examine(pieces, inspect_bytes=LONG, window_bytes=needed_bytes).checked


@pytest.mark.parametrize("model", ["1", "null", '{"a":"b"}'])
def test_a_long_body_whose_model_is_no_string_is_checked_whole(model: str) -> None:
    facts = facts_of(long_body(f'"model":{model}'), inspect_bytes=LONG)
    assert (facts.model, facts.has_model, facts.checked) == (None, True, True)


def test_what_the_ends_do_not_show_is_left_to_the_upstream() -> None:
    body = long_body('"model":"a","temperature":NaN') + b"trailing \xff"
    assert facts_of(body, inspect_bytes=LONG).model == "a"


@pytest.mark.parametrize("start", [b"[", b"\xef\xbb\xbf{", b'"a",{', b""])
def test_a_long_body_that_does_not_begin_like_an_object_is_refused(start: bytes) -> None:
    body = start + long_body(last='"model":"a"')[1:]
    assert refused(body, inspect_bytes=LONG).code == "invalid_json"


# What is refused


@pytest.mark.parametrize(
    ("body", "code", "fragment"),
    [
        (b"", "invalid_json", "line 1, column 1: it is empty"),
        (b" \n\t", "invalid_json", "line 1, column 1: it is empty"),
        (b"[]", "invalid_json", "must be a JSON object"),
        (b"null", "invalid_json", "must be a JSON object"),
        (b'"model"', "invalid_json", "must be a JSON object"),
        (b'{"model":"a"', "invalid_json", "line 1, column 13: the body ends too early"),
        (b'{"a":1}\n\n x', "invalid_json", "line 3, column 2"),
        (b'{"a":1}{}', "invalid_json", "line 1, column 8"),
        (b'{\n  "a": 1,\n  "b": tru\n}', "invalid_json", "line 3, column 8"),
        ('{"é":"\u4f60", \'a\'}'.encode(), "invalid_json", "line 1, column 11: strings take double quotes"),
        (b'{"a":1,}', "invalid_json", "line 1, column 7"),
        (b'{"a":NaN}', "invalid_json", "line 1, column 6: NaN"),
        (b'{"a":Infinity}', "invalid_json", "line 1, column 6: Infinity"),
        (b'{"a":-Infinity}', "invalid_json", "line 1, column"),
        (b'{"a":True}', "invalid_json", "line 1, column 6: write true"),
        (b'{"a":01}', "invalid_json", "line 1, column 6"),
        (b'{"a":"x\ny"}', "invalid_json", "line 1, column 8: a line break"),
        (b'{"a":"\x00"}', "invalid_json", "line 1, column 7"),
        (b'{"a":"\\x"}', "invalid_json", "line 1, column"),
        (b"{} // done", "invalid_json", "line 1, column 4: JSON has no comments"),
        (b'{"a":"\\ud800"} x', "invalid_json", "line 1, column 16"),
        (b"{}\0", "invalid_json", "line 1, column 3"),
        (b"\xef\xbb\xbf{}", "invalid_json", "byte order mark"),
        ('{"a":1}'.encode("utf-16-le"), "invalid_json", "UTF-16"),
        ('{"a":1}'.encode("utf-32-be"), "invalid_json", "UTF-16"),
        ('{"a":1}'.encode("utf-16"), "invalid_utf8", "byte 0xff at offset 0"),
        (b'{"a":"\xff"}', "invalid_utf8", "byte 0xff at offset 6"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8", "offset 6"),
        (b'{"a":"\xc3"}', "invalid_utf8", "offset 6"),
        (b'{"a":"\xc0\xaf"}', "invalid_utf8", "offset 6"),
        (b"[" * 100_000, "too_deep", "1024"),
        (b'{"a":' * 100_000, "too_deep", "1024"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep", "1024"),
        (b'{"a":"\\ud800","b":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep", "1024"),
        (b'{\n  "a":' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"}", "too_deep", "1024"),
        (b'{"a":"' + b"[" * 2000 + b'"', "invalid_json", "ends too early"),
    ],
)
def test_refusals(body: bytes, code: str, fragment: str) -> None:
    error = refused(body)
    assert (error.code, error.param) == (code, None)
    assert fragment in error.message


@pytest.mark.parametrize("first", [r'"a":"\ud800"', '"a":1', '"a":[]'])
def test_nesting_up_to_the_limit_is_taken(first: str) -> None:
    body = b'{%b,"b":%b%b}' % (first.encode(), b"[" * (MAX_DEPTH - 1), b"]" * (MAX_DEPTH - 1))
    assert facts_of(body).checked


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"model":"a","m":{"model":"b"},"model":1}', "model"),
        (b'{"model":"a","\\u006dodel":"b"}', "model"),
        (b'{"\\u006dodel":"a","mode\\u006C":"b"}', "model"),
        (b'{"stream":true,"model":"a","stream":false}', "stream"),
        (b'{"stream":true,"\\u0073tream":true}', "stream"),
        (b'{"model":"a","model":"b","stream":true,"stream":true}', "model"),
    ],
)
def test_repeated_keys(body: bytes, key: str) -> None:
    error = refused(body)
    assert (error.code, error.param) == ("duplicate_key", key)
    assert f'"{key}"' in error.message


# What is edited


@pytest.mark.parametrize(
    ("body", "edit", "expected"),
    [
        (b'{"model":"a"}', Rename("b"), b'{"model":"b"}'),
        (b' { "model"\t:\n"a" , "x":1.0 } ', Rename("b"), b' { "model"\t:\n"b" , "x":1.0 } '),
        (b'{"\\u006dodel":"q\\u0077"}', Rename('"\n\\é\U0001f600'), '{"\\u006dodel":"\\"\\n\\\\é\U0001f600"}'.encode()),
        (b'{"a":{"model":"a"},"model":"a"}', Rename("b"), b'{"a":{"model":"a"},"model":"b"}'),
        (b'{"model":null}', Rename("b"), b'{"model":null}'),
        (b'{"a":1}', Rename("b"), b'{"a":1}'),
        (b"{}", DefaultModel("b"), b'{"model":"b"}'),
        (b" {\n} ", DefaultModel("b"), b' {"model":"b"\n} '),
        (b' { "a":1}', DefaultModel('"'), b' {"model":"\\"", "a":1}'),
        (b'{"a":{"model":"a"}}', DefaultModel("b"), b'{"model":"b","a":{"model":"a"}}'),
        (b'{"model":"a"}', DefaultModel("b"), b'{"model":"a"}'),
        (b'{"model":null}', DefaultModel("b"), b'{"model":null}'),
        (b'{"model":""}', DefaultModel("b"), b'{"model":""}'),
    ],
)
def test_model_edits(body: bytes, edit: Edit, expected: bytes) -> None:
    assert edited(body, edit) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("null", '{"include_usage":true}'),
        ("{}", '{"include_usage":true}'),
        ("{ }", '{"include_usage":true }'),
        ('{"include_usage":false}', '{"include_usage":true}'),
        ('{"include_usage" : null , "a":0}', '{"include_usage" : true , "a":0}'),
        ('{"include_usage":true}', '{"include_usage":true}'),
        ('{"include_usage":"no"}', '{"include_usage":"no"}'),
        ('{ "a":{"include_usage":false}}', '{"include_usage":true, "a":{"include_usage":false}}'),
        ('{"include_usage":false,"include_usage":null}', '{"include_usage":false,"include_usage":true}'),
        ('{"include_usage":false,"include_usage":true}', '{"include_usage":false,"include_usage":true}'),
        (r'{"\u0069nclude_usage":false}', r'{"\u0069nclude_usage":true}'),
        ("[]", "[]"),
        ("1", "1"),
        ('"include_usage"', '"include_usage"'),
    ],
)
@pytest.mark.parametrize("key", ['"stream_options"', r'"stream\u005foptions"', r'"stream\u005Foptions"'])
@pytest.mark.parametrize("inspect_bytes", [WHOLE, LONG])
def test_include_usage(options: str, expected: str, key: str, inspect_bytes: int) -> None:
    before, after = f'{{"model":"a","stream":true,{key}:'.encode(), b',"temperature":0}'
    body = before + options.encode() + after
    assert edited(body, IncludeUsage(), inspect_bytes=inspect_bytes) == before + expected.encode() + after


@pytest.mark.parametrize("stream", ["", '"stream":false,', '"stream":null,', '"stream":1,', '"s":{"stream":true},'])
@pytest.mark.parametrize("inspect_bytes", [WHOLE, LONG])
def test_usage_is_not_asked_for_without_a_stream(stream: str, inspect_bytes: int) -> None:
    body = f'{{"model":"a",{stream}"stream_options":null}}'.encode()
    assert edited(body, IncludeUsage(), inspect_bytes=inspect_bytes) == body


def test_usage_is_put_in_front_where_there_are_no_options() -> None:
    body = b' { "model":"a","stream":true,"a":"stream_options","b":{"stream_options":null}}'
    assert edited(body, IncludeUsage()) == b' {"stream_options":{"include_usage":true},' + body[2:]


def test_of_repeated_options_the_last_ones_are_edited() -> None:
    body = b'{"stream_options":{"include_usage":true},"stream":true,"stream_options":null}'
    assert edited(body, IncludeUsage()) == body.replace(b"null", b'{"include_usage":true}')


def test_usage_in_long_bodies() -> None:
    put_in = b'{"stream_options":{"include_usage":true},'
    for first, last in [('"model":"a","stream":true', ""), ("", '"model":"a","stream":true')]:
        body = long_body(first, last)
        assert edited(body, IncludeUsage(), inspect_bytes=LONG) == put_in + body[1:]
    body = long_body('"model":"a"', f'"stream":true,"pad":"{"x" * 70_000}"')
    assert facts_of(body, inspect_bytes=LONG).stream is None
    assert edited(body, IncludeUsage(), inspect_bytes=LONG) == put_in + body[1:]
    body = long_body('"model":"a","stream":true', f'"stream_options":null,"pad":"{"x" * 70_000}"')
    assert edited(body, IncludeUsage(), inspect_bytes=LONG) == body.replace(b"null", put_in[18:-1])
    body = long_body('"model":"a","stream":true', content='the "stream_options" of')
    assert edited(body, IncludeUsage(), inspect_bytes=LONG) == put_in + body[1:]


@pytest.mark.parametrize("known", ['"model":"a"', '"model":"a","stream":true'])
def test_an_edit_that_needs_an_invalid_body_whole_is_refused(known: str) -> None:
    body = long_body(f'{known},"temperature":NaN', content='the "stream_options" of')
    body = body.replace(b'\\"stream_options\\"', b'","stream_options":"', 1)
    facts = facts_of(body, inspect_bytes=LONG)
    with pytest.raises(DownstreamError) as caught:
        apply([body], facts, [IncludeUsage()])
    assert caught.value.code == "invalid_json"


def test_several_edits_at_once() -> None:
    body = b'{"model":"a","stream":true,"stream_options":{}}'
    expected = b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}'
    assert edited(body, IncludeUsage(), Rename("b"), DefaultModel("c")) == expected
    expected = b'{"model":"b","stream_options":{"include_usage":true},"stream":true}'
    assert edited(b'{"stream":true}', DefaultModel("b"), IncludeUsage()) == expected


# What stays


def test_falsy_values_repeated_keys_and_forms_of_numbers_stay() -> None:
    rest = b',"temperature":0,"a":"","b":null,"c":[],"d":false,"a":-0.0,"n":1E+2,"n":123456789012345678901,"e":"\\/"}'
    assert edited(b'{"model":"a"' + rest, Rename("b")) == b'{"model":"b"' + rest
    assert edited(b'{"x":0' + rest, DefaultModel("b")) == b'{"model":"b","x":0' + rest


def test_other_repeated_keys_and_a_body_that_names_a_destination_pass() -> None:
    body = b'{"model":"a","user":1,"user":2,"api_base":"http://127.0.0.1","api_key":"k","base_url":""}'
    assert edited(body) == body


def test_without_an_edit_the_pieces_are_the_same() -> None:
    pieces = [b'{"mo', b"", b'del":"a"}']
    facts = examine(pieces, inspect_bytes=WHOLE)
    for edits in ([], [DefaultModel("b")], [IncludeUsage()]):
        kept = apply(pieces, facts, edits)
        assert len(kept) == 3
        assert all(piece is same for piece, same in zip(pieces, kept, strict=True))


def test_untouched_pieces_are_shared_and_long_parts_are_views() -> None:
    body = long_body('"model":"a"')
    pieces = [body[:40_000], body[40_000:80_000], body[80_000:]]
    kept = apply(pieces, examine(pieces, inspect_bytes=LONG), [Rename("b")])
    assert [bytes(part) for part in kept[:2]] == [b'{"model":', b'"b"']
    assert isinstance(kept[2], memoryview)
    assert kept[2].obj is pieces[0]
    assert len(kept[2]) > COPIED_BYTES
    assert (kept[3] is pieces[1], kept[4] is pieces[2]) == (True, True)


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"0.1e-999", b"1" * 400])
def test_numbers_of_any_size_are_the_upstreams_to_judge(number: bytes) -> None:
    assert examine([b'{"model":"m","a":' + number + b"}"], inspect_bytes=WHOLE).model == "m"


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1" * 400])
def test_also_where_a_number_stands_in_place_of_a_fact(number: bytes) -> None:
    body = b'{"model":' + number + b',"stream":' + number + b"}"
    facts = facts_of(body)
    assert (facts.model, facts.has_model, facts.model_span, facts.stream) == (None, True, None, None)
    assert edited(body, Rename("b"), DefaultModel("b"), IncludeUsage()) == body


def test_many_brackets_in_strings_are_no_depth() -> None:
    body = b'{"model":"m","a":"' + b"[" * 5000 + b'"}'
    assert examine([body], inspect_bytes=WHOLE).checked


@pytest.mark.parametrize("depth", [900, 1000, 1010, MAX_DEPTH - 1])
def test_what_is_nested_up_to_the_limit_passes(depth: int) -> None:
    body = b'{"model":"m","a":' + b"[" * depth + b"]" * depth + b"}"
    assert examine([body], inspect_bytes=WHOLE).checked
