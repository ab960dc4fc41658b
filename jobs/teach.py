"""Let a teacher read stage 2's training records once; the training job then finds what it said.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/teach.py --config configs/laptop.yaml \
        --teacher models/teacher --student outputs/stage1/final
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ember_platform.config import ConfigError, load_config
from ember_platform.data.manifest import DataError, Manifest
from ember_platform.storage import StorageError, absolute
from ember_platform.train.plan import PlanError
from ember_platform.train.teach import teach


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, teach, print where; 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/laptop.yaml", help="YAML file of a RunConfig")
    parser.add_argument("--teacher", help="model folder of the teacher (teacher.model)")
    parser.add_argument("--student", help="folder of the model to be taught; default: stage 1 of output_dir")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="any field, dotted")
    given = parser.parse_intermixed_args(arguments)
    named = [f"teacher.model={given.teacher}"] if given.teacher else []
    try:
        config = load_config(given.config, [*named, *given.overrides])
        if not config.teacher.model:
            raise PlanError("--teacher: no teacher is named, neither here nor in teacher.model")
        student = absolute(given.student) if given.student else f"{config.output_dir}/stage1/final"
        print(teach(config, Manifest.load(config.data.dir), student))
    except (ConfigError, DataError, PlanError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
