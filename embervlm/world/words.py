"""Words for what exists in EmberWorld: things, places and facts. Tables only.

Every entry is a `Wording`: phrases for every split, then, after `||`, phrases for the test split only.
"""

from __future__ import annotations

import re

from embervlm.world.abilities import Wording


def words(text: str) -> Wording:
    """A wording from `a | b || c`: a and b for every split, c for the test split only."""
    train, _, test = text.partition("||")
    return Wording(
        tuple(" ".join(p.split()) for p in train.split("|") if p.strip()),
        tuple(" ".join(p.split()) for p in test.split("|") if p.strip()),
    )


def table(text: str) -> dict[str, Wording]:
    """Entries `key: a | b || c`, each from a line of its own; lines without a key continue the entry above."""
    entries = re.split(r"^\s*([a-z][a-z ]*):\s", text, flags=re.MULTILINE)
    return {key: words(rest) for key, rest in zip(entries[1::2], entries[2::2], strict=True)}


#: What people call a thing; the first word is the kind itself, which captions and answers use.
KIND_WORDS: dict[str, Wording] = table("""
crate: crate | wooden box | shipping crate || box of goods | goods crate
barrel: barrel | drum of oil | oil barrel || keg | drum
toolbox: toolbox | tool case | box of tools || tool chest | case of tools
sack: sack | bag | cloth sack || bag of grain | grain sack
suitcase: suitcase | travel case | piece of luggage || luggage case | travel luggage
parcel: parcel | package | small packet || postal parcel | small package
gas cylinder: gas cylinder | gas bottle | pressure bottle || gas tank | bottle of gas
cooler: cooler | cool box | ice box || cooling box | box of ice
pallet: pallet | loading pallet | wooden pallet || pallet of wood | wood pallet
bucket: bucket | pail || tin bucket | small pail
tyre: tyre | tire | rubber tyre || car tyre | truck tyre
battery pack: battery pack | battery | power pack || spare battery | pack of batteries
medical kit: medical kit | first aid kit | first aid box || medical bag | medical box
rope coil: rope coil | coil of rope | rope || roll of rope | coiled rope
fire extinguisher: fire extinguisher | extinguisher || hand extinguisher | fire bottle
cable drum: cable drum | cable reel | drum of cable || roll of cable | reel of cable
valve: valve | shut-off valve | gate valve || main valve | valve wheel
control panel: control panel | control box | operator panel || panel of controls | control board
hatch: hatch | hatch cover | access hatch || metal hatch
lever: lever | hand lever | switch lever || control lever
pump: pump | water pump | pump unit || pump set | pump for water
generator: generator | power unit | diesel generator || power generator | generator set
fuse box: fuse box | breaker box | fuse cabinet || electric fuse box
door lock: door lock | lock | lock of the door || lock on the door
hose reel: hose reel | hose | water hose reel || reel of hose
switch: switch | power switch | main switch || electric switch
camera: camera | security camera | cctv camera || video camera | security cctv
antenna: antenna | aerial | radio antenna || radio aerial | radio mast antenna
solar panel: solar panel | solar module | pv panel || panel of solar cells
lamp: lamp | light | floodlight || lamp head | light of the lamp
pipe joint: pipe joint | pipe fitting | joint of the pipe || pipe connection
crack: crack | crack in the surface | fissure || long crack | fissure in the surface
sign: sign | warning sign | sign board || notice board | board with a sign
sensor: sensor | sensor node | measuring probe || sensor box | sensor unit
beam: beam | steel beam | girder || support beam | beam of steel
window: window | window pane | glass pane || pane of glass | window of glass
insulator: insulator | ceramic insulator || glass insulator
propeller: propeller | ship's propeller | screw propeller || propeller blades
anchor: anchor | ship's anchor | iron anchor || old anchor
net: net | safety net | fishing net || rope net | net of rope
nest: nest | bird's nest | bird nest || nest of birds | nest of a bird
hive: hive | beehive | bee hive || hive of bees
vent: vent | air vent | ventilation grille || vent grille
weld seam: weld seam | weld | welded seam || seam of the weld
worker: worker | workman | crew member || member of the crew | man of the crew
hiker: hiker | walker | mountain walker || lost walker | hiker from the hill
driver: driver | motorist | truck driver || car driver | driver of the truck
child: child | kid | young child || small kid | lost child
dog: dog | hound | puppy || lost dog
sheep: sheep | ewe | lamb || lost sheep
cat: cat | kitten | tomcat || lost cat
""")

