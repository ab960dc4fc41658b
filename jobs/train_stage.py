"""Train one stage, evaluate and register it; it starts from the model of the stage before, or from `--resume_from`.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/train_stage.py --stage 3 \
        --config configs/laptop.yaml stages.3.learning_rate=1e-4
"""

from __future__ import annotations

import sys

from ember_platform.train.flags import parser
from ember_platform.train.main import main

if __name__ == "__main__":
    sys.exit(main(parser(__doc__ or "", stages=False)))
