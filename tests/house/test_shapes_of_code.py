"""Functions with few parameters, kernels with their names, files and folders that can be surveyed."""

import ast
import re
from collections import Counter

from sources import PACKAGES, ROOT, functions, modules, parse, python_files

MOST_PARAMETERS = 8
MOST_LINES = 420
MOST_FILES = 14
# These take the arguments of the torch function or class that they replace, in its order.
AS_TORCH = {
    "fastvgan.layers.convolutions.Convolution.__init__",
    "fastvgan.layers.convolutions.TransposedConvolution.__init__",
    "fastvgan.layers.groups.GroupNormAct.__init__",
    "fastvgan.layers.groups._InstanceNormAct.__init__",
    "fastvgan.layers.modules.BatchNormAct.__init__",
    "fastvgan.layers.modules.ConvNormAct3d.__init__",
    "fastvgan.layers.modules.ConvTransposeNormAct3d.__init__",
    "fastvgan_kernels.conv.conv_up",
    "fastvgan_kernels.norm_act.direct.norm_act",  # batch_norm's and those of the activation, flat: 12 µs in all
    "fastvgan_kernels.fused_conv.fused_conv",  # a public signature; the convolution with its fused parts
    "fastvgan_kernels.norm_act.norm_act",
    "fastvgan_kernels.norm_act.synced.norm_act_synced",
}
# torch calls these with the flat arguments of a registered operator's schema.
_BY_SCHEMA = re.compile(r"^_?\w*(kernel|fake|composite)$")


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls", "ctx")]


def _is_jit(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_no_function_has_many_parameters():
    found, allowed = [], set()
    for module, path in modules().items():
        for function in functions(parse(path)):
            count = len(_parameters(function.node))
            name = f"{module}.{function.name}"
            if (
                module.startswith("fastvgan_kernels.")
                and not _is_jit(function.node)
                and _BY_SCHEMA.match(function.name)
            ):
                continue
            if count > MOST_PARAMETERS:
                allowed |= {name} & set(AS_TORCH)
                if name not in AS_TORCH:
                    found.append(f"{name}: {count}")
    assert not found, "\n".join(found)
    assert allowed == set(AS_TORCH), "a name in AS_TORCH needs no exception: remove it"


def test_every_launched_triton_kernel_ends_in_kernel():
    launched = Counter()
    for path in modules().values():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef) and _is_jit(node):
                launched["jit"] += 1
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                name = ast.unparse(node.func.value).rpartition(".")[2]
                if "grid" in ast.unparse(node.func.slice):
                    launched[name] += 1
    assert launched.pop("jit") > 20, "the Triton functions were not found"
    wrong = [name for name in launched if not name.endswith("kernel")]
    assert launched and not wrong


def test_every_cuda_kernel_ends_in_kernel():
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc/cuda").glob("*.cu*"))]
    pattern = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")
    names = [name for text in texts for name in pattern.findall(text)]
    assert len(names) == sum(text.count("__global__") for text in texts) > 0
    assert not [name for name in names if not name.endswith("_kernel")]


def test_files_are_short():
    long = {}
    for path in python_files("fastvgan", "kernels", "bench", "build_tools"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            long[str(path.relative_to(ROOT))] = lines
    assert not long


def test_folders_hold_few_files():
    crowded = {}
    for folder in PACKAGES.values():
        for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            count = len(list(inner.glob("*.py")))
            if count > MOST_FILES:
                crowded[str(inner.relative_to(ROOT))] = count
    assert not crowded
