"""Renames the names that a Python program defines: functions to FUNC_i, classes to CLASS_i, other variables to VAR_i.

Comments and docstrings are removed and `ast.unparse` formats the rest. The program does what it did: a name is kept
where something outside the scoping rules may refer to it. Kept are

* builtins, imports, attributes and what class bodies bind (attributes too), names that begin with two underscores;
* parameters that a call may name as a keyword, unless the call is of a plain function of the program: then both change;
* module-level names that hide a builtin or stand in a string (`__all__`, annotations in quotes);
* functions and classes where the program reads a `__name__`, and everything where `eval`, `globals`, `vars`, `inspect`,
  `sys.modules`, a text such as `__main__.name`, a star import or the like may look names up.

What only a class' or function's `repr` shows does change.
"""

import ast
import builtins
import dataclasses
import itertools
import re
import warnings

from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.lexing import lex
from t5x_code.source_code.mentions import attributes, identifiers, looks_up_names, strings, words_of_annotations
from t5x_code.source_code.scopes import FUNCTIONS, IMPORTS, Scopes, Variable, parameters_of, resolve_scopes

BUILTINS = frozenset(dir(builtins))
READS_DOCSTRINGS = frozenset({"__doc__", "getdoc", "doctest", "pydoc"})
# These call what they are given without keywords of the program's; `dict` and `type` make something that is passed on.
SAFE_CALLEES = BUILTINS - {"dict", "type"}
QUOTES = ("'", '"', '"""', "'''")  # of f-strings, the first that fits is taken
_F_STRING = re.compile(r"""f(?P<quote>'''|\"""|'|")(?P<inner>.*)(?P=quote)""", re.DOTALL)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@dataclasses.dataclass(frozen=True)
class Obfuscation:
    """An obfuscated program."""

    text: str
    num_renamed: int  # variables
    module_names: dict[str, str]  # old name -> new, of the functions, classes and variables of the module


def obfuscate(source: str) -> Obfuscation:
    """Renames a program's own names.

    The result is checked: it compiles, and with the old names put back it is the syntax tree of `source`.

    Raises:
        CannotTransform: `source` does not parse, is nested too deeply, or cannot be written back exactly.
    """
    try:
        return _obfuscate(source)
    except RecursionError as error:
        raise CannotTransform(f"is nested too deeply: {error}") from error


def _obfuscate(source: str) -> Obfuscation:
    original = parse(source)
    tree = parse(source)
    scopes = resolve_scopes(tree)
    new_names = _choose_names(tree, scopes)
    _rename(scopes, new_names)
    for each in (original, tree):
        _remove_docstrings(each)
    try:
        text = _requoted(ast.unparse(ast.fix_missing_locations(tree)) + "\n")
    except ValueError as error:
        raise CannotTransform(f"cannot be written back: {error}") from error
    _verify(text, original, {new: variable.name for variable, new in new_names.items()})
    module_names = {v.name: new for v, new in new_names.items() if v.scope is scopes.module}
    return Obfuscation(text, len(new_names), module_names)


