"""Simple English made on the spot: the stories, games and rhymes that the tiny models learn from.

Nothing is downloaded and nothing is quoted that is not old: every document is drawn from the small grammars below by
one ``random.Random``, so a seed names a whole library. Each *kind* of document asks for one thing a reader can look for
in the attention afterwards:

| kind | what predicting it takes |
|---|---|
| ``story`` | who is *she*, who is *it*; which thing was lost |
| ``because`` | *it* was too tired, *it* was too wide: which of two nouns the adjective fits |
| ``giving`` | "Anna and Tom went out. Tom gave a cup to" … the other name |
| ``whereabouts`` | a fact from some sentences ago |
| ``agreement`` | *is* or *are*, past a noun of the other number |
| ``echo``, ``market``, ``built``, ``rhyme``, ``words`` | the same words again, in the same order (induction) |
| ``sequence``, ``opposites``, ``saying`` | a little knowledge: weekdays, numbers, opposites, proverbs, nursery rhymes |
"""

# ruff: noqa: SIM905  (a list of words reads best as words)

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────

GIRLS = "Anna Clara Ella Grace Ivy Kate Lina Lucy Mary Mei Mia Nina Rose Ruth Sara Zoe".split()
BOYS = "Amir Ben David Finn Hugo Jack John Kofi Leo Max Noah Oscar Paul Ravi Sam Tom".split()
ANIMALS = """animal bear bee bird cat cow crow dog dragon duck elephant fish fox frog goat hen horse lion monkey owl
    pig rabbit rat snake spider turtle whale wolf""".split()
THINGS = """apple bag ball basket bell boat book bottle bowl box cake candle card chair clock coat cup desk drum
    egg flag flower flute hat key kite knife lamp letter map mirror orange pen phone picture plate ring rope shell
    shoe spoon star stick stone sword table ticket toy umbrella watch wheel window""".split()
PLACES = """beach bridge castle church city farm field forest garden hill house island kitchen lake library market
    mountain office park river road school sea shop station street town tower valley village wood""".split()
SPOTS = "bed bench box bush cupboard desk door fence gate roof rug table tree wall window".split()
LOOKS = """bad big black blue bright brave clean clever cold dark dirty dry fast funny gentle good golden great green
    grey happy heavy hot kind little long lovely new nice old pink pretty proud quick quiet red round sad shiny short
    silver slow small soft strange strong sweet tall tiny warm white wild wise yellow young""".split()
FEELINGS = "afraid angry glad happy hungry lonely proud sad sick sleepy surprised thirsty tired".split()
WEATHER = "beautiful cloudy cold dark hot quiet rainy snowy sunny warm windy".split()
DOINGS = "danced fell hid jumped laughed lived played ran sang sat slept stood waited walked".split()
CHASES = "chased followed found heard helped liked loved met saw watched".split()

#: Words that the grammars hardly use, so that a reader's own sentence finds most of its words whole.
OTHERS = """about above across after again against air all almost along already also always am among an and another
    answer any anything are arm around art as ask at attention away baby back be became because become been before began
    begin behind being believe below best better between blood body both bottom boy break bring brother brown build
    business busy but buy by call came can car care carry cause center certain chance change child children choose class
    clear close cloud color come company computer could country course cover cross cry cut daughter day dead deep did
    different dinner do doctor does doing done down draw dream drink drive drop each ear early earth east easy eat end
    enough even evening ever every everyone everything example eye face fact family far father feel feet few fight fill
    find fine finger fire first fit five floor fly follow food foot for forget forty found four free friend from front
    full game gave get girl give go god gold gone got grass ground group grow had hair half hand happen hard has have he
    head hear heart heat held help her here high him himself his history hold hole home hope hour how human hundred hurt
    ice idea if important in inside into is it its job join just keep kill king knew know known lady land language large
    last late later laugh law learn least leave left leg less let life light like line list listen live look lose lost
    lot love low machine made make man many mark matter may me mean meet men might mile milk mind minute miss money moon
    more morning most mother mouth move much music must my name near need never news next night no noise none north nose
    not note nothing now number of off often oh on once one only open or order other our out outside over own page paint
    paper part party pass pay people perhaps person piece place plan plane plant play please point poor power pull push
    put queen question quite rain read ready really reason rest rich ride right room run said salt same sat saw say
    science second see seem seen sell send sense sentence set seven several shall she ship should show side sight sign
    simple since sing sister sit six size sky sleep smile snow so some someone something song soon sound south space
    speak stand start state stay step still stop story student study such summer sun sure surprise swim take talk
    teacher tell ten test than thank that the their them then there these they thing think third this those though
    thought thousand three through time to today together told tomorrow too took top touch toward translate travel
    tried trip trouble true try turn twelve twenty two uncle under understand until up upon us use usual very visit
    voice wait walk want war was wash water way we wear week weight well went were west wet what when where which while
    who whole whose why wide will win wind winter wish with without woman wonder word work world worry would write wrong
    year yes yesterday yet you your
    attend attends attention away been being binary bit byte careful century circle cities code context copy data
    decoder encoder error everybody fixed follows forward gradient grew heads history holiday index input keys known
    layer layers learned letters looks maps matrix means memory middle model models names neural network nobody numbers
    output passed patient pattern position predict program query random repeat said scientist score sentences shows
    signal softmax special store street symbol tail tea term tests texts token tokens trained transformer value values
    vector vectors weights words""".split()

