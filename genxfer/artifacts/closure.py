"""Which first-party code a stage runs: one digest for each function, class and constant it can reach.

The source is read, never imported. From each symbol the names in its body, decorators, defaults, fields and bases
are followed through this package's modules; comments, docstrings, `if TYPE_CHECKING` and unused symbols leave no trace.
Knows nothing of stages. What is looked up by a string at run time cannot be seen here: name it as another root.
"""

import ast
import functools
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from genxfer.artifacts.fingerprint import digest_bytes

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


class Symbol(NamedTuple):
    """A top-level name of a module; without a name the module as a whole."""

    module: str
    name: str | None

    def __str__(self) -> str:
        return self.module if self.name is None else f"{self.module}:{self.name}"


# What a module does on import besides defining names: it counts as soon as anything of the module is used.
TOP_LEVEL = "<top level>"

NEVER_TRUE = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")  # when a stage runs


class Use(NamedTuple):
    """The code of one symbol, and what it leads to."""

    text: str  # empty when there is nothing to digest, as of a re-export
    symbols: frozenset[Symbol]


def code_digests(
    roots: Sequence[str], package_folder: Path = PACKAGE_FOLDER, *, registries: Sequence[str] = ()
) -> dict[str, str]:
    """Return the sha256 of every symbol that `roots` reach, by "package.module:symbol" (a whole one: "package.module").

    `registries` are tables of which a run uses one entry: they are passed by, and that entry is a root of its own. So
    is what annotates a function, which runs nothing.

    Raises ValueError on a root that is not there. Sources are read once in a process, like imports: a process that
    outlives an edit goes on running, and fingerprinting, the code it started with.
    """
    return _sources(package_folder).digests(roots, registries)


@functools.cache
def _sources(package_folder: Path) -> "SourceTree":
    return SourceTree(package_folder)


class SourceTree:
    """The sources of one package as they are now."""

    def __init__(self, package_folder: Path) -> None:
        self._sources: dict[str, tuple[bytes, bool]] = {}  # module name -> source, whether it is a package's __init__
        for path in sorted(package_folder.rglob("*.py")):
            parts = path.relative_to(package_folder.parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            self._sources[".".join(parts[:-1] if is_package else parts)] = path.read_bytes(), is_package
        self._modules: dict[str, _Module] = {}
        self._uses: dict[Symbol, Use] = {}

    def digests(self, roots: Sequence[str], registries: Sequence[str] = ()) -> dict[str, str]:
        """Return the digest of every symbol that `roots` reach, sorted; raises ValueError on an unknown root."""
        waiting = [self._root(root) for root in roots]
        seen = {self._root(registry) for registry in registries}
        digests: dict[str, str] = {}
        while waiting:
            symbol = waiting.pop()
            if symbol in seen:
                continue
            seen.add(symbol)
            use = self._use(symbol)
            if use.text:
                digests[str(symbol)] = digest_bytes(use.text.encode())
            waiting += use.symbols - seen
        return dict(sorted(digests.items()))

    def _root(self, root: str) -> Symbol:
        module, _, name = root.partition(":")
        if module not in self._sources or (name and not self._module(module).binds(name)):
            raise ValueError(f"{root!r} names no first-party code: no such module, or no such name in it")
        return Symbol(module, name or None)

    def _module(self, name: str) -> "_Module":
        if name not in self._modules:
            source, is_package = self._sources[name]
            self._modules[name] = _Module(name, is_package, source, self._sources.keys())
        return self._modules[name]

    def _use(self, symbol: Symbol) -> Use:
        if symbol not in self._uses:
            self._uses[symbol] = self._module(symbol.module).use(symbol.name)
        return self._uses[symbol]


class _Module:
    """One module's top-level statements, sorted into what defines names, what imports them, and what merely happens."""

    def __init__(self, name: str, is_package: bool, source: bytes, known: Container[str]) -> None:
        self.name = name
        self._is_package = is_package
        self._known = known
        self._statements = _essence(ast.parse(source).body)
        self._definitions: dict[str, list[ast.stmt]] = {}
        self._imports: dict[str, list[Symbol | str]] = {}  # a str is a name from outside this package
        self._effects: list[ast.stmt] = []
        for statement in self._statements:
            self._sort(statement)

    def binds(self, name: str) -> bool:
        """Whether `name` is defined or imported at the top level."""
        return name in self._definitions or name in self._imports

    def use(self, name: str | None) -> Use:
        """Return the code of `name` and what it leads to; the whole module for None, or for a name not found in it."""
        if name is None or (name != TOP_LEVEL and not self.binds(name)):
            imports = (target for statement in self._statements for _, target in self._imported(_mentions(statement)))
            return self._use(self._statements, set(imports))
        if name == TOP_LEVEL:
            return self._use(self._effects, self._targets(self._effects))
        definition = self._definitions.get(name, [])
        use = self._use(definition, self._targets(definition) | set(self._imports.get(name, [])))
        return Use(use.text, use.symbols | {Symbol(self.name, TOP_LEVEL)})

    def _use(self, statements: list[ast.stmt], targets: set[Symbol | str]) -> Use:
        outside = sorted(target for target in targets if isinstance(target, str))
        # A package's own file re-exports: another name there changes nothing for those who use the old ones.
        own = [statement for statement in statements if not (self._is_package and _is_plain_import(statement))]
        text = "\n".join([*map(ast.unparse, own), *outside])
        return Use(text, frozenset(target for target in targets if isinstance(target, Symbol)))

    def _targets(self, statements: list[ast.stmt]) -> set[Symbol | str]:
        """Return the symbols of this package, and as "name = origin" the outside names, that `statements` mention."""
        targets: set[Symbol | str] = set()
        for statement in statements:
            mentions = _mentions(statement)
            targets.update(target for _, target in self._imported(mentions) if isinstance(target, Symbol))
            for name in mentions.names:
                if name in self._definitions:
                    targets.add(Symbol(self.name, name))
                targets.update(self._imports.get(name, []))
        return targets

    def _sort(self, statement: ast.stmt) -> None:
        names = _defined_names(statement)
        if names is None:
            mentions = _mentions(statement)
            for bound, target in self._imported(mentions):
                self._imports.setdefault(bound, []).append(target)
            if _is_plain_import(statement) or isinstance(statement, ast.Pass):
                return
            self._effects.append(statement)
            names = sorted(mentions.bound)  # such as a fallback in `try`
        for name in names:
            self._definitions.setdefault(name, []).append(statement)

    def _imported(self, mentions: "Mentions") -> Iterator[tuple[str, Symbol | str]]:
        """Yield (bound name, what it is) for every import."""
        for statement in mentions.imports:
            origin = self._origin(statement) if isinstance(statement, ast.ImportFrom) else None
            for alias in statement.names:
                if origin is None:
                    bound = alias.asname or alias.name.partition(".")[0]
                    yield bound, self._resolve(bound, alias.name, None)
                else:
                    bound = alias.asname or alias.name
                    yield bound, self._resolve(bound, origin, alias.name)

    def _origin(self, statement: ast.ImportFrom) -> str:
        """Return the absolute name of the module in `from ... import`."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".") if self._is_package else self.name.split(".")[:-1]
        parts = parts[: len(parts) - statement.level + 1]
        return ".".join([*parts, *([statement.module] if statement.module else [])])

    def _resolve(self, bound: str, origin: str, name: str | None) -> Symbol | str:
        if name is not None and f"{origin}.{name}" in self._known:
            return Symbol(f"{origin}.{name}", None)
        if origin in self._known:
            return Symbol(origin, None if name == "*" else name)
        return f"{bound} = {origin}" if name is None else f"{bound} = {origin}.{name}"


def _essence(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return `body` without what never runs, at any depth: docstrings, `if TYPE_CHECKING`, `if __name__ ...`."""
    kept: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str):
            continue
        for holder in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            for part in ("body", "orelse", "finalbody"):
                if statements := getattr(holder, part, None):
                    # A body must not become empty; an `else` may.
                    setattr(holder, part, _essence(statements) or ([ast.Pass()] if part == "body" else []))
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in NEVER_TRUE:
            kept += statement.orelse
        else:
            kept.append(statement)
    return kept


