"""Train the readers of words on a frozen, pretrained text side: minutes, one process, no picture.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/train_words.py --config configs/words.yaml

It leaves `<output_dir>/words/final`, a model that chooses robots by words alone and that stage 3 goes on from
(`jobs/train_stage.py --stage 3 --resume_from`), and `<output_dir>/words/metrics.json`. Interrupted, it begins again.
"""

from __future__ import annotations

import argparse
import sys

from ember_platform.train.main import words


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", default="configs/words.yaml", help="YAML file of a RunConfig; its `words` say how")
    made.add_argument("--output_dir", help="where everything is left (default: the configuration's)")
    made.add_argument("overrides", nargs="*", metavar="field=value", help="any field, dotted: words.steps=300")
    return made


if __name__ == "__main__":
    sys.exit(words(parser()))
