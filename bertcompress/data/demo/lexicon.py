"""The words of the embedded task, by what they may be used for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEXICON", "Lexicon", "Verb", "plural"]

_PLURALS = {
    "child": "children",
    "wife": "wives",
    "shelf": "shelves",
    "policewoman": "policewomen",
    "policeman": "policemen",
    "businesswoman": "businesswomen",
    "potato": "potatoes",
    "fish": "fish",
    "thief": "thieves",
    "businessman": "businessmen",
}

_FORMS_TEXT = """
eat ate eaten, write wrote written, read read read, drink drank drunk, drive drove driven, break
broke broken, steal stole stolen, wear wore worn, hide hid hidden, choose chose chosen, draw drew
drawn, see saw seen, take took taken, throw threw thrown, sing sang sung, ride rode ridden, forget
forgot forgotten, tear tore torn, shake shook shaken, know knew known, begin began begun, swim
swam swum, speak spoke spoken, sleep slept slept, sit sat sat, buy bought bought, sell sold sold,
build built built, find found found, make made made, keep kept kept, lose lost lost, think thought
thought, say said said, teach taught taught, hold held held, catch caught caught, bring brought
brought, send sent sent, hear heard heard, run ran run, meet met met, cut cut cut, hurt hurt hurt,
understand understood understood, weep wept wept, kneel knelt knelt, stand stood stood, lie lay
lain, paint painted painted, swear swore sworn, dream dreamt dreamt, learn learned learned, sweep
swept swept
"""

# Verbs that double their last letter before -ed and -ing.
_DOUBLING = frozenset(
    ["admit", "begin", "chat", "cut", "forget", "grin", "hug", "nap", "refer", "run", "sit", "swim"]
)

_WORDS = """
people: doctor, nurse, teacher, student, lawyer, pilot, singer, dancer, farmer, baker, painter,
    writer, driver, cook, guest, neighbor, visitor, tourist, customer, manager, banker, scientist,
    engineer, artist, actor, judge, officer, soldier, sailor, captain, gardener, librarian,
    dentist, surgeon, poet, author, editor, reporter, senator, governor, mayor, director, coach,
    player, runner, swimmer, skater, child, client, patient, witness, expert, musician, pianist,
    drummer, plumber, mechanic, carpenter, waiter, clerk, secretary, guard, detective, professor,
    tutor, intern, hiker, camper, boxer, cyclist, jeweler, tailor, chemist, barber
traits: young, old, tall, clever, tired, nervous, famous, friendly, quiet, angry, polite,
    stubborn, cheerful, lonely, busy, honest, shy, proud, careful, new
women: Mary, Susan, Anna, Laura, Julia, Emma, Alice, Sarah, Helen, Karen, Linda, Diane, Rachel,
    Monica, Tina, Carla, Rosa, Amy, Nancy, Martha, Sophia, Kate, Irene, Paula, Ruth, Claire, Nina,
    Janet, Lucy, Vera
men: John, Peter, Paul, David, Tom, James, Robert, Mark, Kevin, Brian, Eric, Daniel, Martin,
    Frank, George, Henry, Jack, Adam, Victor, Simon, Carl, Oscar, Steven, Luke, Walter, Philip,
    Roger, Bruce, Ralph, Dennis
beside: near, behind, beside, across from, in front of, next to, close to
landmarks: window, door, car, truck, table, tree, gate, statue, fountain, tent, bench, bus,
    mailbox, boat, lamp, desk, pillar, wall, shelf, fence, piano, bicycle
states: tired, happy, late, ready, hungry, in trouble, famous, very proud, rather shy, quite old,
    on vacation, at home, afraid of spiders, good at chess, new in town, fond of music, often
    wrong, very kind, here today, unusually quiet, still angry, never bored
places: garden, kitchen, library, museum, castle, park, hotel, church, theater, harbor, village,
    office, classroom, palace, stadium, market, tower, cabin, studio, cafe, temple, tunnel, barn,
    cellar
times: yesterday, last week, this morning, in May, on Monday, last night, at noon, in the summer,
    after lunch, before dinner, two days ago, last year, every day that week, on the way home