class Mentions(NamedTuple):
    """The names a statement reads, those it binds anywhere, and the imports in it."""

    names: set[str]
    bound: set[str]
    imports: list[ast.Import | ast.ImportFrom]


def _mentions(statement: ast.stmt) -> Mentions:
    names: set[str] = set()
    bound: set[str] = set()
    imports: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [statement]
    while waiting:  # one pass over the tree by hand: `ast.walk` takes three times as long
        node = waiting.pop()
        if isinstance(node, ast.Name):
            (bound if isinstance(node.ctx, ast.Store) else names).add(node.id)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        for field, value in vars(node).items():
            if field == "returns" or (field == "annotation" and isinstance(node, ast.arg)):
                continue  # says what a function takes and gives; unlike a class's, it runs nothing
            if isinstance(value, list):
                waiting += [part for part in value if isinstance(part, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)
                if field == "annotation":
                    names |= _quoted_names(value)
    return Mentions(names, bound, imports)


def _quoted_names(annotation: ast.AST) -> set[str]:
    """Return the names inside the strings of an annotation."""
    names: set[str] = set()
    for part in ast.walk(annotation):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                quoted = ast.parse(part.value.strip(), mode="eval")
            except (SyntaxError, ValueError):  # some word in Literal[...]
                continue
            names |= {name.id for name in ast.walk(quoted) if isinstance(name, ast.Name)}
    return names


def _defined_names(statement: ast.stmt) -> list[str] | None:
    """Return the names a definition or plain assignment binds; None for any other statement."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    else:
        return None
    flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    # `TABLE["x"] = ...` and `Class.attribute = ...` change something that has its own definition: that is an effect.
    names = [part.id for part in flat if isinstance(part, ast.Name)]
    return names if len(names) == len(flat) else None


def _is_plain_import(statement: ast.stmt) -> bool:
    """Whether this import binds just the names it spells; what `import *` binds cannot be told: that is an effect."""
    return isinstance(statement, ast.Import | ast.ImportFrom) and all(alias.name != "*" for alias in statement.names)
