"""Constrained answers: whatever the model, they fit the grammar. A model with random weights is the hardest one."""

import json
import re
import uuid
import warnings

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_runtime import LLM
from gguf_runtime.sampling import Sampler, SamplingParams
from gguf_runtime.sampling.candidates import Candidates
from gguf_runtime.sampling.constraint import Constraint, GrammarError, SchemaWarning, gbnf_grammar
from gguf_runtime.tokenizer import Tokenizer
from tests.test_tokenizer import read_metadata, spm_keys

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WORDS = st.text("etaoinsh", min_size=1, max_size=4)
INTEGERS = st.integers(-(2**53), 2**53)
LEAVES = st.one_of(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "string", "format": "date"},
            {"type": "string", "pattern": "^[a-f]{1,8}$"},
            {"type": ["integer", "null"], "minimum": 5, "maximum": 12},
        ]
    ),
    st.builds(lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n},
              st.integers(-99, 99), st.integers(0, 999)),
    st.builds(lambda a, n: {"type": "string", "minLength": a, "maxLength": a + n},
              st.integers(0, 3), st.integers(0, 6)),
    st.builds(lambda values: {"enum": values}, st.lists(WORDS | INTEGERS | st.none(), min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, WORDS),
)  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda schemas: st.one_of(
        st.builds(
            lambda items, low, n: {"type": "array", "items": items, "minItems": low, "maxItems": low + n},
            schemas, st.integers(0, 1), st.integers(0, 2),
        ),
        st.builds(
            lambda properties, n: {
                "type": "object", "properties": properties, "required": sorted(properties)[:n],
                "additionalProperties": False,
            },
            st.dictionaries(WORDS, schemas, max_size=3), st.integers(0, 3),
        ),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(schemas, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def llm(model):
    with LLM(model, n_ctx=2048) as llm:
        yield llm


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCHEMAS, st.integers(0, 999))
def test_json_of_any_schema_parses_and_validates(llm, schema, seed):
    answer = llm.stream("x", max_tokens=1500, seed=seed, json_schema=json.dumps(schema), temperature=1.5)
    text = "".join(answer)
    assert answer.stop_reason == "end"
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


CAT = {"type": "object", "properties": {"kind": {"const": "cat", "type": "string"}, "lives": {"type": "integer",
       "default": 9, "minimum": 0, "maximum": 9}}, "required": ["kind"], "title": "Cat", "additionalProperties": False}
DOG = {"type": "object", "properties": {"kind": {"const": "dog", "type": "string"}, "good": {"type": "boolean"}},
       "required": ["kind"], "title": "Dog", "additionalProperties": False}
#: As pydantic 2, schemars and OpenAPI write them.
WRITTEN = {
    "any": True,
    "union": {"$defs": {"Cat": CAT, "Dog": DOG}, "discriminator": {"propertyName": "kind"},
              "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
    "union as text": {"$defs": {"Cat": CAT, "Dog": DOG}, "items": {"anyOf": [{"$ref": "#/$defs/Cat"}, DOG]},
                      "type": "array", "title": "Pets", "maxItems": 2, "uniqueItems": False},
    "literal": {"enum": [1, "x", None, True, {"a": [1]}], "title": "Mixed"},
    "optional": {"anyOf": [{"maximum": 5, "minimum": -5, "type": "integer"}, {"type": "null"}], "default": None},
    "i64": {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1, "default": 2**60},
    "u64": {"type": "integer", "format": "uint64", "minimum": 0.0, "maximum": 2**64 - 1},
    "email": {"type": "string", "format": "email"},
    "uri": {"type": "string", "format": "uri", "minLength": 1},
    "hostname": {"type": "string", "format": "hostname"},
    "datetime": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid4"},
    "tuple": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "boolean"}, {"type": "null"}], "type": "array"},
    "tree": {"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object", "properties": {
        "value": {"type": "boolean"}, "children": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/Node"}}},
        "required": ["value"], "additionalProperties": False}}},
    "openapi": {"$ref": "#/components/schemas/A", "components": {"schemas": {"A": {"type": "object", "properties": {
        "n": {"type": "integer", "minimum": 1, "maximum": 3, "example": 2}}, "required": ["n"],
        "additionalProperties": False}}}},
    "allOf": {"allOf": [{"$ref": "#/$defs/A"}, {"type": "object", "properties": {"b": {"type": "boolean"}},
              "required": ["b"]}], "$defs": {"A": {"type": "object", "properties": {"a": {"type": "null"}},
              "required": ["a"]}}, "maxProperties": 2},
    "map": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "maxProperties": 3,
            "patternProperties": {"^x[0-9]$": {"type": "integer", "minimum": 0, "maximum": 9}},
            "additionalProperties": False},
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_schemas_as_they_are_written(llm, name):
    for seed in range(4):
        # free texts and members without end are for other tests
        answer = llm.stream("x", max_tokens=1000, seed=seed, json_schema=WRITTEN[name], temperature=0.8)
        text = "".join(answer)
        if answer.stop_reason == "end" or name != "any":
            value = json.loads(text)
            jsonschema.validate(value, WRITTEN[name], format_checker=jsonschema.FormatChecker())
    assert name != "uuid" or uuid.UUID(value).version == 4