messages: the plan, the problem, the accident, the rules, the secret, the news, the mistake, the
    trip, the deal, the concert, the exam, the rumor, the delay, the wedding, the budget, the
    results, the idea, the crime
some_many: these, those, many, two
only_one: this, that, every, one
questions: why, when
past_modals: could, would, should, might
seems: is, was, seems, looks, became, felt
topics: plan, idea, decision, report, project, proposal, speech, rule, offer, result
masses: luggage, money, bread, furniture, rice, music, advice, water, homework, equipment, sand,
    information, milk, traffic, salt, jewelry, software, sugar, butter, evidence, machinery, honey,
    snow, clothing, mail, flour, research, ink
qualities: old, new, small, large, expensive, strange, beautiful, heavy, famous, cheap, broken,
    simple, lovely, blue, green, white, clean, special, ordinary
modals: will, can, must, should
adverbs: already, probably, often, never, finally, just, secretly, quickly, certainly, also, once
    again, now
kinswomen: sister, daughter, mother, aunt, niece, grandmother
kinsmen: brother, son, father, uncle, nephew, grandfather
ladies: queen, waitress, actress, princess, duchess, nun, bride, wife, policewoman, businesswoman
gentlemen: king, butler, prince, duke, monk, groom, husband, policeman, businessman, waiter
"""

_VERBS = """
social: admire, help, trust, know, avoid, like, respect, visit, follow, call, watch, interview,
    praise, ignore, invite, thank, remember, support, criticize, meet, hire, blame, understand,
    envy, recommend, bother, impress, amuse, teach, represent, miss, see, hear, hug
reflexive: blame, hurt, hide, defend, introduce, cut, praise, criticize, convince, embarrass,
    describe, admire, help, surprise, excuse, injure, teach, burn, scare, ask
thinking: say, think, believe, claim, hope, know, suspect, hear, notice, announce, assume,
    mention, admit, swear, learn, dream
needs_object: praise, describe, mention, own, destroy, find, admire, reach, ignore, locate,
    inspect, protect, criticize, repair, demolish, avoid, abandon, occupy, overlook, like
no_object: sleep, laugh, smile, wait, arrive, vanish, sneeze, yawn, giggle, cough, faint, stumble,
    hesitate, complain, weep, kneel, nap, chat, stand, sit, disappear, shiver, grin, snore,
    cry, mumble, lie
asking: ask, wonder, inquire, know, discover, understand, forget
wanting: want, need, see, find, buy, expect, mention, notice, carry
with_gerund: enjoy, avoid, finish, suggest, practice, imagine, consider, postpone, resent, risk,
    deny, keep, recommend, delay, miss, admit
with_infinitive: want, hope, decide, agree, refuse, promise, manage, offer, fail, learn, hesitate,
    expect, pretend, wish, threaten, aim, prepare, struggle