OPPOSITES = """big small, hot cold, up down, day night, left right, open closed, young old, fast slow, wet dry,
    happy sad, high low, light dark, hard soft, good bad, first last, inside outside, early late, rich poor,
    strong weak, full empty, near far, clean dirty, long short, black white, loud quiet"""
SEQUENCES = [
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "January February March April May June July August September October November December".split(),
    "one two three four five six seven eight nine ten eleven twelve".split(),
    "first second third fourth fifth sixth seventh eighth ninth tenth".split(),
    [str(number) for number in range(1, 31)],
    list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
]
RHYMES = """bat cat hat mat rat, bed head shed, bee key sea tree, bear chair pear, boat coat goat, bell shell well,
    book cook hook, car jar star, cake lake snake, clock rock sock, dog fog frog log, hen pen den, king ring wing,
    light night knight, crown town gown, box fox ox, drum plum thumb, bird word herd"""
SAYINGS = """A bird in the hand is worth two in the bush.
Actions speak louder than words.
All that glitters is not gold.
All you need is love, and a little attention.
An apple a day keeps the doctor away.
Better late than never.
Every cloud has a silver lining.
If you want to go fast, go alone. If you want to go far, go together.
Look before you leap.
Practice makes perfect.
Rome was not built in a day.
The early bird catches the worm.
The quick brown fox jumps over the lazy dog.
The sun rises in the east and sets in the west.
Time flies like an arrow. Fruit flies like a banana.
To be, or not to be, that is the question.
Two heads are better than one.
When in Rome, do as the Romans do.
Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.
Twinkle, twinkle, little star, how I wonder what you are. Up above the world so high, like a diamond in the sky.
Mary had a little lamb, its fleece was white as snow. And everywhere that Mary went, the lamb was sure to go.
Rain, rain, go away, come again another day.
Are you sleeping, are you sleeping, brother John, brother John? Morning bells are ringing, morning bells are ringing.
The wheels on the bus go round and round, round and round, round and round.""".splitlines()

#: What a slot such as ``{thing}`` may become.
SLOTS = {
    "name": GIRLS + BOYS, "girl": GIRLS, "boy": BOYS, "animal": ANIMALS, "thing": THINGS, "place": PLACES,
    "spot": SPOTS, "look": LOOKS, "feeling": FEELINGS, "weather": WEATHER, "did": DOINGS, "chased": CHASES,
    "where": ["under", "behind", "near", "on"], "gave": ["gave", "handed", "brought", "sold", "showed"],
}  # fmt: skip


def fill(template: str, rng: Random, **given: str) -> str:
    """The template with each ``{slot}`` replaced: by what is given, or by any word of that kind."""
    return re.sub(r"{(\w+)}", lambda slot: given.get(slot[1]) or rng.choice(SLOTS[slot[1]]), template)


def tidy(text: str) -> str:
    """The text with *an* where it belongs and a capital at the start of each sentence."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return re.sub(r'(^"?|[.!?] "?|\." "?|\n)([a-z])', lambda start: start[1] + start[2].upper(), text)


def plural(noun: str) -> str:
    """The plural, for the nouns above."""
    if noun in {"wolf", "knife"}:
        return noun.rstrip("fe") + "ves"
    if noun.endswith(("s", "x", "sh", "ch")):
        return noun + "es"
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + "s"


def listing(words: list[str]) -> str:
    """Words as English lists them: *a, b and c*."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


