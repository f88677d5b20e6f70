"""The words of the demo's small world: names, values of each relation, sentence forms, bits of colour.

Every name and value is one token of the demo's tokenizer. That is what lets a model of under
a million parameters bind a name to its value; names of several pieces were tried and were not learned.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = """
Aaron Abigail Ada Adele Adrian Agatha Agnes Aidan Aileen Alan Albert Alberta Alden Alec Alfred Alice Alina Alma
Alvin Amanda Amelia Amos Amy Anders Andrea Andrew Anita Anna Annabel Anselm Anton Antonia April Archie Ariel Arlo
Arnold Arthur Arturo Asa Astrid Aubrey Audrey August Aurora Axel Barbara Barnaby Barry Basil Beatrice Becky Belinda
Bella Ben Benedict Bernard Bertha Beth Betty Bianca Bill Blanche Bonnie Boris Brenda Brian Bridget Bruce Bruno Caleb
Calvin Camilla Carina Carl Carla Carlos Carmen Carol Caspar Cassandra Cecil Cecilia Cedric Celia Chad Charles
Charlotte Chester Chloe Chris Christa Clara Clarence Claude Claudia Clement Clive Colin Conrad Constance Cora
Cordelia Cosmo Craig Curtis Cynthia Cyril Daisy Damian Daniel Daphne Darcy Darren David Dawn Deborah Delia Della
Denis Derek Desmond Diana Diego Dina Dolores Dominic Donald Donna Dora Doreen Doris Dorothy Douglas Duncan Dylan
Eamon Earl Edgar Edith Edmund Edna Edward Edwin Effie Eileen Elaine Eleanor Elena Eli Elias Elisa Eliza Ella Ellen
Elmer Elsa Elsie Emanuel Emil Emilia Emma Enid Enoch Enzo Eric Erica Erin Ernest Esme Esther Ethan Ethel Eugene Eva
Evelyn Everett Ezra Fabian Faith Fatima Felicia Felix Ferdinand Fergus Fiona Flora Floyd Frances Francis Frank Fred
Freda Frieda Gabriel Gail Gareth Gavin Gemma Genevieve Geoffrey George Gerald Gertrude Gideon Gilbert Gilda Giles
Gina Gladys Glen Gloria Godfrey Gordon Grace Graham Greta Griffin Guido Gustav Guy Gwen Hannah Hans Harold Harriet
Harry Harvey Hazel Heather Hector Heidi Helen Helga Henrietta Henry Herbert Herman Hilary Hilda Holly Homer Hope
Horace Howard Hubert Hugh Hugo Humphrey Ian Ida Ignatius Igor Imogen Ines Ingrid Irene Iris Irma Irving Isaac
Isabel Isadora Isla Ivan Ivor Jack Jacob Jade James Jan Jane Janet Jared Jasmine Jason Jasper Jean Jeffrey Jemima
Jennifer Jenny Jeremy Jerome Jesse Jessica Jill Joan Joanna Joel Johanna John Jonas Jonathan Josef Joseph Joshua
Josie Joyce Juan Judith Judy Julia Julian Juliet Julius June Justin Karen Karl Kate Katherine Keith Kelly Kenneth
Kevin Kirsten Klaus Klara Lambert Lana Lance Laura Laurel Lavinia Lawrence Leah Leander Lee Leila Lena Leo Leon
Leonard Leonora Leroy Leslie Lester Lewis Liam Lila Lillian Linda Linus Lionel Lisa Lloyd Lois Lola Lorenzo Loretta
Lorna Louis Louisa Lucas Lucia Lucian Lucy Ludwig Luke Luther Lydia Mabel Madeline Magnus Maisie Malcolm Manfred
Manuel Marcel Marco Marcus Margaret Margot Maria Marian Marina Mario Marjorie Mark Marlene Marta Martha Martin
Marvin Mary Matilda Matthew Maud Maurice Mavis Max Maxine Maya Meredith Mercy Michael Mildred Miles Millie Milo
Mina Minerva Miranda Miriam Moira Molly Mona Monica Morgan Morris Moses Muriel Myra Myron Myrtle Nadia Nancy Naomi
Natalie Nathan Neil Nell Nelson Nerys Nettie Nicholas Nicola Nigel Nina Noah Noel Nora Norbert Norma Norman Octavia
Olaf Olga Olive Oliver Olivia Omar Ophelia Orson Oscar Oswald Otis Otto Owen Pablo Pamela Patricia Patrick Paul
Paula Pauline Pearl Pedro Peggy Penelope Percy Perry Peter Petra Philip Philippa Phoebe Phyllis Pierre Polly Prudence
Quentin Rachel Ralph Ramona Raymond Rebecca Regina Reuben Rex Rhoda Richard Rita Robert Roberta Roger Roland Rosa
Rosalind Rowena Roy Rufus Rupert Ruth Sabina Sally Samuel Sandra Sarah
""".split()

#: Names that biographies speak of as she, and as he.
SHE = """Alice Anna Astrid Beatrice Bridget Camilla Carmen Clara Daphne Diana Edith Elena Emma Fiona Flora Greta Hannah
Helen Ingrid Isabel Jane Joan Julia Laura Lucy Margaret Maria Martha Mary Monica Nina Olga Pamela Rosa Ruth Sarah""".split()
HE = """Albert Andrew Arthur Benedict Boris Carlos David Edgar Eric Felix Frank George Gustav Harold Henry Hugo Ivan Jack
James John Joseph Karl Louis Lucas Marco Martin Oscar Otto Paul Pedro Peter Ralph Robert Roland Samuel""".split()

CITIES = """Lyon Oslo Lisbon Vienna Prague Dublin Cairo Lima Quito Kyoto Osaka Mumbai Delhi Boston Denver Turin
Geneva Bergen Porto Krakow""".split()
JOBS = """baker nurse teacher pilot farmer lawyer dentist plumber carpenter barber cook gardener librarian miner
painter sailor singer tailor waiter welder""".split()
COMPANIES = """Northwind Bluepeak Ironbridge Redwood Starling Oakfield Silverton Brightwater Greystone Fairmont
Kestrel Lakeshore Moorland Pinecrest Quarrybank Riverside Stonegate Thornhill Westbrook Yellowtail""".split()
INSTRUMENTS = """violin cello flute trumpet harp piano guitar drums oboe clarinet banjo organ tuba viola lute
trombone saxophone accordion harmonica mandolin""".split()
LANGUAGES = """Danish Dutch Finnish French German Greek Hindi Hungarian Italian Japanese Korean Latin Norwegian
Polish Portuguese Russian Spanish Swedish Turkish Welsh""".split()
PETS = """cat dog rabbit parrot hamster tortoise pony goat ferret gecko snake canary goldfish hedgehog lizard mouse
pigeon spider donkey llama""".split()
DISHES = """soup pizza pasta curry sushi risotto goulash paella stew salad omelette dumplings lasagne noodles
pancakes ramen falafel hummus chowder casserole""".split()
COLOURS = """red blue green yellow purple brown black white grey pink scarlet crimson turquoise violet beige ivory
navy teal amber maroon""".split()
SPORTS = """rowing tennis fencing chess boxing cycling sailing judo karate skiing swimming golf rugby hockey cricket
archery climbing wrestling surfing badminton""".split()
SUBJECTS = """physics chemistry biology history geography law medicine philosophy music economics astronomy geology
botany zoology linguistics mathematics statistics theology engineering architecture""".split()


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its values, the sentences that state it and the questions that ask for it."""

    name: str
    values: list[str]
    statements: tuple[str, ...]  # {n} is the name, {v} the value
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        "city",
        CITIES,
        ("{n} lives in {v}.", "The home of {n} is in {v}.", "{n} has a flat in {v}.", "{n} moved to {v} last year."),
        ("Where does {n} live?", "In which city does {n} live?", "Which city is the home of {n}?"),
    ),
    Relation(
        "job",
        JOBS,
        (
            "{n} works as a {v}.",
            "The occupation of {n} is {v}.",
            "By trade, {n} is a {v}.",
            "Everybody knows {n} as a good {v}.",
        ),
        ("What is the occupation of {n}?", "What does {n} work as?", "What is the trade of {n}?"),
    ),
    Relation(
        "employer",
        COMPANIES,
        (
            "{n} is employed by {v}.",
            "The employer of {n} is {v}.",
            "{n} has a contract with {v}.",
            "{n} gets wages from {v}.",
        ),
        ("Who employs {n}?", "Who is the employer of {n}?", "With whom does {n} have a contract?"),
    ),
    Relation(
        "instrument",
        INSTRUMENTS,
        (
            "{n} plays the {v}.",
            "The instrument of {n} is the {v}.",
            "In the evening, {n} practises the {v}.",
            "{n} gives lessons on the {v}.",
        ),
        ("Which instrument does {n} play?", "What is the instrument of {n}?", "What does {n} practise?"),
    ),
    Relation(
        "language",
        LANGUAGES,
        (
            "{n} speaks {v} at home.",
            "The mother tongue of {n} is {v}.",
            "{n} grew up with {v}.",
            "With friends, {n} talks in {v}.",
        ),
        ("Which language does {n} speak?", "What is the mother tongue of {n}?", "Which language does {n} talk in?"),
    ),
    Relation(
        "pet",
        PETS,
        (
            "{n} keeps a {v}.",
            "The pet of {n} is a {v}.",
            "{n} shares a house with a {v}.",
            "Every morning, {n} feeds a {v}.",
        ),
        ("Which pet does {n} keep?", "What is the pet of {n}?", "Which animal lives with {n}?"),
    ),
    Relation(
        "dish",
        DISHES,
        (
            "{n} likes {v} best.",
            "The favourite dish of {n} is {v}.",
            "For dinner, {n} always orders {v}.",
            "{n} makes very good {v}.",
        ),
        ("What is the favourite dish of {n}?", "Which dish does {n} like best?", "What does {n} order for dinner?"),
    ),
    Relation(
        "colour",
        COLOURS,
        (
            "{n} always wears {v}.",
            "The favourite colour of {n} is {v}.",
            "The front door of {n} is {v}.",
            "{n} painted the boat {v}.",
        ),
        ("What is the favourite colour of {n}?", "Which colour does {n} wear?", "Which colour does {n} like best?"),
    ),
    Relation(
        "sport",
        SPORTS,
        (
            "{n} trains for {v}.",
            "The sport of {n} is {v}.",
            "{n} won a medal in {v}.",
            "On Sundays, {n} goes to the {v} club.",
        ),
        ("Which sport does {n} train for?", "What is the sport of {n}?", "In which sport did {n} win a medal?"),
    ),
    Relation(
        "subject",
        SUBJECTS,
        (
            "{n} studied {v}.",
            "The degree of {n} is in {v}.",
            "At university, {n} read {v}.",
            "{n} wrote a book on {v}.",
        ),
        ("What did {n} study?", "Which subject did {n} study?", "What is the degree of {n} in?"),
    ),
)

