"""Names of Python texts: what tests take from a program, by Python's own rules of scope."""

import symtable


def names_taken(source: str) -> set[str]:
    """Names that a text reads from its outermost scope and does not make there; Python's own are among them.

    What an inner scope makes, such as a parameter, hides nothing outside of it.
    """
    top = symtable.symtable(source, "tests", "exec")
    read, scopes = set(), [top]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        symbols = (symbol for symbol in scope.get_symbols() if scope is top or symbol.is_global())
        read |= {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    return read - names_defined(source)


def names_defined(source: str) -> set[str]:
    """Names that a text makes in its outermost scope."""
    symbols = symtable.symtable(source, "program", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def names_imported(source: str) -> set[str]:
    """Those of them that are imported."""
    symbols = symtable.symtable(source, "program", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_imported()}


def names_from_program(tests: str, reference: str) -> tuple[str, ...]:
    """Names that tests take from the program that they test, sorted: those that the reference makes.

    What the reference imports is left out. It is no part of an answer, and modules do not cross between processes.
    """
    return tuple(sorted(names_taken(tests) & names_defined(reference) - names_imported(reference)))
