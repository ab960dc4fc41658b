"""What stands behind the scene in the places under the open sky."""

from __future__ import annotations

from collections.abc import Callable

from embervlm.world.paint import country, town
from embervlm.world.paint.view import View

BACKDROPS: dict[str, Callable[[View], None]] = {
    "facade": town.facade,
    "roof": town.roof,
    "power line": country.power_line,
    "forest slope": country.forest_slope,
    "rubble": town.rubble,
    "harbour": town.harbour,
    "river bed": country.river_bed,
    "road": town.road,
    "farmland": country.farmland,
    "construction site": town.construction_site,
}