def test_what_openapi_3_0_writes_otherwise(llm):
    schema = {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 2, "nullable": True}
    seen = {llm.generate("x", json_schema=schema, seed=seed, top_k=0) for seed in range(40)}
    assert seen == {"1", "2", "null"}


@pytest.mark.parametrize("format", ["path", "binary", "password", "regex", "x-mine"])
def test_formats_that_are_not_known_are_told_and_left_out(llm, format):
    schema = {"type": "object", "properties": {"p": {"type": "string", "format": format, "maxLength": 9}}}
    with pytest.warns(SchemaWarning, match=f"'{format}' .at #/properties/p. is not known"):
        text = llm.generate("x", json_schema={**schema, "required": ["p"], "additionalProperties": False}, seed=1)
    assert len(json.loads(text)["p"]) <= 9


def test_a_oneof_whose_cases_cannot_be_told_apart_is_an_anyof(llm):
    cases = [{"type": "object", "properties": {key: {"type": "boolean"}}, "required": [key]} for key in "ab"]
    with pytest.warns(SchemaWarning, match="cannot tell the cases of a oneOf apart"):
        llm.stream("x", json_schema={"oneOf": cases})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm.stream("x", json_schema=WRITTEN["union"])


def test_a_type_that_is_only_meant(llm):
    """And null for what is not set, as programs write it that have a field for each keyword."""
    unset = dict.fromkeys(("title", "enum", "required", "anyOf", "format"))
    cases = [
        ({"properties": {"a": {"type": "null"}}, "additionalProperties": False, **unset}, dict),
        ({"items": {"type": "null"}, "maxItems": 2, **unset}, list),
        ({"maxLength": 3, **unset}, str),
        ({"minimum": 2, "maximum": 9, **unset}, int | float),
    ]
    for schema, kind in cases:
        for seed in range(3):
            assert isinstance(json.loads(llm.generate("x", json_schema=schema, seed=seed)), kind)


def test_keywords_that_are_not_known_are_told(llm):
    with pytest.warns(SchemaWarning, match="proprties .at #. is no keyword"):
        llm.stream("x", json_schema={"type": "object", "proprties": {}, "x-order": 1})


@pytest.mark.parametrize(
    "keyword, value, words",
    [
        ("uniqueItems", True, "doubles"),
        ("not", {"type": "string"}, "enum"),
        ("if", {"type": "string"}, "anyOf"),
        ("contains", {"type": "string"}, "prefixItems"),
        ("propertyNames", {"pattern": "^a"}, "patternProperties"),
        ("dependentRequired", {"a": ["b"]}, "anyOf"),
        ("pattern", "^(?!a)b", "looks ahead"),
    ],
)
def test_what_no_answer_can_be_held_to_is_told(llm, keyword, value, words):
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {keyword: value}}}
    with pytest.raises(GrammarError, match=f"{keyword} .at #/.defs/X.*{words}"):
        llm.stream("x", json_schema=schema)


def test_any_json_object(llm):
    for seed in range(20):
        answer = llm.stream("x", max_tokens=400, seed=seed, json_schema={"type": "object"}, top_k=0)
        text = "".join(answer)
        if answer.stop_reason == "end":  # a random model may go on for long
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "more", [{}, {"temperature": 0}, {"top_k": 0, "typical_p": 0.5}, {"mirostat": 2}, {"ignore_eos": True}]
)
def test_other_samplers_stay_within_the_grammar(llm, more):
    text = llm.generate("x", json_schema=SCHEMA, seed=1, max_tokens=200, **more)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_the_prompt_is_no_part_of_it(llm):
    assert llm.generate('{"name": 3', regex="yes|no", seed=2) in ("yes", "no")


@pytest.mark.parametrize("regex", ["(a|b){3,9}[0-9]+x", r"\d{4}-\d\d", "é+ü{2}", "[^a-z\\n]{5}"])
def test_a_regular_expression(llm, regex):
    for seed in range(5):
        answer = llm.stream("x", regex=regex, seed=seed, max_tokens=300, top_k=0)
        text = "".join(answer)
        assert answer.stop_reason != "end" or re.fullmatch(regex, text)


def test_a_grammar(llm):
    gbnf = """
    # sums
    root ::= sum "\\n"
    sum  ::= term ("+" term){2,4}
    term ::= "(" sum ")" | [0-9] [0-9]?
    """
    for seed in range(5):
        text = llm.generate("x", grammar=gbnf, seed=seed, max_tokens=300, temperature=0.5)
        assert text.endswith("\n") and isinstance(eval(re.sub(r"\b0+(\d)", r"\1", text)), int)  # noqa: S307


JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws  # with "escapes"
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    "grammar, fits, others",
    [
        (JSON_GBNF, ['{"a": 1}', '{"a": [1, 2.5, true], "b": "x\\n"}', "{}"], ["[1]", '{"a" 1}', "{'a':1}"]),
        (r'root ::= "\u00e9" [\u0400-\u04FF]+ "\U0001F600"', ["éЖ😀"], ["eЖ😀", "é😀"]),
        (r'root ::= "\x41" [\x30-\x39] [ぁ-ゟ]', ["A5ぁ"], ["B5ぁ", "A5a"]),
        (r'root ::= "\[x\]" [\[\]] [\"] [-/+]', ['[x]]"/', '[x]["-'], ['x]"/']),
        ('root ::= ("a" | "b"\n  | "c")+ a-2 | ""\na-2 ::= . {2} "!"{2,}', ["abcxy!!", ""], ["ab!!"]),
    ],
)
def test_the_notation_of_gbnf(llm, grammar, fits, others):
    for text in (*fits, *others):
        constraint = Constraint(gbnf_grammar(grammar), llm.tokenizer)
        ids = [*llm.tokenize(text, add_special=False), llm.tokenizer.eos_id]
        everything = Candidates(np.arange(llm.tokenizer.n_vocab), np.zeros(llm.tokenizer.n_vocab, np.float32))
        for token in ids:
            left = constraint(everything)
            if not np.isfinite(left.logits[left.ids == token]).any():
                break
            constraint.accept(token)
        else:
            assert text in fits
            continue
        assert text in others


def test_special_tokens_are_no_text(llm):
    text = llm.generate("x", regex="(.|\n){40,60}", seed=1)
    assert "<|" not in text and 40 <= len(text) <= 60


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"json_schema": "{"}, "JSON schema"),
        ({"json_schema": {"type": 3}}, "type"),
        ({"json_schema": {"allOf": 3}}, "JSON schema"),
        ({"json_schema": False}, "allows nothing"),
        ({"json_schema": {"items": {"type": "STRING"}}}, "'STRING' .at #/items.* string, number"),
        ({"json_schema": {"$ref": "#/$defs/x"}}, "does not exist"),
        ({"json_schema": {"enum": [2**53 + 1]}}, "no longer exact"),
        ({"grammar": "root ::= nowhere"}, "nowhere"),
        ({"grammar": "root := 'x'"}, "GBNF"),
        ({"regex": "(a"}, "regex"),
        ({"regex": "caf\udce9"}, "no text in UTF-8"),
        ({"grammar": r'root ::= "\uD83D\uDE00"'}, "half a surrogate pair"),
    ],
)
def test_wrong_grammars_are_told(llm, wrong, words):
    with pytest.raises(GrammarError, match=words):
        llm.stream("x", **wrong)


def test_a_schema_that_goes_round_in_a_circle(llm):
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}
    with pytest.raises(GrammarError, match="no text can begin as it wants$"):
        llm.generate("x", json_schema=schema)


def test_one_grammar_at_a_time():
    with pytest.raises(ValueError, match="exclude"):
        SamplingParams(regex="a", grammar='root ::= "b"')


def test_a_bias_against_all_that_is_left(llm):
    a = llm.tokenize("a", add_special=False)
    sampler = Sampler(SamplingParams(regex="a", logit_bias={a[0]: float("-inf")}), llm.tokenizer)
    with pytest.raises(ValueError, match="bias"):
        sampler.sample(np.zeros(llm.tokenizer.n_vocab, np.float32))


def test_the_command_line(ggrun, model, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for schema in (file, json.dumps(SCHEMA)):
        done = ggrun("-m", model, "-p", "x", "--json-schema", schema)
        jsonschema.validate(json.loads(done.stdout), SCHEMA)
    assert ggrun("-m", model, "-p", "x", "--regex", "yes|no").stdout in (b"yes", b"no")
    gbnf = tmp_path / "g.gbnf"
    gbnf.write_text('root ::= "yes" | "no"')
    assert ggrun("-m", model, "-p", "x", "--grammar", gbnf).stdout in (b"yes", b"no")
    done = ggrun("-m", model, "-p", "x", "--json-schema", "{")
    assert done.returncode == 2 and b"the JSON schema is not valid" in done.stderr


def test_sentencepiece_puts_no_space_before_what_the_grammar_wants(tmp_path):
    keys = spm_keys(eos_token_id=2)  # in whose vocabulary "hello" is a piece only after a space
    tokenizer = Tokenizer.from_metadata(read_metadata(tmp_path / "spm.gguf", keys))
    for form, wanted in (({"grammar": 'root ::= "hello"'}, "hello"), ({"json_schema": {"const": "he"}}, '"he"')):
        sampler, ids = Sampler(SamplingParams(**form), tokenizer), []
        while tokenizer.eos_id not in ids:
            ids.append(sampler.sample(np.zeros(tokenizer.n_vocab, np.float32)))
        assert b"".join(map(tokenizer.token_bytes, ids[:-1])).decode() == wanted
