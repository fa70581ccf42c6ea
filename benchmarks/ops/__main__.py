"""Time every operator against the implementation that users would otherwise call, its peer.

    python -m benchmarks.ops                      CPU, 1 thread and all threads
    python -m benchmarks.ops --device cuda
    python -m benchmarks.ops --only masks

Needs only torch and torchvision; comparisons with pycocotools are skipped where it is missing.
Peers get the layout and type that torchvision's own detector gives them; `max_error` is the largest
difference between the two results for the same inputs.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import benchmarks.ops
import ops_cuda
from benchmarks.machine import RESULTS, Row, print_table, save
from benchmarks.ops.comparison import Comparison, measure

Family = Callable[[torch.device], Iterator[Comparison]]


def find_families() -> dict[str, Family]:
    """Return the function ``comparisons`` of each module of this package that defines one."""
    families = {}
    for _, name, _ in pkgutil.iter_modules(benchmarks.ops.__path__):
        if name == "__main__":
            continue
        module = importlib.import_module(f"benchmarks.ops.{name}")
        if hasattr(module, "comparisons"):
            families[name] = module.comparisons
    return families


def main() -> None:
    families = find_families()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=sorted(families), help="one family of operators")
    parser.add_argument("--out", type=Path, help="JSON file; default results/ops_<device>.json")
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds per measurement")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    print(ops_cuda.backend())
    counts = sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [1]
    rows: list[Row] = []
    for threads in counts:
        torch.set_num_threads(threads)
        for name in [options.only] if options.only else families:
            comparisons = families[name](device)
            rows += [measure(comparison, device, options.budget_s) for comparison in comparisons]
    print_table(rows)
    if not options.only or options.out:
        save(rows, options.out or RESULTS / f"ops_{device.type}.json")


if __name__ == "__main__":
    main()
