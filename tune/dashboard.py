"""The dashboard of a sweep: one HTML file, or served live while the sweep runs.

python tune/dashboard.py outputs/tune/stage3
python tune/dashboard.py outputs/tune/stage3 --serve
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ember_platform.storage import StorageError
from ember_platform.tuning.dashboard import server, write_page
from ember_platform.tuning.ledger import LedgerError


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", help="of the sweep: <output_dir>/tune/<name>, a path or s3://bucket/prefix")
    made.add_argument("--serve", action="store_true", help="serve it, up to date, instead of writing it")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    made.add_argument("--port", type=int, default=8277, help="port to listen on; 0: a free one (default: 8277)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or serve; 2 where there is no sweep or no port."""
    given = parser().parse_args(arguments)
    try:
        if not given.serve:
            print(write_page(given.folder))
            return 0
        with server(given.folder, given.host, given.port) as served:
            print(f"http://{given.host}:{served.server_address[1]}/", flush=True)
            served.serve_forever()
    except (LedgerError, StorageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
