"""Every ability of a robot in words: how its description says that it has it, or that it lacks it.

Each table entry is a `Wording`: phrases for every split, and phrases that only the test split uses. The
test-only phrases mostly recombine words that training has seen, as a reader would expect of a new data sheet.
`{kg}` stands for a load with its unit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Phrases of one meaning: `train` for every split, `test` for the test split only."""

    train: tuple[str, ...]
    test: tuple[str, ...] = ()

    def pick(self, rng: random.Random, unseen: bool = False) -> str:
        """One phrase; with `unseen` one of the test-only phrases where there are any."""
        return rng.choice(self.test if unseen and self.test else self.train)


def _w(train: str, test: str = "") -> Wording:
    return Wording(tuple(p.strip() for p in train.split("|")), tuple(p.strip() for p in test.split("|") if p.strip()))


#: What a capability entry says, by ability.
HAS: dict[str, Wording] = {
    "ground": _w(
        "drives on land | moves on the ground | works on land | travels over ground | ground vehicle | "
        "land robot | rolls or walks on the ground | ground navigation",
        "land navigation | moves over land | ground robot | travels on land",
    ),
    "air": _w(
        "flies | aerial navigation | flight with hover | flying robot | moves through the air | airborne platform | "
        "takes off and flies | rotor flight",
        "navigation by air | hovers in flight | travels through the air | flying platform",
    ),
    "water": _w(
        "dives | underwater navigation | swims below the surface | works underwater | submersible | "
        "moves under water | diving robot | thruster driven underwater",
        "dives and swims | navigation under water | submersible robot | swims underwater",
    ),
    "height": _w(
        "reaches ten metres up | climbs walls and masts | works at height | telescopic mast up to 12 m | "
        "climbs poles | lift platform to 10 m | scales vertical walls | high reach boom",
        "climbs vertical masts | boom that reaches 12 m up | high work platform | scales poles",
    ),
    "uneven": _w(
        "handles uneven ground | drives over gravel and grass | copes with bumps | crosses uneven floors | "
        "suspension for bumpy ground | fine on gravel | uneven ground, not rough | moves over grass and bumps",
        "copes with uneven floors | suspension for gravel | handles bumpy grass | crosses bumps",
    ),
    "rough": _w(
        "rough terrain navigation | climbs over boulders | crosses rubble | all terrain | walks on rocks and debris | "
        "handles very rough ground | off-road over rocks | masters broken ground",
        "all terrain navigation | crosses rocks and boulders | handles broken ground | climbs over rubble",
    ),
    "stairs": _w(
        "climbs stairs | stair climbing | walks up steps | handles staircases | goes up and down stairs | "
        "takes steps with ease | masters flights of stairs | step climbing",
        "handles steps | goes up staircases | walks up and down steps | climbs flights of stairs",
    ),
    "gap": _w(
        "crosses gaps | jumps ditches | steps over a trench | bridges gaps of a metre | leaps over gaps | "
        "crosses ditches | gap crossing | gets over a one metre trench",
        "jumps over gaps | bridges a trench | ditch crossing | leaps over ditches",
    ),
    "slim": _w(
        "fits narrow openings | slim body | squeezes through half a metre | passes tight doors | 45 cm wide | "
        "compact for tight spaces | narrow build | goes through small openings",
        "squeezes through narrow doors | slim build | passes small openings | fits tight spaces",
    ),
    "storm": _w(
        "storm proof | works in storms | all weather | withstands strong wind and rain | weatherproof | "
        "rated for storms | steady in gales | operates in any weather",
        "works in gales | rated for all weather | withstands storms | weatherproof in strong wind",
    ),
    "heat": _w(
        "heat proof | works beside fire | fire resistant shell | withstands flames | heat shielded | "
        "fireproof coating | rated for fires | tolerates extreme heat",
        "fire resistant | withstands extreme heat | shell rated for flames | fireproof",
    ),
    "payload": _w(
        "carries {kg} | lifts up to {kg} | payload {kg} | hauls {kg} | transports loads of {kg} | "
        "{kg} payload | load capacity {kg} | can bear {kg}",
        "lifts {kg} | payload of up to {kg} | load of {kg} | capacity {kg}",
    ),
    "gripper": _w(
        "simple gripper | picks up objects | gripper for grasping | grabs and releases things | clamp gripper | "
        "two finger gripper | pick and place | grasps parcels",
        "gripper that picks up things | grasps objects | clamp for grasping | picks and places objects",
    ),
    "hand": _w(
        "dexterous hand | turns valves and knobs | tool use | skilled manipulation | opens doors and panels | "
        "repairs with tools | five finger hand | fine manipulation",
        "skilled with tools | hand for fine manipulation | turns knobs and opens doors | dexterous manipulation",
    ),
    "fast": _w(
        "fast | high speed | moves quickly | rapid response | very quick | sprints to the site | "
        "fast movement | top speed 40 km/h",
        "rapid movement | fast response | quick to the site | speed 45 km/h",
    ),
    "enduring": _w(
        "runs all day | ten hour battery | long endurance | works a full shift | lasts all day on one charge | "
        "twelve hours of operation | long battery life | tethered power, no time limit",
        "full day endurance | battery for twelve hours | runs a full shift | long operation on one charge",
    ),
}

