"""torchvision's detector in other runtimes: exported to ONNX, run by onnxruntime or OpenVINO."""

import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import Image

PEERS = ("torchvision", "openvino", "onnxruntime")
# Of torch's older exporter, the one with which torchvision's detectors export.
OPSET = 17
Results = Mapping[str, Tensor]
RunImage = Callable[[Image], Results]
"""Detect objects in one image; names and shapes of the results are torchvision's."""


def export_peer(peer: nn.Module, image: Image, path: Path) -> tuple[str, ...]:
    """Export torchvision's detector for images of any size; return the names of its results.

    Args:
        peer: in eval mode, on the CPU.
        image: an image with objects, on which it is traced.
        path: the ONNX file to write.
    """
    pixels = to_tensor(image)
    with torch.inference_mode():
        names = tuple(peer([pixels])[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constants of tracing, and the exporter's deprecation
        torch.onnx.export(
            peer,
            ([pixels],),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            input_names=["pixels"],
            output_names=list(names),
            dynamic_axes={"pixels": {1: "height", 2: "width"}} | {n: {0: "objects"} for n in names},
        )
    return names


def open_runtime(name: str, path: Path, names: tuple[str, ...], threads: int) -> RunImage:
    """Return how a runtime detects objects in one image, in float32.

    Args:
        name: openvino or onnxruntime.
        path: the ONNX file.
        names: its results.
        threads: CPU threads.

    Raises:
        ImportError: the runtime is not installed.
    """
    run = _open_openvino(path, threads) if name == "openvino" else _open_onnxruntime(path, threads)

    def detect(image: Image) -> Results:
        results = run(to_tensor(image).numpy())
        return {key: torch.from_numpy(value) for key, value in zip(names, results, strict=True)}

    return detect


def version_of(peer: str) -> str:
    """Return the installed version of a peer's package."""
    return importlib.metadata.version(peer)


def to_tensor(image: Image) -> Tensor:
    """Return an image as torchvision takes it, (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def _open_onnxruntime(path: Path, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    import onnxruntime  # noqa: PLC0415 - optional: the `bench` extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def _open_openvino(path: Path, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    import openvino  # noqa: PLC0415 - optional: the `bench` extra

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        results = compiled([pixels])
        return [np.array(results[output]) for output in compiled.outputs]

    return run