class Who(NamedTuple):
    """Somebody in a story, with the pronouns that stand for them."""

    name: str
    he: str
    him: str
    his: str
    was: str = "was"


def somebody(rng: Random) -> Who:
    """A girl, a boy, an animal, or several animals."""
    animal = rng.choice(ANIMALS)
    return rng.choices(
        [
            Who(rng.choice(GIRLS), "she", "her", "her"),
            Who(rng.choice(BOYS), "he", "him", "his"),
            Who(f"the {animal}", "it", "it", "its"),
            Who(f"the {plural(animal)}", "they", "them", "their", "were"),
        ],
        [4, 4, 3, 1],
    )[0]


# ── kinds of document ────────────────────────────────────────────────────────────────────────────────────────────────

#: A story is one sentence out of each group. ``{he}`` is the hero, ``{she}`` the friend, whatever their pronouns.
STORY = [
    """once upon a time, {hero} lived near a {place} with {friend}.
    one day, {hero} and {friend} went to the {place}.
    it was a {weather} day. {hero} met {friend} in the {place}.
    every morning, {hero} walked to the {place}. {friend} lived there.
    {hero} and {friend} were good friends. they liked to play in the {place}.
    last summer, {hero} {was} in the {place}. {friend} came, too.""",
    """{hero} had a {look} {thing}. {he} loved {his} {thing} very much.
    there {hero} saw a {look} {thing}. {he} took the {thing} and ran home.
    {friend} gave {him} a {look} {thing}. {hero} {was} very happy.
    {hero} wanted a {look} {thing}, but {he} did not have any money. so {he} made one.
    "look," said {friend}, "there is a {look} {thing}." {hero} picked it up.""",
    """but then {hero} lost the {thing}. {he} looked under the {spot}, but it was not there.
    but the {thing} fell into the water. {hero} {was} very sad, and {he} began to cry.
    suddenly a {animal} came out of the {place} and took the {thing}. {hero} {was} afraid, so {he} ran to {friend}.
    then the {thing} broke. {hero} did not know what to do.
    that night the {thing} was gone. {hero} could not sleep because {he} {was} too {feeling}.
    {hero} forgot the {thing} in the {place}. when {he} came back, {he} could not find it.""",
    """"don't worry," said {friend}. "I will help you." {she} found the {thing} behind the {spot}.
    "what is the matter?" asked {friend}. "I lost my {thing}," said {hero}. "here it is," said {friend}.
    {friend} heard {him} and came to help. together they found the {thing} near the {spot}.
    {friend} looked everywhere. at last {she} saw the {thing} under the {spot} and gave it back to {hero}.
    "where is my {thing}?" {hero} asked {friend}. "your {thing} is on the {spot}," said {friend}.""",
    """{hero} smiled and thanked {friend}. then they went home together.
    from that day on, {hero} never lost {his} {thing} again.
    that night, {hero} slept well. the {thing} was next to {his} bed.
    {hero} gave {friend} a big hug. they were happy.
    {hero} and {friend} laughed. it was a {weather} day after all.
    everyone {hero} met asked about the {thing}. "{friend} found it," {he} said.""",
]


def story(rng: Random) -> str:
    """Somebody has a thing and loses it, and a friend helps."""
    hero, friend = somebody(rng), somebody(rng)
    while friend.he == hero.he:
        friend = somebody(rng)
    text = " ".join(rng.choice(group.split("\n")).strip() for group in STORY)
    text = fill(text, rng, hero=hero.name, friend=friend.name, she=friend.he, **hero._asdict(),
                thing=rng.choice(THINGS), place=rng.choice(PLACES), weather=rng.choice(WEATHER))  # fmt: skip
    return tidy(text)


