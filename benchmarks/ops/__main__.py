"""Every operator of ours beside the code that people use for the same.

    python -m benchmarks.ops                      CPU, 1 thread and all threads
    python -m benchmarks.ops --device cuda
    python -m benchmarks.ops --only masks

Needs torch and torchvision alone; contests with pycocotools are left out where it is missing.
Peers get the layout and type that torchvision's own detector gives them; `max_error` compares the
two results of the same inputs.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import ops_cuda
from benchmarks.machine import RESULTS, Row, print_table, save
from benchmarks.ops.contest import Contest, measure
from benchmarks.ops.convolution import convolution_contests
from benchmarks.ops.deform_conv import deform_conv_contests
from benchmarks.ops.mask_targets import mask_target_contests
from benchmarks.ops.masks import mask_contests
from benchmarks.ops.matching import matching_contests
from benchmarks.ops.nms import nms_contests
from benchmarks.ops.preprocessing import preprocessing_contests
from benchmarks.ops.proposals import proposal_contests
from benchmarks.ops.roi_align import roi_align_contests

FAMILIES: dict[str, Callable[[torch.device], Iterator[Contest]]] = {
    "nms": nms_contests,
    "proposals": proposal_contests,
    "roi_align": roi_align_contests,
    "masks": mask_contests,
    "mask_targets": mask_target_contests,
    "matching": matching_contests,
    "preprocessing": preprocessing_contests,
    "convolution": convolution_contests,
    "deform_conv": deform_conv_contests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=sorted(FAMILIES), help="one family of operators")
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
        for family in [options.only] if options.only else FAMILIES:
            contests = FAMILIES[family](device)
            rows += [measure(contest, device, options.budget_s) for contest in contests]
    print_table(rows)
    if not options.only or options.out:
        save(rows, options.out or RESULTS / f"ops_{device.type}.json")


if __name__ == "__main__":
    main()