def parse(source: str) -> ast.Module:
    """A program's syntax tree.

    Raises:
        CannotTransform: Python cannot parse it, or only into a tree that it cannot compile.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a corpus is full of invalid escapes
            tree = ast.parse(source)
            compile(source, "<program>", "exec", dont_inherit=True)
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CannotTransform(f"does not parse: {error}") from error


def is_same_program(first: str, second: str) -> bool:
    """Whether two texts are one program, layout, comments and docstrings aside; not if Python cannot read one."""
    try:
        trees = [parse(second), parse(first)]
        for tree in trees:
            _remove_docstrings(tree)
        return ast.dump(trees[0]) == ast.dump(trees[1])
    except (CannotTransform, RecursionError):
        return False


def _choose_names(tree: ast.Module, scopes: Scopes) -> dict[Variable, str]:
    """A new name for each variable that may change, numbered in the order in which the source binds them."""
    kept = _kept_variables(tree, scopes)
    taken = identifiers(tree)
    numbers = {prefix: itertools.count() for prefix in ("FUNC", "CLASS", "VAR")}
    names: dict[Variable, str] = {}
    for variable in sorted(
        (v for scope in scopes.all for v in scope.variables.values() if v.bindings and v not in kept),
        key=lambda v: (v.bindings[0].lineno, v.bindings[0].col_offset),
    ):
        prefix = _prefix(variable)
        new = next(name for n in numbers[prefix] if (name := f"{prefix}_{n}") not in taken)
        names[variable] = new
    return names


def _prefix(variable: Variable) -> str:
    if any(isinstance(node, ast.ClassDef) for node in variable.bindings):
        return "CLASS"
    return "FUNC" if any(isinstance(node, FUNCTIONS) for node in variable.bindings) else "VAR"


def _kept_variables(tree: ast.Module, scopes: Scopes) -> set[Variable]:
    """Variables that something outside the scoping rules may reach."""
    texts, named = strings(tree) | words_of_annotations(tree), identifiers(tree)
    keywords = _keywords_of_unknown_calls(tree, scopes)
    any_keyword = _has_unseen_keywords(tree, scopes)
    name_is_read = bool({"__name__", "__qualname__"} & (attributes(tree) | texts))
    # Names that a method spells with two underscores, as they are in its class.
    classes = [node.name.lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    mangled_names = tuple(f"_{name}__" for name in classes if name)
    type_parameters = {
        parameter.name for node in ast.walk(tree) for parameter in getattr(node, "type_params", [])
    }  # Python 3.12
    looked_up = looks_up_names(tree)

    def is_kept(variable: Variable) -> bool:
        name = variable.name
        if looked_up or variable.scope.kind == "class" or name in type_parameters:
            return True
        if name.startswith(("__", *mangled_names)) or any(isinstance(node, IMPORTS) for node in variable.bindings):
            return True
        if name_is_read and _prefix(variable) != "VAR":
            return True
        if variable.scope.kind == "module" and (name in BUILTINS or name in texts):
            return True
        # A class' name is part of the mangled names of its private attributes.
        mangled = f"_{name.lstrip('_')}__"
        is_class = any(isinstance(node, ast.ClassDef) for node in variable.bindings)
        if is_class and (name in texts or any(other.startswith(mangled) for other in named | texts)):
            return True
        return variable.is_parameter and (any_keyword or name in keywords or name in texts)

    kept = {v for scope in scopes.all for v in scope.variables.values() if is_kept(v)}
    for scope in scopes.all:
        for variable in scope.variables.values():
            if scope.kind == "class" and variable.is_loaded_in_class:  # before it is bound there, the module's is read
                outer = scopes.module.variables.get(variable.name)
                if outer is not None:
                    kept.add(outer)
    for function in _functions_called_with_a_mapping(tree, scopes):
        kept.update(scopes.uses[parameter].variables[parameter.arg] for parameter in parameters_of(function))
    return kept


def _keywords_of_unknown_calls(tree: ast.Module, scopes: Scopes) -> set[str]:
    """Keywords by which a call, whose callee is not known, may reach any function; so may one that a plain function
    takes as `**mapping`."""
    found: set[str] = set()
    for node in _calls(tree, scopes):
        function = _plain_function(node, scopes)
        own = _named_parameters(function) if function else {}
        found.update(keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg not in own)
    return found


def _has_unseen_keywords(tree: ast.Module, scopes: Scopes) -> bool:
    """Whether some call gives a mapping, whose keys are not seen here, to what may pass them to any function."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (*FUNCTIONS, ast.Lambda))]
    # Calls show the keys of a function's `**mapping`, unless it is used for more than to be passed on.
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    passed = {id(keyword.value) for call in calls for keyword in call.keywords if keyword.arg is None}
    others = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in passed]
    used_otherwise = {scopes.variable_of(node, node.id) for node in others}
    passed_on = {function.args.kwarg for function in functions if function.args.kwarg}

    def is_seen(mapping: ast.expr) -> bool:
        if isinstance(mapping, ast.Dict):
            pairs = zip(mapping.keys, mapping.values, strict=True)
            return all(isinstance(key, ast.Constant) or (key is None and is_seen(value)) for key, value in pairs)
        variable = scopes.variable_of(mapping, mapping.id) if isinstance(mapping, ast.Name) else None
        return variable is not None and variable not in used_otherwise and set(variable.bindings) <= passed_on

    return any(
        keyword.arg is None and not is_seen(keyword.value)
        for node in _calls(tree, scopes)
        if (function := _plain_function(node, scopes)) is None or function.args.kwarg
        for keyword in node.keywords
    )


