"""Does the ingest's memory grow with the data? A made-up COCO at 1× and at 10×, each in a process of its own.

    python benchmarks/ingest_memory.py --rows 20000

Prints, for each, rows, seconds and the peak resident memory above what the imports take: of reading the annotations
into the index, and of making the shards. The pictures are a few files that many rows share.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PICTURES = 16


def make(folder: Path, rows: int) -> None:
    """Captions of five a picture, and the pictures, 640 × 480 as COCO's are."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(PICTURES):
        noise = random.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"{i:012d}.jpg")
    with (folder / "captions.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i in range(rows // 5):
            row = {"license": 1, "file_name": f"{i % PICTURES:012d}.jpg", "height": 480, "width": 640, "id": i}
            file.write(", " * (i > 0) + json.dumps(row))
        file.write('], "annotations": [')
        for i in range(rows // 5 * 5):
            caption = f"Picture {i // 5} as its {i % 5 + 1}. describer saw it, with a crane above the yard."
            file.write(", " * (i > 0) + json.dumps({"image_id": i // 5, "id": i, "caption": caption}))
        file.write("]}")


def measure(folder: Path) -> dict[str, Any]:
    """Prepare the dataset in this process."""
    from ember_platform.config import RunConfig
    from ember_platform.data.ingest import prepare

    one = {"annotations": str(folder / "captions.json"), "images": str(folder), "split": "train"}
    data = {"dir": str(folder / "out"), "sources": [], "datasets": {"coco": one}, "image_size": 128, "shard_rows": 512}
    config = RunConfig.model_validate({"data": data})
    before, found, since = peak(), {}, time.perf_counter()

    def here(jobs: list[Any], work: Callable[[Any], Any]) -> Iterable[Any]:
        nonlocal since
        made = [work(job) for job in jobs]
        name = "index" if "index" not in found else "shards"
        found[name] = {"seconds": round(time.perf_counter() - since, 1), "peak_mb": round(peak() - before, 1)}
        since = time.perf_counter()
        return made

    manifest = prepare(config, runner=here, say=lambda line: None)
    annotations = (folder / "captions.json").stat().st_size / 2**20
    return {"rows": manifest.rows(1, "train"), "annotations_mb": round(annotations, 1), "imports_mb": before, **found}


def peak() -> float:
    """Greatest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    """Run both sizes and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="captions at 1×")
    parser.add_argument("--times", type=int, default=10, help="how many times as many the second one has")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(measure(Path(options.inside))))
        return 0
    for rows in (options.rows, options.rows * options.times):
        with tempfile.TemporaryDirectory(prefix="embervlm-ingest-") as folder:
            make(Path(folder), rows)
            command = [sys.executable, __file__, "--inside", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
            print(done.stdout.strip().splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
