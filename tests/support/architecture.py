# SPDX-License-Identifier: Apache-2.0
"""Rules about source text: each checker takes a module and returns what it breaks, as sentences."""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
LONGEST = 350  # lines


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file of the project, parsed but never imported."""

    name: str  # dotted; a package's own name for its __init__.py
    source: str
    is_package: bool = False

    @classmethod
    def read(cls, path: Path, root: Path) -> Self:
        """The file `path` below the folder that the names count from."""
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        return cls(".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package)

    @property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.source, self.name)


def covers(prefix: str, module: str) -> bool:
    """Whether `module` is `prefix` or lies in it."""
    return module == prefix or module.startswith(f"{prefix}.")


def imports(module: Module, known: Collection[str]) -> Iterator[tuple[int, str]]:
    """Every module that this one names in an import, wherever in the file: line and dotted name.

    ``from package import name`` counts as an import of ``package.name`` where that is in `known`, else of ``package``.
    """
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(source, names, level):
                base = _absolute(module, source or "", level)
                for alias in names:
                    full = f"{base}.{alias.name}"
                    yield node.lineno, full if full in known else base


def _absolute(module: Module, source: str, level: int) -> str:
    if not level:
        return source
    parts = module.name.split(".")
    base = parts[: len(parts) - level + module.is_package]
    return ".".join([*base, source] if source else base)


def wrong_direction(module: Module, table: Mapping[str, Sequence[str]], known: Collection[str]) -> list[str]:
    """The imports inside the project that the table does not allow.

    The longest entry of the table that covers the module counts; what an entry allows includes what lies below. The
    root package itself holds the version only and may be imported from everywhere.
    """
    root = module.name.partition(".")[0]
    rooms = [room for room in table if covers(room, module.name) and (room != root or module.name == root)]
    if not rooms:
        return [f"{module.name}: stands in no room of the table"]
    room = max(rooms, key=len)
    return [
        f"{module.name}:{line}: {room} may not import {target}"
        for line, target in imports(module, known)
        if covers(root, target) and target != root and not any(covers(allowed, target) for allowed in table[room])
    ]


def misplaced_libraries(module: Module, homes: Mapping[str, Sequence[str]], known: Collection[str]) -> list[str]:
    """The imports of foreign libraries outside the modules that are their home; an unknown library has no home.

    Python's own are at home everywhere, but for those that are given one.
    """
    root = module.name.partition(".")[0]
    return [
        f"{module.name}:{line}: {library} may be imported in {', '.join(homes.get(library, ())) or 'no module'} only"
        for line, target in imports(module, known)
        if (library := target.partition(".")[0]) != root
        and (library in homes or library not in sys.stdlib_module_names)
        and module.name not in homes.get(library, ())
    ]


def made_origins(module: Module, makers: Mapping[str, str], judges: Collection[str]) -> list[str]:
    """The places where an origin is made, or could be, by a module that is not its door.

    `makers` gives for each member of the enumeration ``Origin`` the one module that may use it as a value. The modules
    in `judges` may compare with it, by ``is`` or ``is not``, and do nothing else with it. Nobody may call, index or
    iterate ``Origin``, or name a member in a string: these make an origin from something that is none. The definition
    of the enumeration itself is no use of it.
    """
    found = []
    for node, parent in _with_parents(module.tree):
        match node:
            case ast.Attribute(attr=member) if member in makers:
                judged = module.name in judges and _is_identity_test(parent)
                if module.name != makers[member] and not judged:
                    found.append(f"{module.name}:{node.lineno}: only {makers[member]} may make Origin.{member}")
            case ast.Name("Origin") | ast.Attribute(attr="Origin") if _could_make_one(node, parent):
                found.append(f"{module.name}:{node.lineno}: Origin is named only as a type or before a member")
            case ast.Constant(str(text)) if text in makers:
                found.append(f"{module.name}:{node.lineno}: {text} is named in a string")
            case ast.Import(names) | ast.ImportFrom(names=names):
                for alias in names:
                    if alias.name == "Origin" and alias.asname:
                        found.append(f"{module.name}:{node.lineno}: Origin is given another name")
    return found


def _with_parents(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            yield node, parent


def _is_identity_test(parent: ast.AST) -> bool:
    return isinstance(parent, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in parent.ops)


def _could_make_one(node: ast.AST, parent: ast.AST) -> bool:
    match parent:
        case ast.Call():  # Origin("..."), list(Origin), getattr(Origin, ...)
            return True
        case ast.Subscript(value) | ast.For(iter=value) | ast.comprehension(iter=value) | ast.Starred(value):
            return value is node
        case ast.Assign():  # another name for it
            return True
        case _:
            return False


def too_long(module: Module) -> list[str]:
    """A module has one reason to exist; more lines than `LONGEST` suggest a second one."""
    lines = module.source.count("\n")
    return [f"{module.name}: {lines} lines are more than {LONGEST}"] if lines > LONGEST else []


def untidy(module: Module) -> list[str]:
    """What every file must have: the licence line, and a docstring that begins with a sentence.

    A package's ``__init__.py`` that holds nothing but the licence line needs no docstring.
    """
    found = []
    if not module.source.startswith(SPDX):
        found.append(f"{module.name}: does not begin with the licence line")
    first, _, _ = (ast.get_docstring(module.tree) or "").partition("\n\n")
    if not first.endswith((".", ":")) and not (module.is_package and module.source == SPDX):
        found.append(f"{module.name}: does not begin with a sentence that says what holds")
    return found