def _calls(tree: ast.Module, scopes: Scopes) -> list[ast.Call | ast.ClassDef]:
    """Calls, but for those of builtins that name no parameter of the program; and classes, which call their base's."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.Call) and not _is_safe(node, scopes))
    ]


def _is_safe(call: ast.Call, scopes: Scopes) -> bool:
    name = call.func
    return isinstance(name, ast.Name) and name.id in SAFE_CALLEES and scopes.variable_of(name, name.id) is None


def _plain_function(call: ast.Call | ast.ClassDef, scopes: Scopes) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function that a call is of, if its callee is a name bound once, by an undecorated `def`."""
    if isinstance(call, ast.ClassDef) or not isinstance(call.func, ast.Name):
        return None
    variable = scopes.variable_of(call.func, call.func.id)
    if variable is None or variable.scope.kind == "class" or len(variable.bindings) != 1:
        return None
    (function,) = variable.bindings
    return function if isinstance(function, FUNCTIONS) and not function.decorator_list else None


def _named_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, ast.arg]:
    """The parameters that a keyword may name."""
    return {parameter.arg: parameter for parameter in [*function.args.args, *function.args.kwonlyargs]}


def _functions_called_with_a_mapping(tree: ast.Module, scopes: Scopes) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Plain functions that some call gives `**mapping`, whose keys are not seen here."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    with_mapping = [call for call in calls if any(keyword.arg is None for keyword in call.keywords)]
    functions = [_plain_function(call, scopes) for call in with_mapping]
    return [function for function in functions if function is not None]


def _rename(scopes: Scopes, new_names: dict[Variable, str]) -> None:
    """Puts the new names into the tree that the scopes are of."""

    def new(node: ast.AST, name: str) -> str:
        return new_names.get(scopes.variable_of(node, name), name)

    renamings: list[tuple[ast.AST, str, object]] = []  # applied at the end: names are looked up by the old ones
    for node in scopes.uses:
        for field in ("id", "name", "arg", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str) and not isinstance(node, ast.keyword | ast.alias):
                renamings.append((node, field, new(node, value)))
        if isinstance(node, ast.Global | ast.Nonlocal):
            renamings.append((node, "names", [new(node, name) for name in node.names]))
        if isinstance(node, ast.Call) and (function := _plain_function(node, scopes)) is not None:
            by_keyword = _named_parameters(function)
            for keyword in node.keywords:
                if keyword.arg in by_keyword:
                    renamings.append((keyword, "arg", new(by_keyword[keyword.arg], keyword.arg)))
    for node, field, value in renamings:
        setattr(node, field, value)


def _remove_docstrings(tree: ast.Module) -> None:
    """Takes docstrings out, unless the program reads one."""
    if READS_DOCSTRINGS & (identifiers(tree) | strings(tree)):
        return
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())


def _requoted(text: str) -> str:
    """The text with every f-string in quotes that it does not hold: as Python 3.12 and later write them, with the same
    quotes again inside, no version before can read them."""
    if "f'" not in text and 'f"' not in text:
        return text
    pieces, after = [], 0
    for lexeme in lex(text, "python"):
        match = _F_STRING.fullmatch(text, lexeme.start, lexeme.end)
        if match is None:
            continue
        inner = match["inner"]
        quotes = QUOTES[2:] if "\n" in inner else QUOTES
        quote = next((q for q in quotes if q not in inner and not inner.endswith(q[0])), match["quote"])
        pieces += [text[after : lexeme.start], f"f{quote}{inner}{quote}"]
        after = lexeme.end
    return "".join([*pieces, text[after:]])


def _verify(text: str, original: ast.Module, old_names: dict[str, str]) -> None:
    """Refuses a text that is not the original program with other names."""
    again = parse(text)
    for node in ast.walk(again):
        for field in ("id", "name", "arg", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str) and value in old_names:
                setattr(node, field, old_names[value])
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [old_names.get(name, name) for name in node.names]
    if ast.dump(again) != ast.dump(original):
        raise CannotTransform("the text written back is not the same program")
