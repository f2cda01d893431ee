"""The house rules of the source tree, read off the imports and definitions by `ast`: who may import whom, and sizes."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.commands import run_python

ROOT = Path(__file__).parents[1]
TREES = ("kubeface", "components", "pipelines", "benchmarks", "tests")
STEPS = frozenset(
    {"ingest", "superresolve", "align", "filter", "gather", "audit"}
    | {"split", "finetune", "evaluate", "promote", "report", "notify"}
)
# From the ground up: a part of the library imports only parts of lower floors.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"runtime"}),
    frozenset({"storage", "metrics"}),
    frozenset({"faces"}),
    frozenset({"tables"}),
    frozenset({"records"}),
    frozenset({"models"}),
    frozenset({"self_check"}),
    STEPS,
    frozenset({"plan"}),
    frozenset({"api", "cli"}),
    frozenset({"__main__"}),
)
TRAINING = ("finetune", "superresolve", "models")
TORCH = {"torch", "torchvision", "timm", "facenet_pytorch"}
HEAVY = {"cv2", "kfp", "matplotlib", "minio", "numpy", "onnxruntime", "pandas", "PIL", "pyarrow", "scipy", "sklearn"}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 500, 60, 8
# KFP's interface: an artifact is a parameter, and so is a field of the form.
KFP_DECORATORS = {"component", "pipeline", "container_component"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, and whether it is run when the module is."""

    target: str
    at_module_level: bool


@cache
def sources() -> Mapping[str, Path]:
    """Every module of the repository by its dotted name."""
    found = {}
    for tree in TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a module imports, also inside functions; not what is there for a type checker alone."""
    return tuple(_imports(syntax(sources()[module]), at_module_level=True))


def _imports(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(name.name, at_module_level) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"{child.module}: imports are absolute"
            for name in child.names:
                inner = f"{child.module}.{name.name}"
                yield Import(inner if inner in sources() else str(child.module), at_module_level)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_module_level and not inside)


def library() -> list[str]:
    return [module for module in sources() if module.split(".")[0] == "kubeface"]


def importing(packages: set[str]) -> set[str]:
    """Modules of the library that import one of these packages, also inside functions."""
    return {module for module in library() if any(one.target.split(".")[0] in packages for one in imports(module))}


def part_of(module: str) -> str:
    """The subpackage or module directly below kubeface; empty for kubeface itself."""
    return module.split(".")[1] if "." in module else ""


def floor_of(part: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def test_every_part_of_the_library_has_a_floor() -> None:
    parts = {part_of(module) for module in library()} - {""}

    assert parts <= frozenset[str]().union(*FLOORS)


def test_arrows_between_subpackages_go_one_way_and_steps_import_no_other_step() -> None:
    found = {
        f"{module} -> {target.target}"
        for module in library()
        for target in imports(module)
        if part_of(module)
        and target.target.startswith("kubeface.")
        and part_of(target.target) != part_of(module)
        and floor_of(part_of(target.target)) >= floor_of(part_of(module))
    }

    assert not found, f"imports upwards or across: {sorted(found)}"


def test_the_library_knows_neither_kfp_nor_kubernetes_nor_what_is_built_on_it() -> None:
    banned = {"kfp", "kubernetes", "pandas", *TREES} - {"kubeface"}  # no image carries pandas
    found = importing(banned)

    assert not found, f"these import what kubeface must not know: {sorted(found)}"


def test_minio_is_imported_in_storage_only() -> None:
    assert {part_of(module) for module in importing({"minio"})} == {"storage"}


def test_torch_is_reached_only_where_it_trains() -> None:
    """Directly, and through what a module imports when it is imported itself."""
    assert {part_of(module) for module in importing(TORCH)} <= set(TRAINING)

    @cache
    def needs_torch(module: str) -> bool:
        targets = [target.target for target in imports(module) if target.at_module_level]
        return any(target.split(".")[0] in TORCH for target in targets) or any(
            needs_torch(target) for target in targets if target in sources() and target.startswith("kubeface")
        )

    found = {module for module in library() if part_of(module) not in TRAINING and needs_torch(module)}
    assert not found, f"these need torch to be imported: {sorted(found)}"


def test_there_are_no_import_cycles() -> None:
    """Counting imports inside functions too: one that dodges a cycle is a cycle."""
    graph = {
        module: {target.target for target in imports(module) if target.target in sources()} - {module}
        for module in sources()
        if not module.startswith("tests")
    }

    def reached_from(module: str) -> set[str]:
        found: set[str] = set()
        ahead = list(graph[module])
        while ahead:
            if (target := ahead.pop()) not in found:
                found.add(target)
                ahead += graph.get(target, ())
        return found

    found = sorted(module for module in graph if module in reached_from(module))
    assert not found, f"modules in import cycles: {found}"


def test_no_file_is_longer_than_a_reader_takes() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources().values()
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES
    }

    assert not found, f"files over {MOST_LINES} lines: {sorted(found)}"


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the repository, as path:name."""
    for path in sources().values():
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT).as_posix()}:{node.name}", node


def test_no_function_is_longer_than_a_screen() -> None:
    found = {
        name for name, function in functions() if (function.end_lineno or 0) - function.lineno + 1 > MOST_FUNCTION_LINES
    }

    assert not found, f"functions over {MOST_FUNCTION_LINES} lines: {sorted(found)}"


def test_no_function_takes_more_than_eight_parameters() -> None:
    found = {
        name
        for name, function in functions()
        if len([*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]) > MOST_PARAMETERS
        and not KFP_DECORATORS & {ast.unparse(one).split("(")[0].split(".")[-1] for one in function.decorator_list}
    }

    assert not found, f"functions of more than {MOST_PARAMETERS} parameters: {sorted(found)}"


def test_options_are_light_to_import() -> None:
    """The command's help and `plan` import them where neither torch nor OpenCV is installed."""
    modules = [module for module in library() if module.split(".")[-1] == "options"]
    assert modules
    code = f"import {', '.join(modules)}, sys; print([name for name in {HEAVY | TORCH} if name in sys.modules])"

    assert run_python(code).strip() == "[]"
