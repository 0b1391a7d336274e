"""Options for the less common ways to choose tokens, spelled as in llama.cpp."""

from __future__ import annotations

import os
from typing import Any

import click

from ..files import read_text
from .command import group
from .kinds import integer, number

_LETTERS = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p",
    "x": "xtc", "t": "temperature",
}  # fmt: skip
_ALSO = {"typical": "typ_p", "typical_p": "typ_p", "typ": "typ_p", "nucleus": "top_p", "temp": "temperature"}
_BREAKERS = ("\n", ":", '"', "*")


def _samplers(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """`top_k;temperature`, or a letter for each."""
    if ";" not in value and set(value) <= set(_LETTERS):
        return tuple(_LETTERS[letter] for letter in value)
    names = [name.strip().replace("-", "_") for name in value.split(";")]
    return tuple(_ALSO.get(name, name) for name in names if name)


def _biases(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    """`42+1.5`, `42-1` or `42-inf`."""
    biases = {}
    for value in values:
        digits = len(value) - len(value.lstrip("0123456789"))
        try:
            biases[int(value[:digits])] = float(value[digits:])
        except ValueError:
            raise click.BadParameter(f"{value} is not a token's number and a bias, such as 42+1 or 42-inf") from None
    return biases


def _sequence_breakers(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value for value in values if value != "none") if values else _BREAKERS


def _schema(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A JSON schema as it is, or in a file."""
    is_text = value is not None and (value.lstrip()[:1] == "{" or value.strip() in ("true", "false"))
    return _form(option, value, is_text, "JSON schema")


def _grammar(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A GBNF grammar as it is, or in a file."""
    return _form(option, value, value is not None and "::=" in value, "grammar (which has ::= in it)")


def _regex(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Raises BadParameter."""
    return _form(option, value, True, "regular expression")


def _form(option: click.Parameter, value: str | None, is_text: bool, kind: str) -> str | None:
    """What an answer has to fit: the value, or what is in the file of that name.

    Raises BadParameter where it cannot be used, ClickException where the file cannot be read.
    """
    if value is None:
        return None
    from ..sampling import SamplingParams
    from ..sampling.constraint import check

    if not is_text and not os.path.exists(value):
        raise click.BadParameter(f"{value!r} is neither a file nor a {kind}")
    try:
        text = value if is_text else read_text(value)
    except OSError as error:
        raise click.ClickException(f"{value}: {error.strerror}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    given: dict[str, Any] = {str(option.name): text}
    try:
        check(SamplingParams(**given))
    except ValueError as error:
        raise click.BadParameter(str(error) if is_text else f"{value}: {error}") from None
    return text


chain_options = group(
    number("--typical", "--typical-p", "typical_p", default=1.0, help="Choose among typical surprises; 1: off."),
    number("--top-nsigma", "--top-n-sigma", "top_n_sigma", default=-1.0,
           help="Choose within X deviations of the best; -1: off."),
    number("--xtc-probability", default=0.0, help="How often to leave out the top choices; 0: never."),
    number("--xtc-threshold", default=0.1, help="What makes a top choice; above 0.5: nothing does."),
    number("--dynatemp-range", default=0.0, help="Vary the temperature by X with the entropy; 0: off."),
    number("--dynatemp-exp", "dynatemp_exponent", default=1.0, help="By the entropy to the power of X."),
    number("--dry-multiplier", default=0.0, help="Penalize repeated sequences (DRY); 0: off."),
    number("--dry-base", default=1.75, help="How DRY grows with the length."),
    integer("--dry-allowed-length", at_least=1, default=2, help="Sequences that are shorter may repeat."),
    integer("--dry-penalty-last-n", at_least=-1, default=-1, help="How far back DRY looks; -1: all the way."),
    click.option("--dry-sequence-breaker", "dry_sequence_breakers", metavar="TEXT", multiple=True,
                 callback=_sequence_breakers, show_default='\\n : " *', help="Where repetitions end; none: nowhere."),
    click.option("--mirostat", type=click.IntRange(0, 2), default=0, metavar="N",
                 help="Keep the surprise even, by Mirostat 1 or 2."),
    number("--mirostat-ent", "mirostat_tau", default=5.0, help="The surprise that Mirostat aims at, in bits."),
    number("--mirostat-lr", "mirostat_eta", default=0.1, help="How fast Mirostat learns."),
    click.option("--samplers", "--sampler-seq", "--sampling-seq", "samplers", metavar="NAMES", callback=_samplers,
                 default="penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
                 help="Samplers in their order, or edskypmxt."),
    click.option("-l", "--logit-bias", metavar="ID+X", multiple=True, callback=_biases,
                 help="Make a token likelier (42+1), less likely (42-1), impossible (42-inf)."),
    click.option("-j", "--json-schema", "-jf", "--json-schema-file", "json_schema", metavar="SCHEMA", callback=_schema,
                 help="Answer in JSON that fits a schema: a file, or its text."),
    click.option("--grammar", "--grammar-file", "grammar", metavar="GRAMMAR", callback=_grammar,
                 help="Answer in the language of a GBNF grammar: a file, or its text."),
    click.option("--regex", metavar="REGEX", callback=_regex, help="Answer with what REGEX matches."),
)  # fmt: skip