#: Where an environments entry says it instead.
HAS_PLACE: dict[str, Wording] = {
    "ground": _w("land | solid ground | on the ground", "on land"),
    "air": _w("airspace | in the air | sky", "open air above sites"),
    "water": _w("underwater | below the surface | seabed and river bed", "under water"),
    "height": _w("tall masts and walls | high places", "high walls"),
    "uneven": _w("gravel paths | uneven ground", "uneven paths"),
    "rough": _w("rough terrain | boulders and rubble | rocky ground", "rocky terrain"),
    "stairs": _w("stairs | staircases | buildings with steps", "stairs and steps"),
    "gap": _w("ditches and gaps | trenches to cross", "gaps and trenches"),
    "slim": _w("narrow passages | tight spaces | small openings", "tight passages"),
    "storm": _w("storms | any weather | stormy sites", "stormy weather"),
    "heat": _w("fire scenes | beside flames | burning sites", "burning scenes"),
}

#: What a limitation entry says of a lacking ability.
LACKS: dict[str, Wording] = {
    "height": _w("stays near the ground | no reach to high places | cannot work at height", "no high reach"),
    "terrain": _w("flat floors only | needs smooth ground | not for bumps | flat surfaces only", "smooth floors only"),
    "rough": _w("not for rough terrain | stuck on rocks | no off-road use", "stuck on rough ground"),
    "stairs": _w("cannot climb stairs | no stairs | stopped by steps", "stopped by stairs"),
    "gap": _w("cannot cross gaps | stopped by ditches | no trench crossing", "stopped by gaps"),
    "slim": _w("too wide for narrow openings | bulky | needs wide doors", "too bulky for small openings"),
    "storm": _w("calm weather only | weather dependent | not for storms | grounded by wind", "no work in storms"),
    "heat": _w("keep away from fire | sensitive to heat | melts near flames", "not near fire"),
    "payload": _w("carries nothing | no payload | cannot carry loads", "no loads"),
    "heavy": _w("limited payload | no heavy loads | light loads only", "not for heavy loads"),
    "manipulation": _w("no arm | no manipulation | cannot grasp | no hands", "without arm"),
    "hand": _w("limited manipulation | no tool use | cannot turn knobs", "no fine manipulation"),
    "fast": _w("slow | slow movement | low speed | takes its time", "moves slowly"),
    "enduring": _w("short battery life | one hour of power | frequent charging", "battery for one hour"),
}

#: Padding that decides nothing.
NEUTRAL_CAPABILITIES = _w(
    "live video | voice contact | thermal camera | sound alarm | maps its way | gps tracking | radio relay | "
    "night lights | follows people | self check | remote control | laser scanner | gas sniffer | "
    "speaks five languages | photo archive | autopilot | team mode | display screen | docks by itself | records data",
    "live sound | video archive | laser maps | gas alarm | camera on a swivel | remote self check",
)
NEUTRAL_LIMITATIONS = _w(
    "loud | needs a trained operator | short radio range | costly parts | dim camera | needs calibration | no voice | "
    "poor sound | old software | weak signal | few spare parts | needs a licence | long set-up | "
    "hard to set up | low resolution video",
    "old camera | costly licence | loud set-up | weak radio",
)
NEUTRAL_PLACES = _w(
    "industrial sites | cities | research sites | public sites | test grounds | depots | campuses | private sites | "
    "company grounds | mission areas | service areas",
    "city sites | research areas | company sites",
)

#: Kilograms that a data sheet may give for each payload level; every number is clear of the next level's loads.
PAYLOAD_RANGE: dict[int, tuple[int, int]] = {2: (2, 6), 15: (15, 30), 60: (60, 100)}


def load_text(level: int, rng: random.Random, unseen: bool = False) -> str:
    """A load that a robot of this payload level carries, as a number with its unit."""
    low, high = PAYLOAD_RANGE[level]
    kg = rng.randint(low, high)
    unit = rng.choice(("kg", "kg", "kg", "kilos", "kilograms", "pounds" if unseen else "kilos"))
    if unit == "pounds":
        return f"{-(-kg * 22046 // 10000)} pounds"
    return f"{kg} {unit}"
