"""How people ask: verbs by action, frames, speed, endurance and reasons. Tables only.

`{o}` stands for the thing, `{t}` for the request. After `||` come wordings of the test split only. What a wording
asks for must be plain from its words: transport without hands never says "pick up", hands of level 2 always name
work that fingers or tools do.
"""

from __future__ import annotations

from embervlm.world.abilities import Wording
from embervlm.world.words import table, words

#: Verb phrases by action: category, then what it needs ("look", "carry", "grab", "hand", "go").
VERBS: dict[str, Wording] = table("""
inspect look: inspect {o} | check {o} for damage | take a close look at {o} | examine {o} | look {o} over | see what
    state {o} is in | assess the condition of {o} | check on {o} | give {o} a visual check | look for faults on {o}
    | photograph {o} up close | verify that {o} is intact | find out if {o} is damaged | have a look at {o} |
    evaluate {o} for wear | read the label on {o} | see if {o} shows rust | compare {o} with the drawing | test by
    eye if {o} still looks sound | get a clear picture of {o} | look for leaks at {o} | do a check-up of {o} |
    confirm that {o} is in place || make sure that {o} is intact | do a close visual check of {o} | look closely at
    {o} | report the state of {o} | look at {o} and check for faults | examine the condition of {o} | give {o} a
    close look | get a picture of {o} up close | see if {o} is damaged | look for wear on {o} | read the state of
    {o} | confirm that {o} looks sound
inspect hand: repair {o} with tools | fix {o} | turn a knob on {o} | adjust {o} by hand | open {o} and reset it |
    tighten the screws on {o} | operate {o} by hand | do a repair on {o} | unscrew the cover of {o} | replace a part
    of {o} | connect a plug to {o} | press the button on {o} | swap the fuse inside {o} | undo the clamps on {o} |
    set {o} back to zero by hand | oil the hinges of {o} with a tool | plug the loose wire back into {o} | cut the
    seal off {o} | repair the broken part of {o} || tighten a part of {o} with tools | do the repair of {o} | reset
    {o} by hand | turn the screws of {o} | open the cover of {o} by hand | fix a part of {o} | oil the screws of {o}
    with a tool | plug a wire into {o} by hand | undo the cover of {o} with tools | repair {o} by hand
transport carry: carry {o} back | bring {o} here | haul {o} to the depot | deliver {o} to the base | transport {o}
    to the truck | move {o} to the store | take {o} away | shift {o} to the yard | get {o} out of there | bring {o}
    to the gate | return {o} to the base | ferry {o} to the van | remove {o} from there | truck {o} over to us | get
    {o} home | convey {o} to the loading bay | move {o} out of the way | relocate {o} to the hall | transfer {o} to
    the main gate | fetch {o} || carry {o} to the gate | bring {o} back to the depot | move {o} out of there |
    transport {o} to the yard | take {o} to the base | haul {o} away | fetch {o} to the gate | convey {o} to the
    depot | transfer {o} to the yard | get {o} back home
transport grab: pick up {o} and bring it back | grab {o} and carry it here | grasp {o} and take it to the truck |
    pick {o} up and move it to the store | take hold of {o} and carry it away | seize {o} and deliver it to the base
    | collect {o} from where it lies by picking it up | lift {o} up with a grip and bring it over | clasp {o} and
    haul it back | pick up {o} and load it on the truck | grip {o} and carry it to the loading bay | take {o} by its
    edge, pick it up and bring it || grasp {o} and carry it back | pick {o} up and take it to the gate | take hold
    of {o} and bring it here | grab {o} and move it away | grip {o} and bring it back | pick up {o} and haul it to
    the base | clasp {o} and take it to the yard
navigate go: go to {o} | find a way to {o} | travel to {o} | reach {o} | make your way to {o} | get to {o} and wait
    there | head for {o} | proceed to {o} | approach {o} and stop beside it | get as far as {o} | go as near as
    possible to {o} | meet the crew at {o} | drive or fly up to {o} | go and stand next to {o} | get to where {o} is
    | come to {o} | advance to {o} | take the shortest way to {o} | park beside {o} | go all the way to {o} || find
    the way and reach {o} | travel as far as {o} | go up to {o} and wait | get near to {o} | make the way to {o} |
    head to {o} and stop there | come up to {o} and stop | advance as far as {o} | go and wait next to {o} | take
    the way to {o}
survey look: film the area around {o} | map the surroundings of {o} | survey the area near {o} | scan everything
    around {o} | keep watch over {o} | monitor {o} | take measurements around {o} | record what happens at {o} |
    patrol around {o} | observe {o} | make a map of the spot around {o} | watch {o} | count what is near {o} | make
    a video of the place around {o} | measure the spot around {o} | collect pictures of the surroundings of {o} |
    log the traffic near {o} | take an overview of the area by {o} | search the area around {o} for changes | guard
    {o} || film what happens around {o} | scan the spot near {o} | survey the surroundings of {o} | record the area
    around {o} | keep an eye on {o} | make a scan around {o} | make a video of the surroundings of {o} | measure the
    area near {o} | collect pictures around {o} | take an overview around {o}
rescue go: get to {o} and stay close | reach {o} and give comfort | go to {o} and call for help | find {o} and show
    the way out | get close to {o} and talk calmly | reach {o} and guide the helpers | locate {o} and wait for the
    rescue team | get near to {o} and tell that help is coming | find {o} and light the way | reach {o} and play a
    calm message | search for {o} and report the position | get to {o} and keep contact || find {o} and stay close |
    reach {o} and call the rescue team | go to {o} and talk calmly | get to {o} and guide the way out | find {o} and
    report the position | get near to {o} and call for help | reach {o} and keep contact | search for {o} and wait
    for the helpers
rescue hand: free {o} from the straps | bandage {o} | untie {o} | give first aid to {o} by hand | cut {o} free with
    tools | loosen the belt that holds {o} | dress the wound of {o} | splint the leg of {o} | unbuckle {o} | take
    off the rope that ties {o} | stop the bleeding of {o} with a bandage | open the clasp that traps {o} || untie
    the straps that hold {o} | free {o} with tools | cut the belt that holds {o} | bandage the wound of {o} |
    unbuckle the straps of {o} | open the belt that traps {o} | put a bandage on {o}
rescue carry: carry {o} to safety | bring {o} out of danger | evacuate {o} | take {o} to a safe place | get {o} out
    to safety | bring {o} home safe | save {o} and carry it out | carry {o} down to the helpers | move {o} away from
    danger | bring {o} back to the family | transport {o} to the rescue team | get {o} home || bring {o} to safety |
    carry {o} out of danger | take {o} home to safety | evacuate {o} to a safe place | transport {o} to safety |
    move {o} to a safe place | carry {o} back to the helpers | get {o} away from danger
rescue grab: grab {o} and pull it to safety | pick {o} up and carry it to safety | grasp {o} and lift it out of
    danger | take hold of {o} and bring it out | catch {o} and carry it home | pick up {o} and bring it back to the
    family | hold {o} tight and lift it out | grip {o} and haul it to safety | seize {o} and take it away from
    danger || grasp {o} and carry it to safety | pick up {o} and bring it to safety | take hold of {o} and pull it
    out of danger | grip {o} and bring it to safety | hold {o} tight and carry it home | pick up {o} and take it to
    the helpers
""")

