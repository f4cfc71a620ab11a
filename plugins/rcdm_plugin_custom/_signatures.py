"""The parameters of a user's function as options, read from the text of its file: listing them runs nothing."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcdm_core import Option, RCDMError

from ._places import find_module

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_SEQUENCES = ("tuple", "Tuple", "list", "List", "Sequence", "Iterable")
_HOPS = 8  # of imports from file to file; more are a circle


@dataclass(frozen=True)
class Parameter:
    """A parameter that can be given by its name.

    option    how it is given on the command line; None where its type is not known
    required  whether it has no default
    whole     whether it is a tuple of whole numbers, which an option is not
    choices   the values that it may have, where it says so (Literal)
    """

    option: Option | None
    required: bool
    whole: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Signature:
    """file: the one that defines the function; parameters: by name, without `weights`."""

    file: Path
    parameters: dict[str, Parameter]


def read(file: Path, function: str) -> Signature | None:
    """The signature of a function, or of a class; one that the file imports from another is read there.

    None where the text does not tell, as for a function that another one makes. Raises RCDMError for a file that is
    not Python.
    """
    for _ in range(_HOPS):
        found = _find(_parse(file), function)
        if isinstance(found, ast.ImportFrom):
            function = next(name.name for name in found.names if (name.asname or name.name) == function)
            target = _imported_file(file, found)
            if target is None:
                return None
            file = target
        elif isinstance(found, ast.Name):
            function = found.id
        elif isinstance(found, ast.ClassDef):
            init = _find(found, "__init__")
            own = isinstance(init, ast.FunctionDef)
            return Signature(file, _parameters(init, function, bound=True) if own else {})  # type: ignore[arg-type]
        else:
            return Signature(file, _parameters(found, function)) if found is not None else None
    return None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""
        raise RCDMError(f"{file}{line} fails with {type(error).__name__}: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise RCDMError(f"{file} cannot be read as Python ({error})") from error


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ImportFrom | ast.Name


def _find(tree: ast.AST, name: str) -> _Definition | None:
    """The last thing of that name at the top of a module or a class."""
    found: _Definition | None = None
    for node in _statements(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = node if node.name == name else found
        elif isinstance(node, ast.ImportFrom):
            found = node if name in {alias.asname or alias.name for alias in node.names} else found
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            found = node.value if isinstance(node.value, ast.Name) else None
    return found


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """In order, those inside `if`, `try` and `with` too."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        for node in getattr(tree, field, []):
            if isinstance(node, ast.stmt):
                yield node
            if isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
                yield from _statements(node)


def _imported_file(file: Path, statement: ast.ImportFrom) -> Path | None:
    module = statement.module or ""
    if not statement.level:
        return find_module(module, file.parent)[1]
    if not module or statement.level > len(file.parents):
        return None
    place = file.parents[statement.level - 1].joinpath(*module.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def _parameters(
    function: ast.FunctionDef | ast.AsyncFunctionDef, name: str, bound: bool = False
) -> dict[str, Parameter]:
    """bound: without the first one, which is `self`."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = list(zip(positional, defaults, strict=True))[len(arguments.posonlyargs) or int(bound) :]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {given.arg: _parameter(given, default, name) for given, default in pairs if given.arg != "weights"}


def _parameter(given: ast.arg, default: ast.expr | None, function: str) -> Parameter:
    value, known = None, False
    if default is not None:
        with contextlib.suppress(ValueError, TypeError):  # an expression: the function's own to compute
            value, known = ast.literal_eval(default), True
    kind = _annotated(given.annotation) if given.annotation is not None else None
    if kind is None and known:
        kind = _type_of(value)
        if value is None and given.annotation is None:
            kind = str
    required = default is None
    if kind is None:
        return Parameter(None, required)
    type_, whole = ("floats", True) if kind == "ints" else (kind, False)
    choices = _choices(given.annotation)
    what = f"parameter of {function}" + (f": {', '.join(map(str, choices))}" if choices else "")
    try:
        option = Option(type_, value, f"{what}, which needs it" if required else what)
    except TypeError:  # a default of another type than the annotation says
        option = Option(type_, None, what)
    if option.default is None and not required:
        option = Option(type_, None, f"{what}; nothing: its own default")
    return Parameter(option, required, whole, choices)


def _annotated(annotation: ast.expr) -> Any:
    """An option's type, or "ints" for several whole numbers; None for what no option can stand for."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return _annotated(ast.parse(annotation.value, mode="eval").body)
        except SyntaxError:
            return None
    if isinstance(annotation, (ast.Name, ast.Attribute)):
        return _TYPES.get(_last(annotation))
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _one_of([annotation.left, annotation.right])
    if not isinstance(annotation, ast.Subscript):
        return None
    inside = annotation.slice
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    outer = _last(annotation.value)
    if outer in ("Optional", "Union"):
        return _one_of(parts)
    if outer == "Annotated":
        return _annotated(parts[0])
    if outer == "Literal":
        return _common([type(part.value) if isinstance(part, ast.Constant) else None for part in parts])
    if outer in _SEQUENCES:
        return _several([_annotated(part) for part in parts if not _is_constant(part, ...)])
    return None


def _choices(annotation: ast.expr | None) -> tuple[Any, ...]:
    """The values of a Literal."""
    if not isinstance(annotation, ast.Subscript) or _last(annotation.value) != "Literal":
        return ()
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    return tuple(part.value for part in parts if isinstance(part, ast.Constant))


def _one_of(parts: Sequence[ast.expr]) -> Any:
    """Of `X | None`: X. Two that both mean something cannot be told apart in a text."""
    return _common([_annotated(part) for part in parts if not _is_constant(part, None)])


def _type_of(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return _several([type(part) for part in value])
    return type(value) if type(value) in _TYPES.values() else None


def _several(types: Sequence[Any]) -> str | None:
    if not types or not set(types) <= {int, float}:
        return None
    return "ints" if set(types) == {int} else "floats"


def _common(types: Sequence[Any]) -> Any:
    one = types[0] if types and all(kind == types[0] for kind in types) else None
    return one if one in (*_TYPES.values(), "ints", "floats") else None


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _last(node: ast.expr) -> str:
    """`Optional` of `typing.Optional`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
