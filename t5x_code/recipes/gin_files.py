"""From gin files and bindings to one frozen Recipe, with one clear line for each way that can go wrong."""

import dataclasses
import difflib
import logging
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path

from etils import epath

import gin
import t5x_code
from t5x_code.buckets import in_bucket
from t5x_code.errors import UserError, one_line
from t5x_code.recipes.recipe import CONFIGURABLES, Recipe

# Recipes include each other as 'gin/models/x.gin': found from the working folder, else beside the installed package.
SEARCH_PATHS = (".", str(Path(t5x_code.__file__).resolve().parent.parent))
gin.add_config_file_search_path(SEARCH_PATHS[1])
# What gin raises at a recipe that it cannot read; TokenError: of a bracket that is not closed.
GIN_ERRORS = (
    SyntaxError,
    tokenize.TokenError,
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    AttributeError,
    NameError,
    ImportError,
)
gin.config.register_file_reader(lambda path: epath.Path(path).open(), in_bucket)


def load_recipe(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[Recipe, str]:
    """Parses recipes; later files win, bindings win over files.

    Args:
        gin_files: paths, absolute or relative to the working folder or the repository, or in a bucket.
        bindings: `NAME=value` in gin's syntax.

    Returns:
        The recipe, and the resolved configuration as gin text that loads to the same recipe.

    Raises:
        UserError: no file, a missing file, an unknown name, a value that does not parse.
    """
    if not gin_files:
        raise UserError("no recipe: pass --gin_file=gin/quickstart.gin (see gin/ for the others)")
    for path in gin_files:
        if _find(path) is None:
            raise UserError(f"gin file {path} does not exist; recipes lie in gin/")
    gin.clear_config()
    logging.disable(logging.ERROR)  # gin logs an error for each folder that it looks into without success
    try:
        parsed = [gin.parse_config_file(path, print_includes_and_imports=False) for path in gin_files]
        _parse_bindings(bindings)
        _refuse_unread_macros(_macros_read(parsed))
        gin.finalize()
        recipe = gin.get_configurable(Recipe.__name__)()
    except UserError as error:  # gin adds lines on where it was called from
        raise UserError(str(error).split("\n")[0]) from error
    except GIN_ERRORS as error:
        raise UserError(_explain(error, gin_files)) from error
    finally:
        logging.disable(logging.NOTSET)
    resolved = gin.operative_config_str()
    gin.clear_config()
    return recipe, resolved


def _find(path: str) -> epath.Path | None:
    """The file that gin reads for a path."""
    places = [epath.Path(path)] if in_bucket(path) else [epath.Path(root) / path for root in SEARCH_PATHS]
    return next((place for place in places if place.is_file()), None)


def _parse_bindings(bindings: Sequence[str]) -> None:
    for binding in bindings:
        if "=" not in binding:
            raise UserError(f"--gin.{binding}: write --gin.NAME=value")
        try:
            gin.parse_config(binding)
        except (SyntaxError, tokenize.TokenError) as error:
            raise UserError(f"--gin.{binding}: not a gin value (strings take quotes inside: \"'x'\")") from error


def _macros_read(parsed: Sequence[gin.config.ParsedConfigFileIncludesAndImports]) -> set[str]:
    """Macros that the files, or those they include, read anywhere, be it in a value that a later one replaces."""
    names: set[str] = set()
    for file in parsed:
        names |= set(re.findall(r"%(\w+)", _find(file.filename).read_text())) | _macros_read(file.includes)
    return names


def _refuse_unread_macros(read_in_files: set[str]) -> None:
    """Gin accepts any macro name, so that a misspelt one would silently do nothing."""
    text = gin.config_str()
    defined = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    unread = sorted(defined - read_in_files - set(re.findall(r"%(\w+)", text)))
    if unread:
        close = difflib.get_close_matches(unread[0], sorted(defined - set(unread)), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"macro {unread[0]} is set but nothing reads it{hint}")


def _explain(error: Exception, gin_files: Sequence[str]) -> str:
    """Gin's message without its stack of contexts: what, in which file."""
    text = one_line(error)
    text = re.sub(r"\.? In file \"([^\"]+)\", line (\d+).*", r", in \1 line \2", text)
    text = re.sub(r"^No bindings specified for '(\w+)/gin\.macro' .*", r"macro \1 is read but set nowhere", text)
    text = re.sub(r"\.? In bindings string line \d+ (.*?)(?: \^)?$", r", in --gin.\1", text)
    return f"recipe {' + '.join(gin_files)}: {text}{_hint(text)}"


def _hint(text: str) -> str:
    """What to write instead, where gin's message is about an unknown class or an unknown field of one."""
    fields = {c.__name__: [field.name for field in dataclasses.fields(c)] for c in CONFIGURABLES}
    if match := re.search(r"Configurable '(\w+)' doesn't have a parameter named '(\w+)'", text):
        known, name, others = fields.get(match[1], []), match[2], ""
    elif match := re.search(r"No configurable matching (?:reference )?'@?(\w+)", text):
        known, name, others = list(fields), match[1], f"; there are {', '.join(fields)}"
    else:
        return ""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else others
