"""The house rules: one direction of imports, documented public names, clean text.

Each rule is a function of a root folder that returns its complaints, so that the tests at the end
can plant a fault and see it reported.
"""

import ast
import builtins
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
from wqkv import Form, errors

ROOT = Path(__file__).parents[2]

# A module imports only from those before it. A package's own name is its __init__.
ORDER = (
    "wqkv.sentences",
    "wqkv.sentences.models",
    "wqkv.sentences.errors",
    "wqkv.errors",
    "wqkv.doors",
    "wqkv.sentences.experiments",
    "wqkv.sentences.heads",
    "wqkv.sentences.rate",
    "wqkv.sentences.reading",
    "wqkv.sentences.seen",
    "wqkv.sentences.steps",
    "wqkv.sentences.counts",
    "wqkv.sentences.why",
    "wqkv.sentences.parity",
    "wqkv.sentences.diff",
    "wqkv.sentences.commands",
    "wqkv.sentences.survey",
    "wqkv.sentences.usage",
    "wqkv.upstream.names",
    "wqkv.upstream.of_torch",
    "wqkv.upstream.of_transformers",
    "wqkv.upstream",
    "wqkv.wrappers",
    "wqkv.named_attention",
    "wqkv.files",
    "wqkv.fonts",
    "wqkv.attend.forms",
    "wqkv.attend.geometry",
    "wqkv.attend.values",
    "wqkv.attend.masks.algebra",
    "wqkv.attend.masks.causal",
    "wqkv.attend.masks.ends",
    "wqkv.attend.masks.segments",
    "wqkv.attend.masks.dense",
    "wqkv.attend.masks",
    "wqkv.attend.scalings",
    "wqkv.attend.rope",
    "wqkv.attend.bias",
    "wqkv.attend.rules",
    "wqkv.attend.call",
    "wqkv.attend.packed",
    "wqkv.attend.heard",
    "wqkv.attend.partial",
    "wqkv.attend.engines.memory",
    "wqkv.attend.engines.plan",
    "wqkv.attend.engines.reference",
    "wqkv.attend.engines.kernels",
    "wqkv.attend.engines.tiles",
    "wqkv.attend.engines.by_reference",
    "wqkv.attend.engines.rectangles",
    "wqkv.attend.engines.operator",
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
    "wqkv.attend.parallel.all_to_all",
    "wqkv.attend.parallel",
    "wqkv.attend.functional",
    "wqkv.attend",
    "wqkv.maps.display",
    "wqkv.maps.png",
    "wqkv.maps.scales",
    "wqkv.maps.axis",
    "wqkv.maps.pictures",
    "wqkv.maps.panels",
    "wqkv.maps.sound_overlay",
    "wqkv.maps.overlay",
    "wqkv.maps.picks",
    "wqkv.maps.weights",
    "wqkv.maps.statistics",
    "wqkv.maps.row_statistics",
    "wqkv.maps.links",
    "wqkv.maps.tile_map",
    "wqkv.maps.link_map",
    "wqkv.maps.attention_map",
    "wqkv.maps.shared",
    "wqkv.maps.rollout",
    "wqkv.maps.token_times",
    "wqkv.maps.proof",
    "wqkv.maps",
    "wqkv.layer.caches.base",
    "wqkv.layer.caches.buffered",
    "wqkv.layer.caches.rolling",
    "wqkv.layer.caches.quantized",
    "wqkv.layer.caches.paged",
    "wqkv.layer.caches.spread",
    "wqkv.layer.caches",
    "wqkv.layer.norms",
    "wqkv.layer.plain",
    "wqkv.layer.node",
    "wqkv.layer.checks",
    "wqkv.layer.metadata",
    "wqkv.layer.project",
    "wqkv.layer.trace",
    "wqkv.layer.attention",
    "wqkv.layer.latent",
    "wqkv.layer.differential",
    "wqkv.layer.shard",
    "wqkv.layer.convert.positions",
    "wqkv.layer.convert.rows",
    "wqkv.layer.convert.traits",
    "wqkv.layer.convert.families",
    "wqkv.layer.convert.huggingface",
    "wqkv.layer.convert.pretrained",
    "wqkv.layer.convert.checkpoint",
    "wqkv.layer.convert.torch",
    "wqkv.layer.convert",
    "wqkv.layer",
    "wqkv.record.mask_pattern",
    "wqkv.record.backward",
    "wqkv.record.inputs.moment",
    "wqkv.record.inputs.before",
    "wqkv.record.inputs.latents",
    "wqkv.record.inputs.text",
    "wqkv.record.inputs.cuts",
    "wqkv.record.inputs.picture_tokens",
    "wqkv.record.inputs.joined",
    "wqkv.record.inputs.special_tokens",
    "wqkv.record.inputs.patches",
    "wqkv.record.inputs.places",
    "wqkv.record.inputs.shifted",
    "wqkv.record.inputs.merge_order",
    "wqkv.record.inputs.sound",
    "wqkv.record.inputs.find",
    "wqkv.record.inputs",
    "wqkv.record.captured",
    "wqkv.record.read_mask",
    "wqkv.record.arguments",
    "wqkv.record.operators.nodes",
    "wqkv.record.prove_call",
    "wqkv.record.run",
    "wqkv.record.follow",
    "wqkv.record.modules",
    "wqkv.record.write_path",
    "wqkv.record.faults",
    "wqkv.record.layer_runs",
    "wqkv.record.operators.learned",
    "wqkv.record.operators.trails",
    "wqkv.record.operators.told",
    "wqkv.record.operators.listening",
    "wqkv.record.operators.layout",
    "wqkv.record.operators.scores",
    "wqkv.record.operators.axes",
    "wqkv.record.operators.assemble",
    "wqkv.record.operators.replay",
    "wqkv.record.operators.laid_out",
    "wqkv.record.operators.flex_calls",
    "wqkv.record.operators.whole_calls",
    "wqkv.record.operators.understand",
    "wqkv.record.operators.door",
    "wqkv.record.operators",
    "wqkv.record.own",
    "wqkv.record.run_again",
    "wqkv.record.texts",
    "wqkv.record.watched_model",
    "wqkv.record.listen",
    "wqkv.record.report",
    "wqkv.record.kept_axes",
    "wqkv.record.kept",
    "wqkv.record.seen_effects",
    "wqkv.record.writes",
    "wqkv.record.overhear",
    "wqkv.record.watching",
    "wqkv.record.watch",
    "wqkv.record.recording",
    "wqkv.record",
    "wqkv.replace.carried_mask",
    "wqkv.replace.use",
    "wqkv.replace",
    "wqkv.study.callbacks",
    "wqkv.study.packaged",
    "wqkv.study.tokens",
    "wqkv.study.windows",
    "wqkv.study.chat",
    "wqkv.study.e5",
    "wqkv.study.foreign",
    "wqkv.study.loading",
    "wqkv.study.part",
    "wqkv.study.head_matrices",
    "wqkv.study.stream",
    "wqkv.study.answers",
    "wqkv.study.parity",
    "wqkv.study.sweep",
    "wqkv.study.opened_layer",
    "wqkv.study.view",
    "wqkv.study.saved_page",
    "wqkv.study.model",
    "wqkv.study.patterns",
    "wqkv.study.known_texts",
    "wqkv.study.heads",
    "wqkv.study.sampling",
    "wqkv.study.generate",
    "wqkv.study.lens",
    "wqkv.study.whatif",
    "wqkv.study.pair",
    "wqkv.study.vision",
    "wqkv.study.vision_language",
    "wqkv.study.opening",
    "wqkv.study.one_token",
    "wqkv.study.hit_rate",
    "wqkv.study",
    "wqkv.effects.records",
    "wqkv.effects.heap",
    "wqkv.effects.blocks",
    "wqkv.effects.passes",
    "wqkv.effects.candidates",
    "wqkv.effects.asked",
    "wqkv.effects.rerun",
    "wqkv.effects.together",
    "wqkv.effects.why",
    "wqkv.effects.effect_maps",
    "wqkv.effects.patch",
    "wqkv.effects.circuits",
    "wqkv.effects.diff",
    "wqkv.effects",
    "wqkv.experiments.asked_of_heads",
    "wqkv.experiments.changed_head",
    "wqkv.experiments.guesses",
    "wqkv.experiments.switches",
    "wqkv.experiments.how_often",
    "wqkv.experiments",
    "wqkv.corpus.documents",
    "wqkv.corpus.measures",
    "wqkv.corpus.sums",
    "wqkv.corpus.reader",
    "wqkv.corpus.worker",
    "wqkv.corpus.survey",
    "wqkv.corpus",
    "wqkv.public",
    "wqkv",
    "wqkv.draw.matrix",
    "wqkv.draw.to_json",
    "wqkv.draw.steps",
    "wqkv.draw.line_breaks",
    "wqkv.draw.terminal",
    "wqkv.draw.html",
    "wqkv.draw.plots",
    "wqkv.draw.heads",
    "wqkv.draw.survey",
    "wqkv.draw.parity",
    "wqkv.draw.rate",
    "wqkv.draw.effects",
    "wqkv.draw.why",
    "wqkv.draw.arcs",
    "wqkv.draw.diff",
    "wqkv.draw.cards",
    "wqkv.draw",
    "wqkv.explorer.hosts",
    "wqkv.explorer.schema",
    "wqkv.explorer.jobs",
    "wqkv.explorer.request",
    "wqkv.explorer.as_python",
    "wqkv.explorer.api",
    "wqkv.explorer.matters",
    "wqkv.explorer.matrices",
    "wqkv.explorer.cards",
    "wqkv.explorer.numbers",
    "wqkv.explorer.saved_experiments",
    "wqkv.explorer.saved_cards",
    "wqkv.explorer.saved_layer",
    "wqkv.explorer.saved_matrices",
    "wqkv.explorer.export",
    "wqkv.explorer.inline",
    "wqkv.explorer.ticket",
    "wqkv.explorer.protocol",
    "wqkv.explorer.server",
    "wqkv.explorer",
    "wqkv.commands.given",
    "wqkv.commands.screen",
    "wqkv.commands.progress",
    "wqkv.commands.see",
    "wqkv.commands.open",
    "wqkv.commands.heads",
    "wqkv.commands.parity",
    "wqkv.commands.rate",
    "wqkv.commands.diff",
    "wqkv.commands.survey",
    "wqkv.commands.why",
    "wqkv.commands.models",
    "wqkv.commands",
    "wqkv.cli",
    "wqkv.__main__",
)
# study/ opens a model's matrices as a layer; record/, replace/ and corpus/ know nothing of layers.
FROM_LAYER_TO_STUDY = (
    "wqkv.layer.attention",
    "wqkv.layer.convert",
    "wqkv.layer.convert.huggingface",
    "wqkv.layer.convert.pretrained",
    "wqkv.layer.convert.checkpoint",
)
BESIDE_LAYER = ("wqkv.record", "wqkv.replace", "wqkv.study", "wqkv.corpus")


