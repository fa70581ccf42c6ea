"""A folder of any size is planned in little memory."""

import os
import subprocess
import sys

PLAN_UNDER_A_LIMIT = """
import resource, sys
from collections import Counter
from pathlib import Path
from unittest import mock

from pipeline.infer import image_listing
from pipeline.infer.image_plan import plan_images
from pipeline.infer.sources.folder import FolderImages
from pipeline.storage.versions import FileVersion

def keys(url):
    for n in range(200_000):
        yield FileVersion(f"2025/11/29/camera-{n % 7}/{n:08d}.jpg", f'"{n:032x}"')

status = Path("/proc/self/status").read_text()
[used_kb] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")]
limit = (used_kb << 10) + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with mock.patch.object(image_listing, "list_versions", keys):
    listing = FolderImages("s3://bucket/images")
    plan = plan_images(listing, sys.argv[2], 64, None, lambda chunk: "key")
    counts = Counter(chunk.images for chunk in plan.unfinished())
print(plan.chunks, plan.images, dict(counts))
"""


def test_the_plan_of_a_large_folder_is_not_held_in_memory(tmp_path):
    # Held in lists, 200,000 names take more than these 40 MB.
    result = subprocess.run(
        [sys.executable, "-c", PLAN_UNDER_A_LIMIT, "40", str(tmp_path / "out")],
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "3125 200000 {64: 3125}", result.stderr
