"""Energy and CO2 of parts of a run, by codecarbon's offline tracker. It never stops a run.

Measured is the machine that the driver runs on: on a cluster of several machines the others are not in it. Where a
processor has no meter (RAPL), codecarbon estimates its power from its model and load, and the rows say so.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig

logger = logging.getLogger(__name__)
FILE = "emissions.json"
_SECONDS = 5


@contextlib.contextmanager
def metered(config: RunConfig, folder: str, part: str) -> Iterator[None]:
    """Measure what runs in the block and add a row to `emissions.json` in a folder, also where the block fails.

    A row has `part`, `kwh`, `grams` of CO2-equivalent, `seconds` and `accounting`, how that was found.
    """
    meter = _started(config) if config.figures.enabled else None
    try:
        yield
    finally:
        if meter is not None:
            try:
                _add(meter, storage.join(folder, FILE), part)
            except Exception:
                logger.exception("energy: the meter of %s failed; the run goes on without its figure", part)


def read(folder: str) -> list[dict[str, Any]]:
    """The rows of a folder; none where nothing was measured."""
    path = storage.join(folder, FILE)
    return list(json.loads(storage.read_bytes(path))) if storage.exists(path) else []


def _started(config: RunConfig) -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # its `log_level` comes after its first lines
        meter = OfflineEmissionsTracker(
            country_iso_code=config.figures.country,
            measure_power_secs=_SECONDS,
            tracking_mode="machine",
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )
        meter.start()
    except Exception:
        logger.exception("energy: cannot be measured; the run goes on without it")
        return None
    return meter


def _add(meter: Any, path: str, part: str) -> None:
    meter.stop()
    found = meter.final_emissions_data
    metered_by = "GPU and RAPL meters" if found.gpu_energy else "estimated from processor model and load, and memory"
    if not found.gpu_energy and _has_rapl():
        metered_by = "RAPL meter"
    row = {
        "part": part,
        "kwh": float(found.energy_consumed),
        "grams": 1000 * float(found.emissions),
        "seconds": float(found.duration),
        "accounting": f"codecarbon {found.codecarbon_version} offline, {found.country_iso_code}, {metered_by}",
    }
    rows = [*(json.loads(storage.read_bytes(path)) if storage.exists(path) else []), row]
    storage.write_bytes(path, (json.dumps(rows, indent=1) + "\n").encode())


def _has_rapl() -> bool:
    return any(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