#: Where it happens, with its preposition.
PLACE_PHRASES: dict[str, Wording] = table("""
warehouse: in the warehouse | at the storage hall | inside the depot hall || inside the storage warehouse | at the
    warehouse
stairwell: in the stairwell | in the staircase of the block | inside the stair shaft || inside the stairwell | at
    the stair shaft
hospital corridor: in the hospital corridor | on the hospital ward | in the clinic hallway || in the hospital
    hallway | at the clinic
facade: at the facade | on the front of the building | at the outer wall || at the wall of the building | on the
    facade
roof: on the roof | on top of the building | on the rooftop || at the rooftop | on the roof of the building
power line: at the power line | along the power line | near the pylon || by the pylon | at the line of pylons
forest slope: on the forest slope | in the woods on the hill | on the wooded hillside || on the hillside in the
    woods | in the forest
rubble: in the rubble | in the collapsed house | among the ruins || in the ruins | at the collapsed building
tunnel: in the tunnel | inside the tunnel | in the tube under the hill || at the tunnel | inside the tube
harbour: in the harbour | at the docks | by the quay || at the harbour | at the quay
river bed: at the river | at the river bed | along the stream || by the river | by the stream
road: on the road | at the roadside | along the street || by the road | on the street
farmland: on the farm | on the farmland | out in the fields || in the fields | on the field of the farm
burning building: in the burning building | at the building fire | inside the house on fire || in the house on fire
    | inside the burning house
laboratory: in the laboratory | in the lab | in the test lab || inside the lab | at the laboratory
construction site: on the construction site | at the building site | on the site of the new house || at the
    construction site | at the new building
""")

#: Visual facts that a wording may give away, by fact and value.
STATED: dict[str, dict[str, Wording]] = {
    "site": table("""
        ground: at ground level | standing on the ground | down on the ground || which is on the ground | on ground
            level
        high: ten metres up | high above the ground | up at the top || which is high up | up high
        underwater: below the waterline | under water | on the bottom below the surface || which lies under water |
            below the water
    """),
    "access": table("""
        open: with a clear way to it | with nothing in the way | where the way is free || the way is clear | with a
            free way
        stairs: up the stairs | where steps lead to it | beyond a flight of stairs || beyond the steps | over the
            stairs
        gap: across the ditch | beyond a one metre trench | on the far side of the gap || over the gap | across the
            trench
        narrow: through the narrow opening | behind a tight passage | where the opening is half a metre wide ||
            through the tight opening | behind the narrow passage
    """),
    "terrain": table("""
        flat: over flat floor | where the ground is flat | on even ground || the ground is even | over even floor
        uneven: over uneven ground | where the ground is bumpy | on gravel || the ground is uneven | over gravel
        rough: over rough terrain | across rocks and debris | where the ground is very rough || the ground is rough
            | over rocks
    """),
    "weather": table("""
        calm: while the weather is calm | in calm weather | with no wind at all || the weather is calm | now that it
            is calm
        rain: in the rain | while it rains | in wet weather || it is raining | during rain
        storm: in the storm | while the storm is on | in a heavy gale || it is stormy | during the storm
        fog: in the fog | in thick fog | while it is foggy || it is foggy | during fog
        snow: in the snow | while it snows | in falling snow || it is snowing | during snow
    """),
    "hazard": table("""
        none: away from any fire | where nothing burns | with no fire near || there is no fire | nothing is burning
        fire: beside the fire | next to the flames | where it is burning || near the flames | by the fire
    """),
    "size": table("""
        small: it weighs {kg} | weight {kg} | it is about {kg} || the weight is {kg} | {kg} in weight
        medium: it weighs {kg} | weight {kg} | it is about {kg} || the weight is {kg} | {kg} in weight
        large: it weighs {kg} | weight {kg} | it is about {kg} || the weight is {kg} | {kg} in weight
    """),
}

#: Kilograms that a text may give for a thing of each size.
WEIGHT_RANGE: dict[str, tuple[int, int]] = {"small": (1, 2), "medium": (8, 15), "large": (35, 60)}
