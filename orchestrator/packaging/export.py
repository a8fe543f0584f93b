"""From a generator to the directory of an MLflow model.

One directory, two flavors: `python_function` gives images from class ids, seed and truncation (`generator_model.py`), and
`pytorch` gives the exported program itself. Neither needs this package, and neither is a pickle.
"""

from __future__ import annotations

import copy
import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageFailed
from orchestrator.registry import quieten

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainers.generator import Draw, Generator

MAX_BATCH = 4096
_exporting = threading.Lock()  # tracing has global state, and stages may run in threads
CODE = Path(__file__).with_name("generator_model.py")


def package(generator: Generator, directory: Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the MLflow model of a generator to `directory` (which must not exist) and return it.

    `metadata` (JSON) stands in its MLmodel file. Raises StageFailed when the network cannot be exported, or when the
    exported one does not give what the trained one gives.
    """
    quieten()
    with _exporting, TemporaryDirectory() as scratch:
        program, facts = Path(scratch, "model.pt2"), Path(scratch, "facts.json")
        facts.write_text(json.dumps(export(generator, program), indent=1, sort_keys=True))
        _save(directory, program, facts, metadata or {})
        _compare(generator, directory)
    return directory


def export(generator: Generator, path: Path) -> dict[str, Any]:
    """Write sampling as a torch.export program of any batch size; returns what a caller must know to run it.

    {inputs: count|classes|images, draws: [{name, kind, shape, high}], dtype, kind, size, num_classes, source}
    """
    import torch

    lean = _without_unused(_on_cpu(generator))
    _, draws, inputs = lean.program()
    facts = {
        "inputs": inputs,
        "draws": [{"name": d.name, "kind": d.kind, "shape": list(d.shape), "high": d.high} for d in draws],
        "dtype": str(lean.dtype).removeprefix("torch."),
        "kind": lean.shape.kind,
        "size": list(lean.shape.size),
        "num_classes": lean.num_labels or lean.data_shape.num_classes,
        "source": list(lean.data_shape.size) if inputs == "images" else None,
    }
    with _quiet():
        torch.export.save(_exported(lean), path)
    return facts


def _on_cpu(generator: Generator) -> Generator:
    return _with_nets(generator, copy.deepcopy(generator.nets).cpu())


def _with_nets(generator: Generator, nets: Any) -> Generator:
    return type(generator)(
        generator.variant,
        nets.eval(),
        generator.data_shape,
        hacks=generator.hacks,
        config=generator.config,
        dtype=generator.dtype,
    )


def _without_unused(generator: Generator) -> Generator:
    """The same generator without the networks that sampling never touches (critics, encoders)."""
    from torch import nn

    program = _exported(generator)
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = program.graph_signature.input_specs
    named = {spec.target: bool(node.users) for spec, node in zip(specs, places, strict=True) if spec.target}
    prefix = "nets."
    told = {target.removeprefix(prefix).split(".")[0] for target in named if target.startswith(prefix)}
    used = {target.removeprefix(prefix).split(".")[0] for target, is_used in named.items() if is_used}
    kept = {name: net for name, net in generator.nets.items() if name in used or name not in told}
    return _with_nets(generator, nn.ModuleDict(kept))


def _exported(generator: Generator) -> torch.export.ExportedProgram:
    import torch

    module, draws, inputs = generator.program()
    args = _example(generator, draws, inputs)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad(), _quiet():
            shapes = (tuple({0: batch} for _ in args),)
            return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises many kinds here, with pages of text
        reason = str(error).strip().split("\n", 1)[0]
        raise StageFailed(f"the generator cannot be exported: {type(error).__name__}: {reason}") from error


def _example(generator: Generator, draws: Sequence[Draw], inputs: str, rows: int = 3) -> tuple[Tensor, ...]:
    """Arguments of the program, more than one row (one row would be exported as a constant)."""
    import torch

    dtype = generator.dtype
    kinds = {"normal": dtype, "uniform": dtype, "integers": torch.int64}
    args = [torch.zeros(rows, *draw.shape, dtype=kinds[draw.kind]) for draw in draws]
    if inputs == "classes":
        args.append(torch.zeros(rows, dtype=torch.int64))
    elif inputs == "images":
        args.append(torch.zeros(rows, *generator.data_shape.size, dtype=dtype))
    return tuple(args)


@contextmanager
def _quiet() -> Iterator[None]:
    """Export and save warn of torch's own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _save(directory: Path, program: Path, facts: Path, metadata: Mapping[str, Any]) -> None:
    import mlflow.pyfunc
    import torch
    from mlflow.models import Model

    told = json.loads(facts.read_text())
    with _quiet():
        mlflow.pyfunc.save_model(
            path=str(directory),
            python_model=str(CODE),
            artifacts={"program": str(program), "facts": str(facts)},
            signature=_signature(told),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "numpy", "torch")],
            metadata={"generator": told, **metadata},
        )
    model = Model.load(str(directory))
    model.add_flavor("pytorch", model_data="artifacts", pytorch_version=str(torch.__version__), code=None)
    function = model.flavors["python_function"]  # without the paths of the machine that packaged it
    function["model_code_path"] = CODE.name
    for artifact in function["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(directory / "MLmodel"))


def _signature(facts: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    image = facts["kind"] == "image"
    if facts["inputs"] == "images":
        takes = TensorSpec(np.dtype("uint8"), (-1, *_channels_last(facts["source"])))
    else:
        takes = TensorSpec(np.dtype("int64"), (-1,))
    size = _channels_last(facts["size"]) if image else tuple(facts["size"])
    gives = TensorSpec(np.dtype("uint8" if image else "float32"), (-1, *size))
    params = [ParamSpec("seed", "long", 0), ParamSpec("truncation", "double", 1.0)]
    return ModelSignature(inputs=Schema([takes]), outputs=Schema([gives]), params=ParamSchema(params))


def _channels_last(size: list[int]) -> tuple[int, ...]:
    channels, *sides = size
    return (*sides, channels)


def _compare(generator: Generator, directory: Path) -> None:
    """The packaged model must give the samples of the trained one, for one row and for several, within a rounding."""
    import mlflow.pyfunc
    import numpy as np

    from trainers.generator import as_float

    with _quiet():
        packaged = mlflow.pyfunc.load_model(str(directory))
    for n in (1, 5):
        given: Any = np.zeros(n, dtype=np.int64)
        options: dict[str, Any] = {"labels": given} if generator.given == "labels" else {}
        if generator.given == "images":
            shape = (n, *_channels_last(list(generator.data_shape.size)))
            given = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            options = {"source": as_float(given)}
        ours = generator.images(n, seed=11, **options)
        theirs = packaged.predict(given, params={"seed": 11})
        is_image = generator.shape.kind == "image"
        near = np.abs(ours.astype(np.float64) - theirs) <= (1 if is_image else 1e-4 * (1 + np.abs(ours)))
        if ours.shape != theirs.shape or not near.all():
            raise StageFailed("the exported generator does not give the samples of the trained one")
