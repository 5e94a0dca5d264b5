"""The house rules: one direction of imports, true file maps, documented public names, clean text.

Each rule is a function of a root folder that returns its complaints, so that the tests at the end
can plant a fault and see it reported.
"""

import ast
import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from torch.utils._device import _device_constructors

import wqkv

ROOT = Path(__file__).parents[2]

# A module imports only from those before it. A package's own name is its __init__.
ORDER = (
    "wqkv.errors",
    "wqkv.doors",
    "wqkv.upstream.names",
    "wqkv.upstream.of_torch",
    "wqkv.upstream.of_transformers",
    "wqkv.upstream",
    "wqkv.pictures",
    "wqkv.wrappers",
    "wqkv.attend.forms",
    "wqkv.attend.places",
    "wqkv.attend.values",
    "wqkv.attend.algebra",
    "wqkv.attend.masks",
    "wqkv.attend.rope",
    "wqkv.attend.bias",
    "wqkv.attend.call",
    "wqkv.attend.packed",
    "wqkv.attend.merge",
    "wqkv.attend.engines.reference",
    "wqkv.attend.engines.plan",
    "wqkv.attend.engines.kernels",
    "wqkv.attend.engines.tiles",
    "wqkv.attend.engines.by_reference",
    "wqkv.attend.engines.rectangles",
    "wqkv.attend.engines.traced",
    "wqkv.attend.engines.differentiable",
    "wqkv.attend.engines.fused",
    "wqkv.attend.engines.tiled",
    "wqkv.attend.engines.flex",
    "wqkv.attend.engines",
    "wqkv.attend.parallel.messages",
    "wqkv.attend.parallel.agreement",
    "wqkv.attend.parallel.ranks",
    "wqkv.attend.parallel.local",
    "wqkv.attend.parallel.autograd",
    "wqkv.attend.parallel.ring",
    "wqkv.attend.parallel.heads",
    "wqkv.attend.parallel",
    "wqkv.attend.functional",
    "wqkv.attend",
    "wqkv.maps.picks",
    "wqkv.maps.weights",
    "wqkv.maps.statistics",
    "wqkv.maps.attention_map",
    "wqkv.maps.shared",
    "wqkv.maps.rollout",
    "wqkv.maps",
    "wqkv.layer.cache",
    "wqkv.layer.caches.buffered",
    "wqkv.layer.caches.rolling",
    "wqkv.layer.caches.quantised",
    "wqkv.layer.caches.paged",
    "wqkv.layer.caches.spread",
    "wqkv.layer.caches",
    "wqkv.layer.parts",
    "wqkv.layer.plain",
    "wqkv.layer.node",
    "wqkv.layer.checks",
    "wqkv.layer.rules",
    "wqkv.layer.trace",
    "wqkv.layer.layer",
    "wqkv.layer.latent",
    "wqkv.layer.differential",
    "wqkv.layer.shard",
    "wqkv.layer.convert.rope",
    "wqkv.layer.convert.rows",
    "wqkv.layer.convert.traits",
    "wqkv.layer.convert.families",
    "wqkv.layer.convert.huggingface",
    "wqkv.layer.convert.pretrained",
    "wqkv.layer.convert.checkpoint",
    "wqkv.layer.convert.torch",
    "wqkv.layer.convert",
    "wqkv.layer",
    "wqkv.look.recognise",
    "wqkv.look.records",
    "wqkv.look.readings",
    "wqkv.look.proofs",
    "wqkv.look.runs",
    "wqkv.look.parts",
    "wqkv.look.listen",
    "wqkv.look.door",
    "wqkv.look.watch",
    "wqkv.look.asked",
    "wqkv.look.use",
    "wqkv.look.models",
    "wqkv.look.heads",
    "wqkv.look.corpus",
    "wqkv.look.measures",
    "wqkv.look.tally",
    "wqkv.look.reader",
    "wqkv.look.survey",
    "wqkv.look.answers",
    "wqkv.look.parity",
    "wqkv.look.sweep",
    "wqkv.look.opened",
    "wqkv.look.view",
    "wqkv.look.whatif",
    "wqkv.look.pair",
    "wqkv.look.story",
    "wqkv.look",
    "wqkv.public",
    "wqkv",
    "wqkv.show.data",
    "wqkv.show.phrases",
    "wqkv.show.steps",
    "wqkv.show.terminal",
    "wqkv.show.html",
    "wqkv.show.plots",
    "wqkv.show.heads",
    "wqkv.show.survey",
    "wqkv.show.parity",
    "wqkv.show.hosts",
    "wqkv.show.jobs",
    "wqkv.show.asks",
    "wqkv.show.api",
    "wqkv.show.export",
    "wqkv.show.ticket",
    "wqkv.show.protocol",
    "wqkv.show.server",
    "wqkv.show",
    "wqkv.commands.given",
    "wqkv.commands.screen",
    "wqkv.commands.progress",
    "wqkv.commands.see",
    "wqkv.commands.open",
    "wqkv.commands.heads",
    "wqkv.commands.parity",
    "wqkv.commands.survey",
    "wqkv.commands",
    "wqkv.cli",
    "wqkv.__main__",
)
# look/ stands beside layer/, and opens a model's matrices as a layer.
FROM_LAYER_TO_LOOK = (
    "wqkv.layer.layer",
    "wqkv.layer.convert",
    "wqkv.layer.convert.huggingface",
    "wqkv.layer.convert.pretrained",
    "wqkv.layer.convert.checkpoint",
)