"""

# A verb and the things that one does that to.
_DOINGS = """
read: book, letter, report, newspaper, poem, article, diary
write: book, letter, report, poem, song, play, speech
eat: cake, sandwich, apple, pizza, cookie, potato, pancake
drink: glass of milk, cup of tea, glass of water, bottle of juice
drive: car, truck, bus, taxi, van, tractor
break: window, glass, plate, chair, vase, cup
steal: car, painting, watch, necklace, bicycle, wallet
wear: hat, coat, sweater, uniform, scarf, jacket
hide: key, letter, box, gift, photo, diary
choose: hat, gift, color, ring, movie, dress
draw: picture, map, horse, circle, tree, face
see: movie, play, ship, garden, painting
take: photo, bus, taxi, train, picture, umbrella
throw: ball, stone, stick, snowball
sing: song, hymn, ballad
ride: horse, bicycle, camel, donkey
forget: name, address, key, umbrella, password
tear: shirt, letter, ticket, page, curtain
shake: bottle, tree, box, blanket
begin: project, meeting, lesson, speech
buy: house, car, hat, ticket, boat, farm
sell: house, car, boat, painting, farm
build: house, boat, bridge, wall, cabin
find: key, wallet, ring, map, coin
lose: key, wallet, ring, ticket, glove
hold: cup, rope, flag, candle, baby
catch: fish, ball, butterfly, thief
bring: cake, gift, chair, lamp, guitar
send: letter, package, gift, postcard
sweep: floor, kitchen, street, room
clean: kitchen, window, table, room, boat
repair: car, roof, bicycle, watch, clock
open: door, box, window, letter, gift
carry: bag, box, ladder, suitcase, basket
cook: meal, potato, fish, steak
paint: house, door, fence, portrait
cancel: meeting, trip, concert, order
solve: problem, puzzle, riddle, mystery
visit: museum, castle, farm, island
water: plant, flower, tree, garden
wash: car, shirt, plate, window
describe: house, painting, trip, dream
discuss: plan, book, movie, trip
borrow: book, car, ladder, pen
destroy: letter, wall, bridge, tower
fix: car, radio, fence, clock
order: pizza, cake, book, sandwich
deliver: package, pizza, letter, newspaper
"""

# Of these: the ones that may not lack their object, and the ones whose past and participle differ.
_STRICT = """
wear take buy find hold bring send repair carry solve describe discuss destroy fix
"""
_IRREGULAR = """
write eat drink drive break steal wear hide choose draw see take throw sing ride forget
tear shake begin
"""

# What `any` may stand before.
_STUFF = """
eat: soup, bread, cheese, rice, cake, fruit
drink: coffee, tea, milk, juice, water
buy: milk, bread, books, tickets, flowers, stamps
sell: books, cars, apples, houses
read: books, letters, poems, newspapers
write: letters, poems, songs, reports
make: mistakes, plans, promises, noise
find: mistakes, mushrooms, coins, evidence
know: songs, jokes, secrets, poems
see: birds, movies, mistakes, foxes
bring: flowers, gifts, food, wine
borrow: books, money, tools
"""

# A verb and what people do so.
_HABITS = """
sing: in the choir, very well, at weddings
work: hard, at night, in the city, for the museum
live: in the city, near the lake, on a farm
travel: by train, in the winter, with friends
sleep: on the sofa, very badly, in the tent
swim: every morning, in the lake, before breakfast
play: the violin, in a band, chess at home
laugh: at the jokes, very often
wait: at the station, for the bus, in the hall
cook: at home, for friends, without salt
dance: after dinner, at parties
speak: three languages, very slowly, at meetings
paint: on Sundays, in the garden
walk: to work, in the park, along the river
drive: to work, too fast, a red car
arrive: on time, before noon
complain: about the noise, about the food
run: in the park, before work
smile: at strangers, all the time
study: at night, in the library, old maps
write: short stories, in a diary
drink: green tea, too much coffee
eat: in the kitchen, very little meat
read: before bed, on the train
"""

# A verb, and what stands before its complement or cannot.
_PREPOSITIONS = """
depend: on, of, with
listen: to, of, with
laugh: at, of, to
believe: in, at, with
apologize: for, of, at
agree: with, of, from
suffer: from, at, to
worry: about, at, for
rely: on, of, at
object: to, of, on
stare: at, of, to
invest: in, of, at
care: for, at, from
benefit: from, at, to
insist: on, of, at
refer: to, of, at
participate: in, of, to
vote: for, of, to
focus: on, of, to
react: to, of, with
recover: from, at, of
glance: at, of, for
approve: of, on, with
comment: on, of, from
respond: to, of, from
disagree: with, of, on
dispose: of, with, to
disapprove: of, at, with
"""

_RELATIONS = """
author of: novel, play, poem, report, article
owner of: shop, restaurant, farm, dog, boat, hotel
leader of: club, band, party, team, group
member of: club, band, party, team, choir
driver of: truck, bus, taxi, van, tractor
friend of: teacher, singer, nurse, pilot, lawyer
teacher of: child, dancer, swimmer, pianist
parent of: student, player, actor, soldier
manager of: bank, store, factory, hotel, team
enemy of: king, governor, senator, mayor
student of: professor, painter, musician, chemist
guard of: palace, prison, museum, bank
cousin of: baker, dentist, writer, judge
fan of: singer, team, actor, band
editor of: newspaper, magazine, journal
rival of: boxer, runner, cyclist, skater
guest of: mayor, senator, queen, captain
"""

_COMPARATIVES = """
tall taller, old older, young younger, rich richer, strong stronger, smart smarter, kind kinder,
fast faster, quick quicker, loud louder, wise wiser, brave braver, calm calmer, short shorter,
funny funnier, happy happier, lucky luckier, busy busier, clever cleverer, weak weaker, poor
poorer, angry angrier, slow slower
"""


def plural(noun: str) -> str:
    """Return the plural of a noun; only the head of `cup of tea` changes."""
    head, space, rest = noun.partition(" of ")
    if head in _PLURALS:
        head = _PLURALS[head]
    elif head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head}{space}{rest}"


@dataclass(frozen=True)
class Verb:
    """The forms of a verb."""

    base: str

    @property
    def third(self) -> str:
        """`eats`."""
        if self.base.endswith("y") and self.base[-2] not in "aeiou":
            return self.base[:-1] + "ies"
        return self.base + ("es" if self.base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")

    @property
    def past(self) -> str:
        """`ate`."""
        return _FORMS[self.base][1] if self.base in _FORMS else self._regular

    @property
    def participle(self) -> str:
        """`eaten`."""
        return _FORMS[self.base][2] if self.base in _FORMS else self._regular

    @property
    def ing(self) -> str:
        """`eating`."""
        if self.base.endswith("ie"):
            return self.base[:-2] + "ying"
        if self.base.endswith("e") and not self.base.endswith(("ee", "oe")):
            return self.base[:-1] + "ing"
        return self._stem + "ing"

    @property
    def _regular(self) -> str:
        if self.base.endswith("e"):
            return self.base + "d"
        if self.base.endswith("y") and self.base[-2] not in "aeiou":
            return self.base[:-1] + "ied"
        return self._stem + "ed"

    @property
    def _stem(self) -> str:
        return self.base + self.base[-1] * (self.base in _DOUBLING)


Objects = tuple[tuple[Verb, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Lexicon:
    """Words by use; see the tables above."""

    words: dict[str, tuple[str, ...]]
    verbs: dict[str, tuple[Verb, ...]]
    doings: Objects
    irregular: Objects
    strict: Objects
    stuff: Objects
    relations: tuple[tuple[str, tuple[str, ...]], ...]
    """A head with its preposition, `owner of`, and what may follow."""
    habits: tuple[tuple[Verb, str], ...]
    comparatives: tuple[tuple[str, ...], ...]
    """`tall`, `taller`."""
    prepositions: tuple[tuple[Verb, tuple[str, ...]], ...]
    """A verb, its preposition, and two that it does not take."""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


def _table(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the rows `head: item, item`; an indented line goes on with the row above."""
    lines = text.strip().replace("\n    ", " ").splitlines()
    rows = (line.partition(": ") for line in lines)
    return [(head, _listed(rest)) for head, _, rest in rows]


_FORMS = {forms[0]: forms for forms in (row.split() for row in _listed(_FORMS_TEXT))}


def _lexicon() -> Lexicon:
    doings = tuple((Verb(head), things) for head, things in _table(_DOINGS))
    return Lexicon(
        words=dict(_table(_WORDS)),
        verbs={use: tuple(map(Verb, verbs)) for use, verbs in _table(_VERBS)},
        doings=doings,
        irregular=tuple(row for row in doings if row[0].base in _IRREGULAR.split()),
        strict=tuple(row for row in doings if row[0].base in _STRICT.split()),
        stuff=tuple((Verb(head), things) for head, things in _table(_STUFF)),
        relations=tuple(_table(_RELATIONS)),
        habits=tuple((Verb(head), rest) for head, rests in _table(_HABITS) for rest in rests),
        comparatives=tuple(tuple(pair.split()) for pair in _listed(_COMPARATIVES)),
        prepositions=tuple((Verb(head), forms) for head, forms in _table(_PREPOSITIONS)),
    )


LEXICON = _lexicon()
