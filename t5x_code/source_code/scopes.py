"""Which names of a Python program are which variable: the language's scoping rules over its syntax tree.

A variable is a name bound in one scope. Function, lambda, comprehension and class bodies are scopes of their own; a
class body's names are attributes, which inner scopes do not see. Defaults, decorators, annotations, bounds of type
parameters and the first iterable of a comprehension belong to the scope around.
"""

import ast
import dataclasses
from collections.abc import Iterator
from typing import Literal

Kind = Literal["module", "function", "class"]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)


@dataclasses.dataclass(eq=False)
class Variable:
    """One name bound in one scope."""

    name: str
    scope: "Scope"
    bindings: list[ast.AST] = dataclasses.field(default_factory=list)  # what binds it, in the order of the source
    is_loaded_in_class: bool = False  # read in the class body that binds it, where an outer one may be meant

    @property
    def is_parameter(self) -> bool:
        """Bound by a signature, be it that of a lambda."""
        return any(isinstance(node, ast.arg) for node in self.bindings)


@dataclasses.dataclass(eq=False)
class Scope:
    """A module, a class body, or the body of a function, lambda or comprehension."""

    kind: Kind
    parent: "Scope | None"
    variables: dict[str, Variable] = dataclasses.field(default_factory=dict)
    outside: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> "global" or "nonlocal"
    is_comprehension: bool = False

    def find(self, name: str) -> Variable | None:
        """The variable that a name means when it is read here; None for builtins and what the program never binds."""
        if self.outside.get(name) == "global":
            return self.root.variables.get(name)
        if name in self.variables and name not in self.outside:
            return self.variables[name]
        scope = self.parent
        while scope is not None:
            if scope.kind != "class":
                return scope.find(name)
            scope = scope.parent
        return None

    @property
    def root(self) -> "Scope":
        """The module's."""
        return self if self.parent is None else self.parent.root


@dataclasses.dataclass(frozen=True)
class Scopes:
    """A resolved program."""

    module: Scope
    all: tuple[Scope, ...]
    uses: dict[ast.AST, Scope]  # the scope in which each name, binding and `global` statement stands

    def variable_of(self, node: ast.AST, name: str) -> Variable | None:
        """What `name` means where a node stands."""
        return self.uses[node].find(name)


def resolve_scopes(tree: ast.Module) -> Scopes:
    """Finds every scope and variable of a program."""
    builder = _Builder()
    builder.visit_body(tree.body, builder.module)
    for scope in builder.scopes:  # after all bindings are known
        for name, how in scope.outside.items():
            if how == "global":
                scope.root.variables.setdefault(name, Variable(name, scope.root))
    for node, scope in builder.uses.items():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and scope.kind == "class":
            own = scope.variables.get(node.id)
            if own is not None:
                own.is_loaded_in_class = True
    for scope, name, node in builder.bound_outside:
        variable = scope.find(name)
        if variable is not None:
            variable.bindings.append(node)
    return Scopes(builder.module, tuple(builder.scopes), builder.uses)


class _Builder:
    """Walks a tree, knowing the scope of each node."""

    def __init__(self):
        self.module = Scope("module", None)
        self.scopes = [self.module]
        self.uses: dict[ast.AST, Scope] = {}
        self.bound_outside: list[tuple[Scope, str, ast.AST]] = []

    def visit_body(self, body: list[ast.stmt], scope: Scope) -> None:
        # Declarations hold for the whole body, wherever in it they stand.
        for node in _statements_of_scope(body):
            if isinstance(node, ast.Global | ast.Nonlocal):
                how = "global" if isinstance(node, ast.Global) else "nonlocal"
                scope.outside.update(dict.fromkeys(node.names, how))
        for statement in body:
            self.visit(statement, scope)

    def visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            self._visit_function(node, scope)
        elif isinstance(node, ast.ClassDef):
            self._bind(node.name, node, scope)
            self._visit_all([*node.decorator_list, *node.bases, *node.keywords, *_type_parameters(node)], scope)
            self.visit_body(node.body, self._open("class", scope))
        elif isinstance(node, COMPREHENSIONS):
            self._visit_comprehension(node, scope)
        elif isinstance(node, ast.NamedExpr):
            target = scope
            while target.is_comprehension:  # the walrus binds around the comprehension
                target = target.parent
            self._bind(node.target.id, node.target, target)
            self.uses[node.target] = target
            self.visit(node.value, scope)
        else:
            for name in _names_bound_by(node):
                self._bind(name, node, scope)
            self.uses[node] = scope
            self._visit_all(ast.iter_child_nodes(node), scope)

    def _visit_all(self, nodes, scope: Scope) -> None:
        for node in nodes:
            self.visit(node, scope)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> None:
        arguments = node.args
        around = [*arguments.defaults, *(default for default in arguments.kw_defaults if default is not None)]
        inner = self._open("function", scope)
        if not isinstance(node, ast.Lambda):
            self._bind(node.name, node, scope)
            around += [*node.decorator_list, *([node.returns] if node.returns else []), *_type_parameters(node)]
        self._visit_all(around, scope)
        for argument in parameters_of(node):
            self._bind(argument.arg, argument, inner)
            if argument.annotation:
                self.visit(argument.annotation, scope)
        if isinstance(node, ast.Lambda):
            self.visit(node.body, inner)
        else:
            self.visit_body(node.body, inner)

    def _visit_comprehension(self, node: ast.AST, scope: Scope) -> None:
        inner = self._open("function", scope)
        inner.is_comprehension = True
        self.visit(node.generators[0].iter, scope)
        for index, generator in enumerate(node.generators):
            rest = [generator.target, *generator.ifs] + ([generator.iter] if index else [])
            self._visit_all(rest, inner)
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._visit_all(values, inner)

    def _open(self, kind: Kind, parent: Scope) -> Scope:
        scope = Scope(kind, parent)
        self.scopes.append(scope)
        return scope

    def _bind(self, name: str, node: ast.AST, scope: Scope) -> None:
        self.uses[node] = scope
        if name in scope.outside:
            self.bound_outside.append((scope, name, node))
            return
        variable = scope.variables.setdefault(name, Variable(name, scope))
        variable.bindings.append(node)


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.arg]:
    """All parameters of a signature, in order."""
    arguments = node.args
    parameters = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [parameter for parameter in parameters if parameter is not None]


def _type_parameters(node: ast.AST) -> list[ast.AST]:
    return getattr(node, "type_params", [])  # since Python 3.12


def _names_bound_by(node: ast.AST) -> list[str]:
    """Names that a node itself binds in its scope; functions, classes and walruses are dealt with apart."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, IMPORTS):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


def _statements_of_scope(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All statements below a body that run in its own scope."""
    for statement in body:
        yield statement
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            continue
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                yield from _statements_of_scope([child])
            elif isinstance(child, ast.excepthandler | ast.match_case):
                yield from _statements_of_scope(child.body)
