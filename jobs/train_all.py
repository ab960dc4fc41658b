"""Train the stages in order, evaluate and register each, and leave the model to serve.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/train_all.py --config configs/laptop.yaml

A second run with the same settings reuses what is done; an interrupted one goes on from its last checkpoint.
"""

from __future__ import annotations

import sys

from ember_platform.train.flags import parser
from ember_platform.train.main import main

if __name__ == "__main__":
    sys.exit(main(parser(__doc__ or "")))