# Imports


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package: {"wqkv.attend.rope": path, "wqkv.attend": path of __init__}."""
    found = {}
    for path in sorted((root / "src/wqkv").rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line, module of ours) for each import, wherever it stands in the file.

    Reading the files of another package is an import too: `files("wqkv.explorer")`.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            targets = [target if target in known else base for target in names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "files":
            read = [part.value for part in node.args if isinstance(part, ast.Constant)]
            targets = [target for target in read if not name.startswith(f"{target}.")]
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
            elif name.startswith(BESIDE_LAYER) and target.startswith("wqkv.layer"):
                allowed = FROM_LAYER_TO_STUDY if name.startswith("wqkv.study") else ()
                if target not in allowed:
                    room = name.split(".")[1]
                    wrong.append(f"{where}; of layer/, {room}/ may use only {allowed}")
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
    assert sorted(public - set(wqkv.__all__) - set(wqkv.public.UNSTARRED)) == []
    assert [name for name in wqkv.public.UNSTARRED if not hasattr(builtins, name)] == []


def test_public_names_are_documented():
    found = (*wqkv.__all__, *wqkv.public.UNSTARRED)
    names = {name: getattr(wqkv, name) for name in found if not name.startswith("_")}
    assert undocumented(names) == []


def test_what_an_error_tells_to_pass_is_public():
    examples = set(re.findall(r" such as (\w+)\(", " ".join(told(Form))))
    assert {"Causal", "ALiBi", "YaRN"} <= examples <= {*wqkv.__all__}
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in raised if name.endswith("Error")} <= {*wqkv.__all__}


def told(kind: type) -> Iterator[str]:
    """How errors name what an argument of a kind takes."""
    yield getattr(kind, "said", "")
    for below in kind.__subclasses__():
        yield from told(below)


@pytest.mark.process
def test_import_needs_torch_alone():
    extras = {"transformers", "safetensors", "gguf", "accelerate", "rich", "matplotlib", "onnx"}
    code = "import sys, torch; a = {*sys.modules}; import wqkv.public; print(*{*sys.modules} - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "wqkv.errors" in done.stdout.split()
    assert sorted(extras & {name.partition(".")[0] for name in done.stdout.split()}) == []
    slow = {"torch._dynamo", "torch.distributed.tensor"}  # two seconds
    assert sorted(slow & {*done.stdout.split()}) == []


@pytest.mark.process
def test_the_command_line_starts_without_torch():
    code = "import sys, wqkv.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted({"torch", "wqkv.public"} & {*done.stdout.split()}) == []


def test_names_of_the_package():
    assert {"attention", "open", "__version__", *wqkv.__all__} <= {*dir(wqkv)}
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


@pytest.mark.process
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
        ("attend/masks/causal.py", "import torch\nfrom wqkv.errors import describe", None),
        ("attend/engines/fused.py", "from ..partial import Partial", None),
        ("attend/__init__.py", "from .masks import algebra\nfrom . import partial", None),
        ("study/model.py", "from wqkv.layer import convert\nimport wqkv.layer.attention", None),
        ("attend/masks/causal.py", "from wqkv.attend.partial import Partial", BELOW),
        ("attend/masks/causal.py", "import torch, wqkv.attend.call", BELOW),
        ("attend/masks/causal.py", "from wqkv.attend import call", BELOW),
        (
            "attend/masks/causal.py",
            "from wqkv import Full",
            "imports wqkv, which does not stand",
        ),
        ("attend/masks/causal.py", "import wqkv.attend.masks.causal", BELOW),
        ("attend/engines/fused.py", "from ..functional import attention", BELOW),
        ("attend/engines/fused.py", "from . import flex", BELOW),
        ("attend/engines/__init__.py", "from .. import parallel", BELOW),
        ("attend/call.py", "def f():\n    from wqkv.layer import layer", "call.py:2: "),
        ("errors.py", "if TYPE_CHECKING:\n    from .attend import partial", "errors.py:2: "),
        ("layer/attention.py", "from wqkv.maps.attention_map import AttentionMap", None),
        ("maps/weights.py", "from wqkv.layer.attention import MultiheadAttention", BELOW),
        ("layer/attention.py", "from wqkv.record.watch import watch", BELOW),
        ("record/watch.py", "from wqkv.layer.caches.base import Dynamic", "record/ may use only"),
        ("record/watch.py", "from wqkv.layer import MultiheadAttention", "record/ may use only"),
        ("record/watch.py", "from wqkv.attend.mask import Full", "mask, which is not there"),
        ("draw/html.py", "files('wqkv.draw') / 'pages'", None),
        ("draw/html.py", "files('wqkv.explorer') / 'page'", BELOW),
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