#: Who could not do what to what; why, if it was the first; why, if it was the second.
REASONS = [
    (ANIMALS, "didn't cross", "street road river bridge field", "tired slow sick afraid", "wide busy dangerous long"),
    (THINGS, "didn't fit into", "box bag drawer basket pocket", "big large long round", "small narrow full short"),
    (ANIMALS, "couldn't climb", "tree wall hill mountain tower", "weak old fat lazy", "high tall steep wet"),
    (ANIMALS, "didn't eat", "bread cake apple soup egg", "full sad tired sleepy", "hot cold dry sour"),
    (ANIMALS, "couldn't carry", "stone chair table basket box", "weak young small tired", "heavy big hot large"),
    (ANIMALS, "didn't drink", "water milk tea", "busy shy afraid sleepy", "hot dirty cold salty"),
]


def because(rng: Random) -> str:
    """Sentences whose *it* is settled only by the last word, and then in so many words."""
    sentences = []
    for _ in range(rng.randint(2, 4)):
        subjects, verb, objects, why_subject, why_object = rng.choice(REASONS)
        subject, thing = rng.choice(subjects), rng.choice(objects.split())
        it, why = rng.choice([(subject, why_subject), (thing, why_object)])
        why = rng.choice(why.split())
        sentences.append(f"The {subject} {verb} the {thing} because it was too {why}.")
        sentences.append(rng.choice([f"What was too {why}? The {it}.", f"The {it} was too {why}."]))
    return " ".join(sentences)


GIVING = """When {one} and {two} went to the {place}, {giver} {gave} a {thing} to {taker}.
After {one} and {two} left the {place}, {giver} {gave} a {thing} to {taker}.
{one} and {two} met near the {place}. Then {giver} {gave} a {thing} to {taker}.
While {one} and {two} were in the {place}, {giver} {gave} a {thing} to {taker}. {taker} thanked {giver}.
{one} and {two} had a {weather} day. {giver} {gave} a {thing} to {taker}. Now {taker} has it.""".splitlines()


def giving(rng: Random) -> str:
    """Two people meet, one gives, the other gets."""
    sentences = []
    for _ in range(rng.randint(2, 4)):
        one, two = rng.sample(GIRLS + BOYS, 2)
        giver, taker = rng.sample([one, two], 2)
        sentences.append(fill(rng.choice(GIVING), rng, one=one, two=two, giver=giver, taker=taker))
    return tidy(" ".join(sentences))


def whereabouts(rng: Random) -> str:
    """Things are put in places; then somebody asks where they are, or who put them there."""
    count = rng.randint(2, 4)
    names, things, spots = (rng.sample(words, count) for words in (GIRLS + BOYS, THINGS, SPOTS))
    facts, answers = [], []
    for name, thing, spot in zip(names, things, spots, strict=True):
        where = fill("{where} the {spot}", rng, spot=spot)
        facts.append(f"{name} put the {thing} {where}.")
        answers.append(
            rng.choice(
                [
                    f"Where is the {thing}? The {thing} is {where}.",
                    f"Who put the {thing} there? {name} put the {thing} there.",
                ]
            )
        )
    return " ".join(facts + rng.sample(answers, rng.randint(1, count)))


def agreement(rng: Random) -> str:
    """Number, carried past a noun that may have the other number."""
    sentences = []
    for _ in range(rng.randint(2, 5)):
        noun, other = rng.choice(ANIMALS + THINGS), rng.choice(PLACES + SPOTS)
        subject, verb = rng.choice([(noun, "is"), (noun, "was"), (plural(noun), "are"), (plural(noun), "were")])
        where = rng.choice(["near", "behind", "next to", "in front of"])
        sentences.append(fill(f"The {subject} {where} the {rng.choice([other, plural(other)])} {verb} {{look}}.", rng))
    return " ".join(sentences)


#: Short sentences, hard to guess and easy to read.
CLAUSES = """the {look} {animal} {did} under the {look} {place}
the {animal} {chased} a {look} {thing} near the {place}
{girl} put the {look} {thing} on the {spot} in the {place}
{boy} {chased} the {look} {animal} and the {look} {thing}
my {thing} is {look} and my {thing} is {look}""".splitlines()
ECHOES = """{name} said, "{what}." {name} said, "{what}." Then {name} said, "{what}."
{what}. {what}. {what}.
{what}. Yes, {what}. {name} thinks that {what}.
{name} wrote: {what}. {name} read: {what}.
"Did you know that {what}?" asked {name}. "No," said {name}, "I did not know that {what}.\"""".splitlines()


