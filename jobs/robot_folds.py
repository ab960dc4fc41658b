"""Fine-tune and test stage 3 on the public robot-selection files, fold by fold, beside TF-IDF + logistic regression.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/robot_folds.py \
        --config configs/robot_selection.yaml --robot_data robot-selection-dataset --resume_from outputs/final

`<output_dir>/metrics.json` holds the means over the folds and each fold's figures. The same command goes on where it
was interrupted. `--resume_from` names the model folder that each fold starts from; without it each starts untrained.
"""

from __future__ import annotations

import sys

from ember_platform.train.flags import parser
from ember_platform.train.main import folds

if __name__ == "__main__":
    sys.exit(folds(parser(__doc__ or "", stages=None)))