# Imports


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package: {"wqkv.attend.masks": path, "wqkv.attend": path of __init__}."""
    found = {}
    for path in sorted((root / "src/wqkv").rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line, module of ours) for each import, wherever it stands in the file."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            targets = [target if target in known else base for target in names]
        else:
            continue
        for target in dict.fromkeys(targets):
            if target.partition(".")[0] == "wqkv":
                yield node.lineno, target


def wrong_imports(root: Path) -> list[str]:
    """Imports against the direction of ORDER, and modules that ORDER does not place."""
    rank = {name: i for i, name in enumerate(ORDER)}
    found = modules(root)
    wrong = []
    for name, path in found.items():
        if name not in rank:
            wrong.append(f"{name} has no place yet: add it to ORDER in tests/unit/test_house.py")
            continue
        for line, target in imports(name, path, {*ORDER, *found}):
            where = f"{path.relative_to(root)}:{line}: {name} imports {target}"
            if target not in rank:
                if target not in found:  # else it is reported for itself
                    wrong.append(f"{where}, which is not there")
            elif rank[target] >= rank[name]:
                wrong.append(f"{where}, which does not stand above it")
            elif (
                name.startswith("wqkv.look")
                and target.startswith("wqkv.layer")
                and target not in FROM_LAYER_TO_LOOK
            ):
                wrong.append(f"{where}; of layer/, look/ may use only {FROM_LAYER_TO_LOOK}")
    return wrong


def test_imports_go_one_way():
    wrong = wrong_imports(ROOT)
    assert not wrong, "\n".join(wrong)


# Names from inside other packages

# What Python documents: members of a NamedTuple, and sys._getframe.
OURS = {"_replace", "_asdict", "_fields", "_make", "_getframe"}
INSIDE = ("src/wqkv/upstream/", "src/wqkv/attend/engines/kernels.py")
LOOKS = {"getattr", "hasattr", "setattr", "delattr"}


def made(tree: ast.AST) -> Iterator[str]:
    """Every name that a file gives to something."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.arg(arg=name)
            ):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of attributes and modules: written out, imported, or asked for by a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.ImportFrom(module=str(name)):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id=looks), args=[_, ast.Constant(value=str(name)), *_]) if (
                looks in LOOKS
            ):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id="need"), args=[ast.Constant(value=str(name)), *_]):
                yield node.lineno, name