def echo(rng: Random) -> str:
    """One sentence, said and said again."""
    what = fill(rng.choice(CLAUSES), rng)
    return tidy(fill(rng.choice(ECHOES), rng, what=what))


MARKETS = """I went to the {place} and I bought
In my bag I have
On the {place} there is
{name} went to the {place} and saw
For my birthday I want
{name} has""".splitlines()


def market(rng: Random) -> str:
    """The memory game: each round says the list again and adds one thing."""
    things = [fill(rng.choice(["a ", "a ", "a {look} "]), rng) + thing for thing in rng.sample(THINGS + ANIMALS, 6)]
    frame = fill(rng.choice(MARKETS), rng)
    return tidy(" ".join(f"{frame} {listing(things[:count])}." for count in range(1, rng.randint(4, 7))))


def built(rng: Random) -> str:
    """The chain rhyme: this is the cat that chased the rat that sat near the house that Jack built."""
    chain = fill("the {place} that {name} ", rng) + rng.choice(["built", "loved", "found", "saw"])
    lines = [f"This is {chain}."]
    for animal in rng.sample(ANIMALS, rng.randint(3, 4)):
        chain = f"the {animal} that {rng.choice([*CHASES, 'lived in', 'sat near'])} {chain}"
        lines.append(f"This is {chain}.")
    return "\n".join(lines)


REFRAINS = ["Oh my, said {name}.", "Sing, {name}, sing!", "Round and round we go.", "Hey ho, hey ho!"]
VERSES = """A {a}, a {b}, a {c},/who has seen a {c}?/{refrain}/A {a}, a {b}, a {c},/who has seen a {a}?/{refrain}
One {a}, two {a}s, three {a}s,/{refrain}/one {b}, two {b}s, three {b}s,/{refrain}
The {a} and the {b}, the {b} and the {c},/the {c} and the {a}./{refrain}/The {a} and the {b}./{refrain}""".splitlines()


def rhyme(rng: Random) -> str:
    """A few lines that rhyme, with a refrain."""
    a, b, c = rng.sample(rng.choice(RHYMES.split(",")).split(), 3)
    refrain = fill(rng.choice(REFRAINS), rng)
    return tidy(fill(rng.choice(VERSES), rng, a=a, b=b, c=c, refrain=refrain).replace("/", "\n"))


def words(rng: Random) -> str:
    """Words in no order at all, and then the same words in the same order."""
    chosen = rng.sample(LEXICON, rng.randint(4, 20))
    if rng.random() < 0.3:
        chosen = [word.capitalize() for word in chosen]
    text = rng.choice([", ", " ", " ", " and ", "\n"]).join(chosen)
    return rng.choice([". ", "\n", ". Again: ", " ", ", "]).join([text] * rng.randint(2, 3)) + "."


def sequence(rng: Random) -> str:
    """Weekdays, months, numbers, letters."""
    row = rng.choice(SEQUENCES)
    start = rng.randrange(len(row) - 3)
    return rng.choice([", ", " "]).join(row[start : start + rng.randint(4, 12)]) + "."


def opposites(rng: Random) -> str:
    """*The opposite of hot is cold.*"""
    pairs = [rng.sample(pair.split(), 2) for pair in rng.sample(OPPOSITES.split(","), rng.randint(3, 6))]
    form = rng.choice(["The opposite of {} is {}.", "{}, {}.", "If it is not {}, it is {}.", "{} and {}."])
    return tidy(" ".join(form.format(*pair) for pair in pairs))


def saying(rng: Random) -> str:
    """What everybody knows by heart."""
    return " ".join(rng.sample(SAYINGS, 2))


KINDS: dict[Callable[[Random], str], int] = {
    story: 28, because: 12, giving: 14, whereabouts: 8, agreement: 4, echo: 8, market: 5, built: 3, rhyme: 3, words: 8,
    sequence: 4, opposites: 5, saying: 4,
}  # fmt: skip
LEXICON = sorted({*ANIMALS, *THINGS, *PLACES, *SPOTS, *LOOKS, *FEELINGS, *WEATHER, *DOINGS, *CHASES, *OTHERS})


def documents(seed: int) -> Iterator[str]:
    """The library that ``seed`` names, without end."""
    rng = Random(seed)
    kinds, shares = list(KINDS), list(KINDS.values())
    while True:
        yield rng.choices(kinds, shares)[0](rng)