FRAMES: Wording = words("""
{t} | {t} | {t} | please {t} | can you {t}? | could you {t}? | we need to {t} | somebody has to {t} | your task is
to {t} | task: {t} | the order is to {t} | i want you to {t} | we have to {t} | send someone to {t} | who can {t}? |
which robot should {t}? | the mission: {t} | it is necessary to {t} | we are asked to {t} | help us to {t} | the job
is to {t} | would you {t}, please? | let us {t} | the plan is to {t} | now {t} | you must {t} | kindly {t} | the
crew needs somebody to {t} | next: {t} | someone should {t} | we would like you to {t} | first of all, {t} | please
go and {t} | anyone free to {t}? | is there a robot to {t}? | here is the job: {t} | today you {t} | it is up to you
to {t} | hello, please {t} || please help us to {t} | who should {t}? | the task: {t} | we want you to {t} | could
somebody {t}? | send a robot to {t} | the crew has to {t} | it is your job to {t} | your mission is to {t} | the
order: {t} | i need you to {t} | you are asked to {t} | which robot can {t}? | can someone {t}, please? | the
mission is to {t} | we need somebody to {t} | is there someone to {t}? | hello, can you {t}? | today we need to {t}
| here is the task: {t} | anyone to {t}? | we would like somebody to {t}
""")

FAST: Wording = words("""
quickly | as fast as you can | at once, time is short | it is urgent | in a hurry | within two minutes | every
second counts | without losing time | at top speed | with all speed | fast | right now, hurry | before it is too
late | there is no time to lose || as quickly as possible | hurry, it is urgent | time is short, be fast | within
three minutes | be quick, every second counts | at speed | there is little time, hurry | no time to lose
""")

ENDURING: Wording = words("""
all day long | for ten hours | around the clock | the whole shift without a break | from morning to evening | for
the entire day | without charging until evening | for nine hours on end | it will take all day | for a full working
day | the whole day | ten hours without a stop || the entire day without a break | for eleven hours | until evening
without charging | it will last a full day | all day without a break | for a whole day | the whole shift until
evening | for ten hours without a break
""")

REASONS: Wording = words("""
the owner asked for it | it is on the list | the inspector is waiting | we promised it | the insurance wants it | it
is part of the plan | the last team forgot it | the manager insists | it has been reported | someone called about it
| the neighbours complained | the records are missing | it is a routine job | the client is waiting | nobody did it
last week | it is for the yearly report || the manager asked for it | the owner insists | the client complained | it
is on the plan | the inspector called about it | the last report is missing | the team promised it | it is a routine
report
""")

PRONOUN_PERSONS = ("it", "them")