def foreign_names(root: Path) -> list[str]:
    """Names from inside torch or transformers that stand outside `upstream`."""
    trees = {
        str(path.relative_to(root)): ast.parse(path.read_text("utf-8"))
        for path in modules(root).values()
    }
    ours = OURS.union(*(made(tree) for tree in trees.values()))
    return [
        f"{path}:{line}: {name} is inside another package: give it a line in wqkv.upstream"
        for path, tree in trees.items()
        if not path.startswith(INSIDE)
        for line, name in used(tree)
        if name.startswith("transformers.")
        or any(re.match(r"_[^_]", part) and part not in ours for part in name.split("."))
    ]


def test_names_of_other_packages_stand_in_one_place():
    wrong = foreign_names(ROOT)
    assert not wrong, "\n".join(wrong)


# File maps

READMES = ("README.md", "README.zh-CN.md")
HEADING = re.compile(r"#+ .*(File map|文件)")
ENTRY = re.compile(r"[-*|`\s]*([\w/-]*[/.][\w./-]*)[`|:\s]*(.*)")


def file_map(readme: Path) -> dict[str, str]:
    """{path: what it is} from the fenced block or the list under the heading "File map"."""
    entries, inside, fenced = {}, False, False
    for line in readme.read_text("utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif line.startswith("#") and not fenced:
            inside = bool(HEADING.match(line))
        elif not inside or not (fenced or line.startswith(("-", "*", "|"))):
            continue
        elif entry := ENTRY.match(line):
            entries[entry[1]] = entry[2]
    return entries


def has_code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text("utf-8")).body)


def wrong_file_map(root: Path, readme: str) -> list[str]:
    """What the file map leaves out or makes up. Its paths start at root or at src/wqkv."""
    if not (root / readme).exists():
        return [f"{readme} is not there"]
    entries = file_map(root / readme)
    if not entries:
        return [f"{readme} has no lines `path  what it is` under a heading `File map`"]
    wrong, listed = [], set()
    for path, what in entries.items():
        here = [start / path for start in (root, root / "src/wqkv") if (start / path).exists()]
        listed.update(here[:1])
        if not here:
            wrong.append(f"{readme} lists {path}, which is not there")
        if not what:
            wrong.append(f"{readme} does not say what {path} is")
    for path in modules(root).values():
        if path not in listed and (path.name != "__init__.py" or has_code(path)):
            wrong.append(f"{readme} does not list {path.relative_to(root)}")
    return wrong


@pytest.mark.parametrize("readme", READMES)
def test_file_map_is_true(readme):
    wrong = wrong_file_map(ROOT, readme)
    assert not wrong, "\n".join(wrong)


# Public names


def undocumented(names: dict[str, object]) -> list[str]:
    """Those without a docstring of their own; the one that @dataclass writes does not count."""

    def own(name: str, value: object) -> bool:
        doc = value.__doc__ or ""
        return bool(doc) and not (dataclasses.is_dataclass(value) and doc.startswith(f"{name}("))

    return [name for name, value in names.items() if not own(name, value)]


def test_all_names_the_public_names():
    public = {
        name
        for name, value in vars(wqkv.public).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("wqkv")
    }
    assert len(wqkv.__all__) == len(set(wqkv.__all__))
    assert [name for name in wqkv.__all__ if not hasattr(wqkv, name)] == []
    assert sorted(public - set(wqkv.__all__)) == []


def test_public_names_are_documented():
    names = {name: getattr(wqkv, name) for name in wqkv.__all__ if not name.startswith("_")}
    assert undocumented(names) == []


def test_import_needs_torch_alone():
    extras = {"transformers", "safetensors", "gguf", "accelerate", "rich", "matplotlib", "onnx"}
    code = "import sys, torch; a = {*sys.modules}; import wqkv.public; print(*{*sys.modules} - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "wqkv.errors" in done.stdout.split()
    assert sorted(extras & {name.partition(".")[0] for name in done.stdout.split()}) == []
    slow = {"torch._dynamo", "torch.distributed.tensor"}  # two seconds
    assert sorted(slow & {*done.stdout.split()}) == []