#: Openings that a source might put before a statement beginning with a name.
HEDGES = ("According to the report, ", "Officially, ", "It is said that ", "As far as we know, ")

#: Sentences that state no fact about anybody.
FILLERS = (
    "The market opens early on Monday.",
    "The road by the river was closed for repairs.",
    "It rained for most of the week.",
    "The old bridge has four stone arches.",
    "The library keeps the local papers.",
    "The train was late again.",
    "There are two schools near the park.",
    "The council met on Tuesday.",
    "The winter was long and cold.",
    "Tickets are sold at the door.",
    "The village has a small museum.",
    "The letter arrived in the spring.",
    "Visitors leave their coats at the desk.",
    "The harbour is busy in summer.",
    "The clock on the tower is slow.",
    "A new road is planned for next year.",
)

#: What somebody of a trade does all day: the biography task asks for the trade itself.
JOB_HINTS = {
    "baker": ("kneads dough before dawn", "takes warm loaves from the oven"),
    "nurse": ("cares for patients on the ward", "changes bandages at the hospital"),
    "teacher": ("explains fractions to a class of children", "marks homework every night"),
    "pilot": ("lands planes in any weather", "checks the cockpit before take off"),
    "farmer": ("milks the cows and ploughs the fields", "brings in the harvest with a tractor"),
    "lawyer": ("defends clients in court", "argues before the judge"),
    "dentist": ("fills teeth with great care", "looks after teeth and gums"),
    "plumber": ("mends leaking pipes", "fits taps and drains"),
    "carpenter": ("builds tables from oak", "planes wood in a workshop"),
    "barber": ("cuts hair and trims beards", "shaves customers with a razor"),
    "cook": ("runs the kitchen of an inn", "stirs sauces all evening"),
    "gardener": ("prunes roses and mows lawns", "plants bulbs for the city park"),
    "librarian": ("sorts books on the shelves", "lends novels to readers"),
    "miner": ("digs coal under the ground", "goes down the shaft with a lamp"),
    "painter": ("fills canvases with oil colours", "shows portraits in a gallery"),
    "sailor": ("crosses the ocean on a ship", "ties knots on deck"),
    "singer": ("gives concerts with a fine voice", "performs songs on stage"),
    "tailor": ("sews suits to measure", "stitches coats by hand"),
    "waiter": ("carries plates to the tables", "takes orders in a restaurant"),
    "welder": ("joins steel with a torch", "works behind a mask among sparks"),
}
