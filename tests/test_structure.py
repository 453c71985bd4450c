"""The house keeps its plan: arrows one way, no circle, short files that say what is in them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from i2p_lib.sources import imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "i2p_lib"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = (
    *("torchvision_shim", "files", "sources", "machine", "markup"),
    *("sparse", "inflation", "data", "weights", "models", "analysis", "train", "runs"),
    *("paper", "show", "book", "doctor", "commands", "cli"),
)
"""What stands in i2p_lib; each may import only from what stands before it."""

MOST_LINES = 300  # of a file
MOST_LINES_IN_ALL = 17_500

EXPECTED: dict[str, set[str]] = {}
"""What does not keep a rule: nothing; an entry that is not needed fails."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def holds(rule: str, found: set[str]) -> None:
    """Compare what breaks a rule with what is expected to; both new and needless entries fail."""
    expected = EXPECTED.get(rule, set())
    assert not found - expected, f"{rule}: {sorted(found - expected)}"
    assert not expected - found, f"{rule}: take out of EXPECTED {sorted(expected - found)}"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """The dotted name of a file below the package: "sparse.conv", "sparse" for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def graph() -> dict[str, set[str]]:
    """{module: modules of ours that it imports}, without the package's own __init__."""
    paths = {module_name(path): path for path in FILES}
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        dotted = ".".join(["i2p_lib", *path.relative_to(PACKAGE).with_suffix("").parts])
        found[module] = set()
        for name in imports(tree(path), dotted):
            top, _, inside = name.partition(".")
            while top == "i2p_lib" and inside and inside not in paths:
                inside = inside.rpartition(".")[0]  # a member, not a module
            if top == "i2p_lib" and inside != module:
                found[module].add(inside)
    return found


def arrows() -> Iterator[tuple[str, str]]:
    """(module, room) of each import from a room that is not before the module's own.

    The package itself (its public names, as a chapter sees them) is for what stands behind `show`.
    """
    for module, imported in graph().items():
        for room in {name.partition(".")[0] for name in imported} - {module.partition(".")[0]}:
            if module and place(room or "show") >= place(module):
                yield module, room


def place(module: str) -> int:
    return ORDER.index(module.partition(".")[0])


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other, found by taking away what is in no circle."""
    reached = {name: set(targets) for name, targets in edges.items()}
    for middle in edges:
        for name in edges:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    within = {name for name in edges if name in reached[name]}
    groups = [{b for b in within if b in reached[a] and a in reached[b]} for a in within]
    return [group for n, group in enumerate(groups) if group not in groups[:n]]


def definitions(path: Path) -> Iterator[tuple[str, Definition]]:
    """(name, node) of public functions and classes at the top of a file, and public methods."""
    for node in tree(path).body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, Definition) and not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method


def described_by_a_base(path: Path, name: str) -> bool:
    """Whether a method overrides one that a base class in the same file documents."""
    owner, _, method = name.partition(".")
    classes = {n.name: n for n in tree(path).body if isinstance(n, ast.ClassDef)}
    bases = [classes[ast.unparse(b)] for b in classes[owner].bases if ast.unparse(b) in classes]
    return any(isinstance(n, Definition) and n.name == method and ast.get_docstring(n)
               for base in bases for n in base.body)  # fmt: skip


def decorated(node: Definition, *names: str) -> bool:
    return any(name in ast.unparse(d) for d in node.decorator_list for name in names)


def untyped(node: Definition) -> bool:
    """Whether an argument or the result has no type; self, cls and ctx need none."""
    if isinstance(node, ast.ClassDef) or decorated(node, "njit", "intrinsic", "overload"):
        return False
    a = node.args
    all_of_them = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    free = [x for x in all_of_them if x and x.arg not in ("self", "cls", "ctx")]
    return node.returns is None or any(x.annotation is None for x in free)


def test_only_the_rooms_of_the_plan_and_a_handful_of_files_stand_at_the_top() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(ORDER)
    stray = {path.parent for path in FILES if not (path.parent / "__init__.py").is_file()}
    assert not stray, "a folder of modules without __init__.py"


def test_arrows_go_one_way() -> None:
    holds("arrow", {f"{module} -> {room}" for module, room in arrows()})


def test_importing_the_package_imports_nothing_that_takes_time() -> None:
    assert graph()[""] <= {"torchvision_shim"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    holds("circle", {" <-> ".join(sorted(circle)) for circle in circles(graph())})


def test_a_circle_is_found_where_there_is_one() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert sorted(map(sorted, circles(edges))) == [["b", "c"], ["e"]]


def test_imports_in_functions_count_and_those_for_type_checking_do_not() -> None:
    text = """
if TYPE_CHECKING:
    from i2p_lib.show import style
else:
    import i2p_lib.files
def f():
    from ..data import files
    importlib.import_module("i2p_lib.runs.spec")
"""
    found = set(imports(ast.parse(text), "i2p_lib.sparse.conv", typing=False))
    assert found == {"i2p_lib.files", "i2p_lib.data.files", "i2p_lib.runs.spec"}


@pytest.mark.parametrize("folder", ["i2p_lib", "data_scripts", "benchmarks", "tests"])
def test_no_star_imports_and_no_bare_except(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), path
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), path


@pytest.mark.parametrize("folder", ["i2p_lib", "data_scripts", "benchmarks", "tests"])
def test_the_first_line_of_a_file_says_what_belongs_in_it(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        body = tree(path).body
        assert ast.get_docstring(tree(path)) and body[0].lineno == 1, path


def test_no_file_is_long_and_all_together_neither() -> None:
    lines = {module_name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    holds("long", {name for name, number in lines.items() if number > MOST_LINES})
    assert sum(lines.values()) <= MOST_LINES_IN_ALL


def test_every_public_function_and_class_has_a_docstring() -> None:
    """A layer's class describes its forward and backward, a base class what is overridden."""
    found = {
        f"{module_name(path)}.{name}"
        for path in FILES
        for name, node in definitions(path)
        if not ast.get_docstring(node) and not decorated(node, "overload")
        and not name.endswith((".forward", ".backward"))
        and not ("." in name and described_by_a_base(path, name))
    }  # fmt: skip
    holds("undocumented", found)


def test_every_public_function_and_method_has_type_hints() -> None:
    """Kernels that numba compiles say their arrays' types in the docstring."""
    found = {
        f"{module_name(path)}.{name}"
        for path in FILES
        for name, node in definitions(path)
        if untyped(node)
    }
    holds("untyped", found)