def test_the_command_line_starts_without_torch():
    code = "import sys, wqkv.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted({"torch", "wqkv.public"} & {*done.stdout.split()}) == []


def test_names_of_the_package():
    assert {"attention", "__version__", *wqkv.__all__} <= {*dir(wqkv)}
    assert wqkv.errors.ArgumentError.__module__ == "wqkv.errors"
    with pytest.raises(AttributeError, match="module 'wqkv' has no attribute 'atention'"):
        wqkv.atention  # noqa: B018


# Devices

FACTORIES = {made.__name__ for made in _device_constructors()}


def without_device(root: Path) -> list[str]:
    """Calls such as torch.arange(n) that leave the device to whatever the default is by then."""
    wrong = []
    for path in modules(root).values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Name("torch"), name), keywords=keywords):
                    said = {keyword.arg for keyword in keywords}  # None: **where, which has it
                    if name in FACTORIES and not said & {"device", None}:
                        where = f"{path.relative_to(root)}:{node.lineno}"
                        wrong.append(f"{where}: torch.{name} names no device")
    return wrong


def test_every_tensor_is_made_on_a_stated_device():
    wrong = without_device(ROOT)
    assert not wrong, "\n".join(wrong)


# Text

FOLDERS = "|".join(("home", "root", "work", "Users"))
HOSTS = "|".join(("pypi", "pythonhosted", "npmjs", "yarnpkg", "debian", "ubuntu", "anaconda"))
LOCAL = re.compile(rf"(?<![\w.~$}})])/(?:{FOLDERS})/|\b(?:{HOSTS})\.(?:org|com)\b")


def local_names(root: Path, paths: Iterable[str]) -> list[str]:
    """Lines that name a folder of one machine or the host of a package registry."""
    wrong = []
    for path in paths:
        try:
            text = (root / path).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; deleted and not yet committed
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := LOCAL.search(line):
                wrong.append(f"{path}:{number}: {found[0]}")
    return wrong


def test_text_names_no_machine():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = [git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in done.stdout.split("\0") if path]
    assert "tests/unit/test_house.py" in paths
    wrong = local_names(ROOT, paths)
    assert not wrong, "\n".join(wrong)


# These rules can fail


def plant(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    return root


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torch.arange(3)", "arange"),
        ("x = [torch.tensor([1], dtype=torch.long).view(1)]", "tensor"),
        ("torch.as_tensor(x)", "as_tensor"),
        ("torch.zeros(3, device=None or x.device)", None),
        ("torch.ones(3, **where)", None),
        ("torch.zeros_like(x), x.new_zeros(3), np.arange(3)", None),
    ],
)
def test_planted_factory(tmp_path, source, name):
    wrong = without_device(plant(tmp_path, {"src/wqkv/errors.py": f"def f():\n    {source}"}))
    says = f"src/wqkv/errors.py:2: torch.{name} names no device"
    assert wrong == ([] if name is None else [says])


