"""Small invented worlds for contrastive triples: what is stated of whom, and how it is asked. All written for this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be stated of an entity: ``{n}`` is its name, ``{v}`` the value that a question asks for."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of entity: names put together from two lists, a word for it in later sentences, facts, and colour."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    again: str
    facts: tuple[Fact, ...]
    fillers: tuple[str, ...]
    joiner: str = " "  # between the two parts of a name


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))


def _fact(statements: str, questions: str, values: str) -> Fact:
    return Fact(tuple(statements.split(" | ")), tuple(questions.split(" | ")), _list(values))


_YEARS = ", ".join(str(year) for year in range(1781, 2019, 7))
_PEOPLE = """Agnes Thorne, Bram Okafor, Celia Winther, Dario Velasco, Edith Larkspur, Farid Nasser, Greta Holm,
Hiro Tanabe, Ingrid Falk, Jonas Petrov, Keiko Mori, Leopold Asante, Mirela Dragan, Noor Haddad, Otis Fenwick,
Paloma Reyes, Rashid Karim, Selma Lindqvist, Tobias Engel, Wanda Kowal"""
_TOWNS = """Alderbrook, Brindle Cross, Carrowmoor, Dunmarsh, Eastfell, Fennimore, Garrick Bay, Hollowell, Ivystone,
Kelmont, Larkhaven, Merrowdale, Northgill, Oxenford Mills, Pellwater, Quarrington, Rushmere, Saltcombe, Thistleby,
Wexcombe"""

DOMAINS = (
    Domain(
        "people",
        _list("Amara, Benedikt, Carys, Dmitri, Elodie, Fintan, Gwendolyn, Hamza, Ilse, Jovan, Katarina, Lorcan, Maren"),
        _list(
            " Ashdown, Bellweather, Castellan, Drummond, Everhart, Fairclough, Grunwald, Hathersage, Ivarsson, Joubert"
        ),
        "this neighbour",
        (
            _fact(
                "{n} was born in {v}. | The birthplace of {n} is {v}. | {n} came into the world in {v}.",
                "Where was {n} born? | What is the birthplace of {n}? | In which town did the life of {n} begin?",
                _TOWNS,
            ),
            _fact(
                "{n} earns a living as {v}. | By profession, {n} is {v}. | For years {n} has worked as {v}.",
                "What does {n} do for a living? | What is the profession of {n}? | What job does {n} have?",
                "a glass blower, a harbour master, a court stenographer, a bee keeper, a bridge inspector, "
                "a piano tuner, a paper conservator, a mountain guide, a sign painter, a veterinary nurse",
            ),
            _fact(
                "On free evenings, {n} likes {v}. | The favourite pastime of {n} is {v}. | {n} relaxes by {v}.",
                "How does {n} spend free time? | What is the hobby of {n}? | What does {n} do to relax?",
                "repairing old radios, carving wooden spoons, sailing model boats, pressing wild flowers, "
                "solving chess problems, baking rye bread, restoring bicycles, watching comets",
            ),
            _fact(
                "{n} is married to {v}. | The spouse of {n} is {v}. | Ten summers ago {n} and {v} were married.",
                "Who is {n} married to? | What is the name of the spouse of {n}? | Whom did {n} marry?",
                _PEOPLE,
            ),
        ),
        _list(
            "Everybody in the street says hello at the gate., The post comes late on Fridays., The garden needs rain."
        ),
    ),
    Domain(
        "inventions",
        _list("Marlow, Hexley, Tandem, Orbital, Corvin, Pallas, Swift, Dunning, Ferrous, Lyric"),
        _list(" loom, pump, valve, lantern, compass, turbine, press, telescope, brake, plough"),
        "the device",
        (
            _fact(
                "The {n} was invented by {v}. | The inventor of the {n} is {v}. | {v} drew the first plans of the {n}.",
                "Who invented the {n}? | Who came up with the {n}? | Whose idea was the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} was patented in {v}. | A patent for the {n} was granted in {v}.",
                "When was the {n} patented? | In which year did the {n} receive its patent?",
                _YEARS,
            ),
            _fact(
                "The {n} is driven by {v}. | The power of the {n} comes from {v}. | To run, the {n} needs {v}.",
                "What drives the {n}? | What is the source of power of the {n}? | What does the {n} run on?",
                "compressed air, a coiled spring, falling water, steam at low pressure, two copper batteries, "
                "a foot pedal, hot sand, wind from a bellows",
            ),
            _fact(
                "The casing of the {n} is made of {v}. | The maker built the shell of the {n} out of {v}.",
                "What is the casing of the {n} made of? | Which material is used for the shell of the {n}?",
                "polished brass, cast iron, walnut wood, blue enamel, riveted tin, fired clay, oiled leather",
            ),
        ),
        _list(
            "Three copies are still in use., A drawing of it hangs in the hall., Spare parts are hard to find today."
        ),
    ),
    Domain(
        "geography",
        _list("Mount , Lake , Cape , Lower , Upper , Great , Little , Old "),
        _list(
            "Ardven, Bressay, Corrinth, Dovrek, Eskerra, Fallowen, Hjarta, Ismere, Kaldur, Morvane, Ostrava Dal, Tirrel"
        ),
        "the area",
        (
            _fact(
                "{n} lies {v} of the capital. | You reach {n} by travelling {v} of the capital.",
                "How far from the capital is {n}? | Where does {n} lie, seen from the capital?",
                "forty kilometres north, two hundred kilometres south, a day's walk east, ninety kilometres west, "
                "twelve kilometres south-east, sixty kilometres north-west",
            ),
            _fact(
                "The soil of {n} is rich in {v}. | Miners come to {n} for its {v}. | {n} is known for its {v}.",
                "What is found in the soil of {n}? | What is {n} known for? | What do miners look for in {n}?",
                "white marble, rock salt, silver ore, black slate, amber, red clay, zinc, chalk, tin",
            ),
            _fact(
                "In winter, {n} can be reached only by {v}. | When snow falls, the one way to {n} is by {v}.",
                "How can {n} be reached in winter? | Which transport goes to {n} when there is snow?",
                "sledge, cable car, ferry, helicopter, a narrow tunnel, a single-track railway, snowmobile",
            ),
            _fact(
                "{n} was first mapped by {v}. | The first map of {n} was drawn by {v}. | {v} was the first to map {n}.",
                "Who first mapped {n}? | Who made the first map of {n}? | Whose map showed {n} first?",
                _PEOPLE,
            ),
        ),
        _list("Few people live there., The wind rarely stops., Sheep graze on the slopes in summer."),
    ),
    Domain(
        "companies",
        _list("Nova, Terra, Blue, Silver, North, Quick, Prime, Alto, Delta, Umber"),
        _list("quill Works, crest Foods, ridge Textiles, field Optics, gate Logistics, loop Motors, leaf Paper"),
        "the firm",
        (
            _fact(
                "{n} was founded in {v}. | The year in which {n} opened its doors was {v}. | {n} dates back to {v}.",
                "When was {n} founded? | In which year did {n} start? | How far back does {n} go?",
                _YEARS,
            ),
            _fact(
                "The head office of {n} is in {v}. | {n} is run from {v}. | In {v}, {n} has its headquarters.",
                "Where is the head office of {n}? | Which town is {n} run from? | Where is {n} based?",
                _TOWNS,
            ),
            _fact(
                "{n} is led by {v}. | The chief executive of {n} is {v}. | Since the spring, {v} has been head of {n}.",
                "Who leads {n}? | Who is the chief executive of {n}? | Who is in charge at {n}?",
                _PEOPLE,
            ),
            _fact(
                "{n} employs {v} people. | There are {v} people on the payroll of {n}. | {n} has a staff of {v}.",
                "How many people does {n} employ? | How large is the staff of {n}? | How many people work at {n}?",
                "34, 58, 120, 275, 410, 640, 900, 1 250, 2 300, 4 800, 7 150",
            ),
            _fact(
                "Last year {n} began to sell {v}. | The best-selling product of {n} is {v}. | {n} lives off {v}.",
                "What does {n} sell? | What is the best-selling product of {n}? | What does {n} make money with?",
                "folding ladders, camera lenses, oat biscuits, cargo bicycles, desk lamps, steel pens",
            ),
        ),
        _list(
            "The annual meeting takes place in May., Visitors must sign in at the gate., The car park is being repaved."
        ),
        joiner="",
    ),
    Domain(
        "food",
        _list("Grandmother's , Harbour , Shepherd's , Midsummer , Miller's , Sunday , Monastery , Orchard "),
        _list("stew, pudding, dumpling soup, flatbread, broth, pie, relish, pancake, salad"),
        "the dish",
        (
            _fact(
                "The main ingredient of {n} is {v}. | {n} is made mostly of {v}. | Nobody makes {n} without {v}.",
                "What is the main ingredient of {n}? | What is {n} mostly made of? | What does {n} always contain?",
                "smoked trout, red lentils, buckwheat, goat's cheese, chestnuts, sour cherries, pumpkin, pickled beets",
            ),
            _fact(
                "{n} is cooked for {v}. | It takes {v} to cook {n}. | Leave {n} in the oven for {v}.",
                "How long is {n} cooked? | What is the cooking time of {n}? | How long does {n} stay in the oven?",
                "12 minutes, 25 minutes, 40 minutes, an hour and a half, two hours, six hours, a whole night",
            ),
            _fact(
                "{n} is seasoned with {v}. | The taste of {n} comes from {v}. | Cooks finish {n} with a pinch of {v}.",
                "What is {n} seasoned with? | Which spice gives {n} its taste? | What is added to {n} at the end?",
                "juniper, caraway, saffron, dried mint, black pepper, star anise, smoked paprika, mustard seed",
            ),
            _fact(
                "By custom, {n} is eaten at {v}. | Families serve {n} at {v}. | {n} belongs to {v}.",
                "On which occasion is {n} eaten? | When do families serve {n}? | Which feast goes with {n}?",
                "harvest supper, New Year's breakfast, a wedding, the first snow, a christening, the spring fair",
            ),
        ),
        _list("Leftovers taste even better the next day., A wooden spoon is best., It is served in deep bowls."),
    ),
    Domain(
        "sport",
        _list("Ravens, Comets, Harriers, Otters, Lynxes, Falcons, Wolves, Herons, Badgers, Stags"),
        tuple(f"of {town}" for town in _list(_TOWNS)),
        "the team",
        (
            _fact(
                "The {n} are coached by {v}. | The coach of the {n} is {v}. | {v} has trained the {n} since autumn.",
                "Who coaches the {n}? | Who is the coach of the {n}? | Who trains the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} play in {v}. | The shirts of the {n} are {v}. | On the pitch, the {n} are known by their {v}.",
                "What do the {n} wear? | What do the shirts of the {n} look like? | Which colours do the {n} play in?",
                "orange and black, white with a green sash, dark purple, yellow stripes, sky blue, grey and crimson",
            ),
            _fact(
                "The {n} won the cup in {v}. | The great year of the {n} was {v}, when they took the cup.",
                "When did the {n} win the cup? | Which was the great year of the {n}?",
                _YEARS,
            ),
            _fact(
                "The {n} beat their rivals {v}. | The last home game of the {n} ended {v}.",
                "What was the score of the {n}? | How did the last home game of the {n} end?",
                "3 to 1, 24 to 17, 2 to 0, 88 to 79, 5 to 4, 31 to 30, 6 to 2",
            ),
        ),
        _list("The stands were almost full., Rain held up the warm-up., Season tickets go on sale next week."),
    ),
    Domain(
        "science",
        _list("Veld, Ostrom, Kestrin, Halvard, Lumen, Ptarmic, Rhodan, Sable, Tessel, Ursin"),
        _list(" effect, reaction, particle, constant, crystal, enzyme, isotope, comet, law"),
        "the phenomenon",
        (
            _fact(
                "The {n} was discovered by {v}. | The {n} was found by {v}. | {v} first described the {n}.",
                "Who discovered the {n}? | Who first described the {n}? | Who found the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} appears only above {v}. | Below {v}, the {n} cannot be seen.",
                "Above which temperature does the {n} appear? | What is the threshold for the {n}?",
                "70 kelvin, 412 degrees, 35 degrees, 1 100 degrees, 4.2 kelvin, 260 kelvin, 85 degrees",
            ),
            _fact(
                "The {n} is measured with {v}. | To observe the {n}, laboratories use {v}.",
                "What is used to measure the {n}? | Which instrument shows the {n}?",
                "a mass spectrometer, a torsion balance, a bolometer, an ion trap, a cloud chamber, a pendulum clock",
            ),
            _fact(
                "The {n} was confirmed in {v}. | Proof of the {n} came in {v}, after a long dispute.",
                "When was the {n} confirmed? | In which year did proof of the {n} come?",
                _YEARS,
            ),
        ),
        _list("Textbooks give it half a page., Students repeat the experiment each term., The data are public."),
    ),
    Domain(
        "history",
        _list("Treaty of , Siege of , Battle of , Council of , Revolt of , Fair of "),
        _list(_TOWNS),
        "the event",
        (
            _fact(
                "The {n} took place in {v}. | Chronicles date the {n} to {v}. | In {v} came the {n}.",
                "When did the {n} take place? | To which year do chronicles date the {n}?",
                _YEARS,
            ),
            _fact(
                "The {n} ended because of {v}. | What brought the {n} to its end was {v}.",
                "Why did the {n} end? | What brought the {n} to an end?",
                "a lack of bread, an early frost, the death of the duke, a flood, a secret letter, plague",
            ),
            _fact(
                "The {n} was led by {v}. | At the head of the {n} stood {v}. | {v} presided over the {n}.",
                "Who led the {n}? | Who stood at the head of the {n}? | Who presided over the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} lasted {v}. | After {v}, the {n} was over. | It took {v} before the {n} came to a close.",
                "How long did the {n} last? | What was the length of the {n}? | After what time was the {n} over?",
                "three days, eleven weeks, a single morning, two winters, forty days, nine years, five months",
            ),
        ),
        _list(
            "A stone by the road recalls it., Few letters of the time survive., Schoolbooks tell it in different ways."
        ),
    ),
    Domain(
        "software",
        _list("Pebble, Mosaic, Quarry, Lattice, Ember, Trellis, Cinder, Harbor, Spindle, Tundra"),
        _list("DB, Mail, Sync, Shell, Forge, Notes, Proxy, Queue, Cast"),
        "the program",
        (
            _fact(
                "{n} is written in {v}. | The source code of {n} is in {v}. | Its authors chose {v} for {n}.",
                "Which language is {n} written in? | What is the source code of {n} in?",
                "Rust, Haskell, Go, Erlang, Kotlin, Ada, Fortran, OCaml, Zig, Scala",
            ),
            _fact(
                "By default {n} listens on port {v}. | {n} expects connections on port {v}.",
                "Which port does {n} listen on? | On which port does {n} expect connections?",
                "4410, 7071, 8125, 9333, 2604, 5580, 6996, 3172",
            ),
            _fact(
                "{n} is released under {v}. | The licence of {n} is {v}. | You may copy {n} under the terms of {v}.",
                "Under which licence is {n} released? | What is the licence of {n}?",
                "the Apache licence, the MIT licence, the Mozilla licence, a commercial licence, the zlib licence",
            ),
            _fact(
                "{n} keeps its settings in {v}. | The settings of {n} are read from {v}.",
                "Where does {n} keep its settings? | What are the settings of {n} read from?",
                "a TOML file, the registry, environment variables, a SQLite table, a YAML file, an encrypted vault",
            ),
            _fact(
                "To stop {n}, press {v}. | {n} quits when the user presses {v}.",
                "How is {n} stopped? | Which keys make {n} quit?",
                "Control and Q, Escape twice, F10, Control and backslash, Shift and F4, the letter x",
            ),
        ),
        _list("The manual is short., Bug reports are answered within a week., A dark theme was added in the spring."),
        joiner="",
    ),
    Domain(
        "animals",
        _list("spotted , crested , river , mountain , pale , banded , dwarf , horned "),
        _list("marlet, quindle, tarsk, vorrow, ibbex fox, sand heron, moss toad, reed cat, stone marten, cave swift"),
        "the animal",
        (
            _fact(
                "The {n} feeds on {v}. | The diet of the {n} consists of {v}. | At dusk the {n} looks for {v}.",
                "What does the {n} feed on? | What is the diet of the {n}? | What does the {n} eat?",
                "water snails, pine seeds, beetles, fallen figs, small crabs, moss and lichen, earthworms, moths",
            ),
            _fact(
                "The {n} sleeps in {v}. | The nest of the {n} is found in {v}. | By day, the {n} hides in {v}.",
                "Where does the {n} sleep? | Where is the nest of the {n} found? | Where does the {n} hide?",
                "hollow oaks, old burrows, cracks in the cliff, tall reeds, abandoned barns, piles of driftwood",
            ),
            _fact(
                "The {n} weighs about {v}. | A grown {n} reaches a weight of {v}.",
                "How much does the {n} weigh? | What weight does a grown {n} reach?",
                "90 grams, 400 grams, 2 kilograms, 7 kilograms, 15 kilograms, 31 kilograms",
            ),
            _fact(
                "The {n} can live for {v}. | The life span of the {n} is {v}.",
                "How long can the {n} live? | What is the life span of the {n}?",
                "four years, nine years, fifteen years, twenty-two years, half a century, eighteen months",
            ),
        ),
        _list("It is shy and seldom seen., Its call is heard after rain., Zoos rarely keep it."),
    ),
    Domain(
        "law",
        _list("Harbour , Lantern , Orchard , Bridge , Clean Water , Night Work , Market , Footpath "),
        _list("Act, Ordinance, Charter, Code, Statute, Regulation"),
        "the law",
        (
            _fact(
                "The {n} forbids {v}. | Under the {n}, nobody is allowed to take part in {v}.",
                "What does the {n} forbid? | What is not allowed under the {n}?",
                "street gambling, open fires, fishing with nets, loud music after ten, the sale of fireworks, "
                "the felling of oaks",
            ),
            _fact(
                "Whoever breaks the {n} pays {v}. | The fine under the {n} is {v}.",
                "What is the fine under the {n}? | How much does somebody pay who breaks the {n}?",
                "60 crowns, 150 crowns, a tenth of a month's pay, 900 crowns, 2 000 crowns, 25 crowns a day",
            ),
            _fact(
                "The {n} came into force in {v}. | Parliament passed the {n} in {v}.",
                "When did the {n} come into force? | In which year was the {n} passed?",
                _YEARS,
            ),
            _fact(
                "The {n} was drafted by {v}. | The text of the {n} is the work of {v}. | {v} wrote the {n}.",
                "Who drafted the {n}? | Whose work is the text of the {n}? | Who wrote the {n}?",
                _PEOPLE,
            ),
        ),
        _list("Lawyers still argue over its third clause., A copy lies in the town hall., It has nine pages."),
    ),
    Domain(
        "travel",
        _list("Coast, Valley, Moon, Amber, Forest, Glacier, Desert, Island"),
        _list("liner, hopper, Express, Shuttle, Wanderer, Runner, Arrow, Star"),
        "the service",
        (
            _fact(
                "The {n} leaves at {v}. | Departure of the {n} is at {v}. | At {v} the {n} sets off.",
                "When does the {n} leave? | What is the departure time of the {n}?",
                "5:40, 6:15, 7:55, 9:20, noon, 14:05, 16:30, 18:48, 21:10, midnight",
            ),
            _fact(
                "The {n} goes as far as {v}. | The last stop of the {n} is {v}. | Passengers leave the {n} at {v}.",
                "How far does the {n} go? | What is the last stop of the {n}? | Where do passengers leave the {n}?",
                _TOWNS,
            ),
            _fact(
                "A ticket for the {n} costs {v}. | Travellers pay {v} for the {n}. | The fare of the {n} is {v}.",
                "What does a ticket for the {n} cost? | What is the fare of the {n}? | How much is a trip on the {n}?",
                "4 crowns, 9 crowns, 12.50 crowns, 18 crowns, 27 crowns, 33 crowns, 75 crowns",
            ),
            _fact(
                "The {n} departs from {v}. | To board the {n}, go to {v}. | Travellers wait for the {n} at {v}.",
                "Where does the {n} depart from? | Where do you board the {n}?",
                "platform 3, the west pier, gate 12, the old bus depot, platform 9, the market square, the lower quay",
            ),
        ),
        _list("Bicycles travel free., Seats by the window go first., Hot drinks are sold on board."),
    ),
    Domain(
        "music",
        _list("Winter , Copper , Silent , Evening , Broken , Golden , Distant , Paper "),
        _list("Symphony, Nocturne, Waltz, Serenade, Cantata, March, Rhapsody, Ballad"),
        "the piece",
        (
            _fact(
                "The {n} was composed by {v}. | The composer of the {n} is {v}. | {v} wrote down the {n} in one week.",
                "Who composed the {n}? | Who is the composer of the {n}? | Whose composition is the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} was first played in {v}. | The first audience of the {n} sat in {v}.",
                "Where was the {n} first played? | In which town was the {n} heard first?",
                _TOWNS,
            ),
            _fact(
                "The solo in the {n} is for {v}. | The {n} opens with {v}. | The {n} gives the finest tune to {v}.",
                "Which instrument has the solo in the {n}? | What does the {n} open with?",
                "the bassoon, a muted trumpet, the cello, a glass harp, two horns, the viola, a hand drum, the celesta",
            ),
            _fact(
                "The {n} is in the key of {v}. | Musicians play the {n} in {v}.",
                "In which key is the {n}? | What is the key of the {n}?",
                "D minor, F major, B flat major, E minor, A flat major, G minor, C sharp minor",
            ),
        ),
        _list("The hall was dark except for candles., A recording is planned., The score has coffee stains."),
    ),
    Domain(
        "buildings",
        _list("Heron, Chapel, Weaver, Tollgate, Signal, Cooper, Belfry, Juniper"),
        _list(" Tower, House, Hall, Lodge, Museum, Theatre, Library, Mill"),
        "the building",
        (
            _fact(
                "The {n} was designed by {v}. | The architect of the {n} is {v}. | The {n} is the work of {v}.",
                "Who designed the {n}? | Who is the architect of the {n}? | Whose work is the {n}?",
                _PEOPLE,
            ),
            _fact(
                "The {n} is {v} high. | The roof of the {n} stands {v} above the street.",
                "How high is the {n}? | How far above the street is the roof of the {n}?",
                "11 metres, 19 metres, 36 metres, 48 metres, 73 metres, 105 metres",
            ),
            _fact(
                "The walls of the {n} are built of {v}. | Masons put up the {n} in {v}.",
                "What are the walls of the {n} built of? | Which material did masons use for the {n}?",
                "yellow brick, grey granite, sandstone, larch timber, rammed earth, reinforced concrete, flint",
            ),
            _fact(
                "Today the {n} is used as {v}. | The {n} now serves as {v}. | The town has turned the {n} into {v}.",
                "What is the {n} used as today? | What does the {n} serve as now? | What has the {n} been turned into?",
                "a concert hall, a youth hostel, a seed bank, a primary school, a covered market, a fire station",
            ),
        ),
        _list("Swallows nest under the eaves., The door is painted every spring., Entry is free on Sundays."),
    ),
    Domain(
        "medicine",
        _list("Bren, Cal, Dor, Fex, Gel, Mir, Nol, Pra, Sel, Vor"),
        _list("axine, obrin, utol, emide, isan, arone, odex"),
        "the drug",
        (
            _fact(
                "{n} is prescribed for {v}. | Doctors give {n} to patients with {v}. | {n} helps against {v}.",
                "What is {n} prescribed for? | Which complaint does {n} help against? | Who is given {n}?",
                "hay fever, migraine, gout, sea sickness, insomnia, high blood pressure, joint pain, anaemia",
            ),
            _fact(
                "The daily dose of {n} is {v}. | Adults take {v} of {n} a day.",
                "What is the daily dose of {n}? | How much {n} do adults take a day?",
                "5 milligrams, 20 milligrams, 75 milligrams, half a tablet, two drops, 250 milligrams, one spoonful",
            ),
            _fact(
                "A side effect of {n} is {v}. | Some patients who take {n} report {v}.",
                "What is a side effect of {n}? | What do some patients who take {n} report?",
                "a dry mouth, dizziness, vivid dreams, itching, loss of appetite, a slow pulse, cold hands",
            ),
            _fact(
                "{n} is obtained from {v}. | Chemists extract {n} from {v}. | The raw material of {n} is {v}.",
                "What is {n} obtained from? | What do chemists extract {n} from? | What is the raw material of {n}?",
                "willow bark, sea kelp, a soil bacterium, yew needles, foxglove leaves, horse serum, a tree fungus",
            ),
        ),
        _list("Keep the box away from sunlight., The leaflet comes in four languages., Pharmacies order it overnight."),
        joiner="",
    ),
)

#: The domain of people, whose names the other domains use as values.
PEOPLE = next(domain for domain in DOMAINS if domain.name == "people")