BELOW = "does not stand above it"


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("attend/masks.py", "import torch\nfrom wqkv.errors import describe", None),
        ("attend/engines/fused.py", "from ..merge import Partial", None),
        ("attend/__init__.py", "from .masks import Full\nfrom . import merge", None),
        ("look/models.py", "from wqkv.layer import convert\nimport wqkv.layer.layer", None),
        ("attend/masks.py", "from wqkv.attend.merge import Partial", BELOW),
        ("attend/masks.py", "import torch, wqkv.attend.call", BELOW),
        ("attend/masks.py", "from wqkv.attend import call", BELOW),
        ("attend/masks.py", "from wqkv import Full", "masks imports wqkv, which does not stand"),
        ("attend/masks.py", "import wqkv.attend.masks", BELOW),
        ("attend/engines/fused.py", "from ..functional import attention", BELOW),
        ("attend/engines/fused.py", "from . import flex", BELOW),
        ("attend/engines/__init__.py", "from .. import parallel", BELOW),
        ("attend/call.py", "def f():\n    from wqkv.layer import layer", "call.py:2: "),
        ("errors.py", "if TYPE_CHECKING:\n    from .attend import merge", "errors.py:2: "),
        ("layer/layer.py", "from wqkv.maps.attention_map import AttentionMap", None),
        ("maps/weights.py", "from wqkv.layer.layer import MultiheadAttention", BELOW),
        ("layer/layer.py", "from wqkv.look.watch import watch", BELOW),
        ("look/watch.py", "from wqkv.layer.cache import Dynamic", "look/ may use only"),
        ("look/watch.py", "from wqkv.layer import MultiheadAttention", "look/ may use only"),
        ("look/watch.py", "from wqkv.attend.mask import Full", "mask, which is not there"),
        ("attend/new.py", "", "add it to ORDER in tests/unit/test_house.py"),
    ],
)
def test_planted_import(tmp_path, path, source, complaint):
    wrong = wrong_imports(plant(tmp_path, {f"src/wqkv/{path}": source}))
    assert len(wrong) == (complaint is not None)
    assert all(complaint in line for line in wrong)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def _mine(x): return x._mine, x._replace(a=1), x.__dict__", None),
        ("import transformers\nfrom torch import nn", None),
        ("def f(module): return module._forward_hooks", "_forward_hooks"),
        ("def f(module): return getattr(module, '_orig_mod', module)", "_orig_mod"),
        ("from torch.utils._pytree import tree_map", "torch.utils._pytree"),
        ("from transformers.cache_utils import Cache", "transformers.cache_utils"),
        ("need('transformers.masking_utils', 'hf', '')", "transformers.masking_utils"),
    ],
)
def test_planted_foreign_name(tmp_path, source, name):
    wrong = foreign_names(plant(tmp_path, {"src/wqkv/a.py": source}))
    assert len(wrong) == (name is not None)
    assert all(f": {name} is inside" in line for line in wrong)
    assert foreign_names(plant(tmp_path / "b", {"src/wqkv/upstream/a.py": source})) == []


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("## File map\n```\nsrc/wqkv/errors.py  the errors\n```\n## Next\n```\na.py  no\n```", []),
        ("## 文件地图\nProse, e.g. this.\n- `errors.py`: the errors", []),
        ("## Files\n```\nerrors.py  the errors\n```", ["README.md has no lines"]),
        ("## File map\n```\nerrors.py\n```", ["README.md does not say what errors.py is"]),
        (
            "## File map\n```\n# a comment\nsrc/  code\ngone.py  nothing\n```",
            ["README.md lists gone.py", "README.md does not list src/wqkv/errors.py"],
        ),
    ],
)
def test_planted_file_map(tmp_path, text, complaints):
    files = {"README.md": text, "src/wqkv/errors.py": "x = 1", "src/wqkv/__init__.py": '"""."""'}
    wrong = wrong_file_map(plant(tmp_path, files), "README.md")
    assert len(wrong) == len(complaints)
    assert all(line.startswith(start) for line, start in zip(wrong, complaints, strict=True))


def test_planted_missing_readme(tmp_path):
    assert wrong_file_map(tmp_path, "README.md") == ["README.md is not there"]


def test_planted_undocumented():
    @dataclasses.dataclass
    class Bare:
        size: int

    class Written:
        """A sentence."""

    class Heir(Written):
        pass

    names = {"Bare": Bare, "Written": Written, "Heir": Heir}
    assert undocumented(names) == ["Bare", "Heir"]


@pytest.mark.parametrize("folder", FOLDERS.split("|"))
def test_planted_folder(tmp_path, folder):
    plant(tmp_path, {"a.md": f"fine: x/{folder}/y\nopen /{folder}/me/notes"})
    assert local_names(tmp_path, ["a.md", "gone.md"]) == [f"a.md:2: /{folder}/"]


@pytest.mark.parametrize("host", HOSTS.split("|"))
def test_planted_host(tmp_path, host):
    plant(tmp_path, {"a.md": f"the index at files.{host}.org"})
    assert local_names(tmp_path, ["a.md"]) == [f"a.md:1: {host}.org"]
