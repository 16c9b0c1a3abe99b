"""The embedded task: English acceptability, made by code, so that a demo needs no network.

Each row is one half of a minimal pair in the schema of GLUE's CoLA (`sentence`, `label` 0
unacceptable or 1 acceptable, `idx`). Nearly every word is equally likely in either class, so a bag
of words learns little: what decides is which word depends on which. Both halves of a pair are in
one split. Half of the words of each longer list are never so used in the training sentences: of
those a model has to know from its pretraining what they can do. The sentences are ours, under the
licence of this package.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bertcompress.data.demo.lexicon import LEXICON, Verb, plural

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["PHENOMENA", "Pair", "acceptability", "make_pairs"]

Item = TypeVar("Item")

TRAIN_ROWS = 4_000
VALIDATION_ROWS = 1_000

# Plural subjects and women are this frequent where number and gender decide. With even shares no
# single word is a place to start from, and some seeds leave all of that at chance for epochs.
_MAJORITY = 0.7


@dataclass(frozen=True)
class Pair:
    """An acceptable sentence and its unacceptable neighbour."""

    phenomenon: str
    good: str
    bad: str


class _Speaker:
    """Picks words; every draw comes from one generator, so a seed gives one corpus.

    While `teaching`, it keeps every other word of a longer list to itself.
    """

    def __init__(self, rng: random.Random, *, teaching: bool) -> None:
        self.rng = rng
        self.teaching = teaching

    def pick(self, items: Sequence[Item]) -> Item:
        """As in real text, few words are used often, most seldom: a tenth half of the time.

        Afterwards all alike, so that what was never taught has its share.
        """
        if not self.teaching:
            return self.rng.choice(items)
        known = items if len(items) < 9 else items[::2]
        return known[int(len(known) * self.rng.random() ** 3)]

    def word(self, kind: str) -> str:
        return self.pick(LEXICON.words[kind])

    def verb(self, kind: str) -> Verb:
        return self.pick(LEXICON.verbs[kind])

    def chance(self, probability: float = 0.5) -> bool:
        return self.rng.random() < probability

    def person(self, many: bool, *, adjective: float = 0.2) -> str:
        noun = self.word("people")
        before = f"{self.word('traits')} " if self.chance(adjective) else ""
        return f"the {before}{plural(noun) if many else noun}"

    def name(self) -> str:
        return self.word("women" if self.chance() else "men")

    def subject(self) -> str:
        """A person in the singular, by name or not."""
        return self.name() if self.chance(0.3) else self.person(False)

    def doing(self) -> tuple[Verb, str]:
        """A verb and a thing that one does that to: `read`, `the letter`."""
        verb, things = self.pick(LEXICON.doings)
        return verb, f"the {self.pick(things)}"

    def predicate(self, many: bool) -> tuple[str, str]:
        """Something said of people, in the right and in the wrong number."""
        rest = self.word("states")
        one, more = ("is", "are") if self.chance(0.75) else ("was", "were")
        right, wrong = (more, one) if many else (one, more)
        return f"{right} {rest}", f"{wrong} {rest}"


Sentences = tuple[str, str]
Maker = Callable[[_Speaker], Sentences]


def _plain_subject(s: _Speaker) -> Sentences:
    """`The young pilots are/is late`."""
    many = s.chance(_MAJORITY)
    right, wrong = s.predicate(many)
    subject = s.person(many, adjective=0.3)
    return f"{subject} {right}.", f"{subject} {wrong}."


def _modified_subject(s: _Speaker) -> Sentences:
    """`The owner of the boats is/are tired`."""
    many = s.chance(_MAJORITY)
    if s.chance():
        head, others = s.pick(LEXICON.relations)
        noun, link = head.split()
        start, other = f"the {plural(noun) if many else noun} {link}", s.pick(others)
    else:
        start, other = f"{s.person(many)} {s.word('beside')}", s.word("landmarks")
    # In two of five the nearer noun misleads.
    subject = f"{start} the {plural(other) if s.chance(0.4) != many else other}"
    right, wrong = s.predicate(many)
    return f"{subject} {right}.", f"{subject} {wrong}."


def _relative_subject(s: _Speaker) -> Sentences:
    """`The nurse that the pilots admire is/are late`."""
    many = s.chance(_MAJORITY)
    other_many = s.chance(0.4) != many
    verb, other = s.verb("social"), s.person(other_many, adjective=0.0)
    if s.chance():
        clause = f"that {other} {verb.base if other_many else verb.third}"
    else:
        clause = f"who {verb.base if many else verb.third} {other}"
    right, wrong = s.predicate(many)
    subject = f"{s.person(many)} {clause}"
    return f"{subject} {right}.", f"{subject} {wrong}."


def _reflexive(s: _Speaker) -> Sentences:
    """`The sister of the singers hurt herself`, `Paul said that the queen hurt herself`."""
    woman = s.chance(_MAJORITY)
    own, foreign = ("herself", "himself") if woman else ("himself", "herself")
    kin, lady = ("kinswomen", "ladies") if woman else ("kinsmen", "gentlemen")
    one = s.word(lady if s.chance() else kin)
    other = s.word("men" if woman else "women")
    frame = s.rng.randrange(7)
    if frame <= 1:
        subject = s.word("women" if woman else "men")
    elif frame == 2:
        subject = f"the {one}"
    elif frame == 3:
        subject, foreign = f"the {s.word(kin)} of {s.person(True)}", "themselves"
    elif frame == 4:
        subject, own, foreign = f"the {plural(one)}", "themselves", own
    elif frame == 5:
        subject = f"the {one} that {other} {s.verb('social').past}"
    else:
        subject = f"{other} {s.verb('thinking').past} that the {one}"
    act = s.verb("reflexive").past
    return f"{subject} {act} {own}.", f"{subject} {act} {foreign}."


def _polarity(s: _Speaker) -> Sentences:
    """`No guest that the cook knew has ever`; not `the guest that no cook knew has ever`."""
    head = other = s.word("people")
    while other == head:
        other = s.word("people")
    social = s.verb("social")
    if s.chance():
        many = s.chance()
        head, other = (plural(head), plural(other)) if many else (head, other)
        verb, thing = s.doing()
        tail = f"{social.past} {'have' if many else 'has'} ever {verb.participle} {thing}"
        return f"no {head} that the {other} {tail}.", f"the {head} that no {other} {tail}."
    verb, things = s.pick(LEXICON.stuff)
    some = f"any {s.pick(things)}"
    return (
        f"the {head} who {social.past} the {other} did not {verb.base} {some}.",
        f"the {head} who did not {social.base} the {other} {verb.past} {some}.",
    )


def _transitivity(s: _Speaker) -> Sentences:
    """`Praised the garden`, `slept in the garden`; not `slept the`, `praised in the garden`."""
    place = s.word("places")
    subject = s.person(s.chance(), adjective=0.35)
    when = f" {s.word('times')}" if s.chance(0.6) else ""
    needs, refuses = s.verb("needs_object").past, s.verb("no_object").past
    if s.chance():
        return f"{subject} {needs} the {place}{when}.", f"{subject} {refuses} the {place}{when}."
    return f"{subject} {refuses} in the {place}{when}.", f"{subject} {needs} in the {place}{when}."


def _complement(s: _Speaker) -> Sentences:
    """`Enjoyed reading`, `hoped to read`; not `enjoyed to read`, `hoped reading`."""
    verb, thing = s.doing()
    subject = s.subject()
    gerund, infinitive = f"{verb.ing} {thing}", f"to {verb.base} {thing}"
    if s.chance():
        head = s.verb("with_gerund").past
        return f"{subject} {head} {gerund}.", f"{subject} {head} {infinitive}."
    head = s.verb("with_infinitive").past
    return f"{subject} {head} {infinitive}.", f"{subject} {head} {gerund}."


def _determiner(s: _Speaker) -> Sentences:
    """`These old letters`; not `these old letter`."""
    verb, thing = s.doing()
    noun = thing.removeprefix("the ")
    many = s.chance()
    determiner = s.word("some_many" if many else "only_one")
    adjective = f"{s.word('qualities')} " * s.chance(0.5)
    right, wrong = (plural(noun), noun) if many else (noun, plural(noun))
    tail = f" {s.word('times')}" if s.chance(0.6) else ""
    start = f"{s.subject()} {verb.past} {determiner} {adjective}"
    return f"{start}{right}{tail}.", f"{start}{wrong}{tail}."


def _gap(s: _Speaker) -> Sentences:
    """`What did she say that he took?`, `did she say that he took the hat?`: one gap or none."""
    verb, noun = s.pick(LEXICON.strict)
    thing = f"the {s.pick(noun)}"
    start = f"did {s.subject()} {s.verb('thinking').base} that {s.person(s.chance())} {verb.past}"
    if s.chance():
        return f"what {start}?", f"what {start} {thing}?"
    return f"{start} {thing}?", f"{start}?"


def _verb_form(s: _Speaker) -> Sentences:
    """`Has already eaten`, `will soon eat`, `is eating`; not `has already ate`, `will eaten`."""
    verb, thing = s.pick(LEXICON.irregular)
    many = s.chance(0.3)
    forms = {
        "have" if many else "has": verb.participle,
        s.word("modals"): verb.base,
        "are" if many else "is": verb.ing,
        "": verb.past,
    }
    helper = s.rng.choice(list(forms))
    wrong = s.rng.choice(
        [form for form in forms.values() if form not in (forms[helper], verb.base)]
    )
    adverb = s.word("adverbs") if s.chance(0.3) else ""
    start = " ".join(filter(None, (s.person(many, adjective=0.4), helper, adverb)))
    end = f"the {s.pick(thing)}"
    return f"{start} {forms[helper]} {end}.", f"{start} {wrong} {end}."


def _question_order(s: _Speaker) -> Sentences:
    """`Why were the boys late?`, `he asked why the boys were late`; not the other way round."""
    many = s.chance()
    subject = s.person(many)
    helper = ("were" if many else "was") if s.chance() else s.word("past_modals")
    verb, rest = s.pick(LEXICON.habits)
    act = f"{verb.ing if helper in ('was', 'were') else verb.base} {rest}"
    question = s.word("questions")
    direct = f"{question} {helper} {subject} {act}"
    indirect = f"{question} {subject} {helper} {act}"
    if s.chance():
        return f"{direct}?", f"{indirect}?"
    asker = f"{s.subject()} {s.verb('asking').past}"
    return f"{asker} {indirect}.", f"{asker} {direct}."


def _preposition(s: _Speaker) -> Sentences:
    """`Depended on the plan`; not `depended of the plan`."""
    verb, (right, *others) = s.pick(LEXICON.prepositions)
    wrong = s.rng.choice(others)
    start = f"{s.person(s.chance(), adjective=0.3)} {verb.past}"
    end = f"the {s.word('topics')}" + f" {s.word('times')}" * s.chance(0.3)
    return f"{start} {right} {end}.", f"{start} {wrong} {end}."


def _mass_noun(s: _Speaker) -> Sentences:
    """`Did not need a ladder`, `much luggage`; not `much ladder`, `a luggage`."""
    things = s.pick(LEXICON.doings)[1]
    counted = s.chance()
    noun = s.pick(things) if counted else s.word("masses")
    article = "an" if noun[0] in "aeiou" else "a"
    right, wrong = (article, "much") if counted else ("much", article)
    start = f"{s.subject()} did not {s.verb('wanting').base}"
    end = f" {s.word('times')}" * s.chance(0.3)
    return f"{start} {right} {noun}{end}.", f"{start} {wrong} {noun}{end}."


def _pronoun_case(s: _Speaker) -> Sentences:
    """`Said that he and the nurse had left`, `praised him and the nurse`."""
    subject_form, object_form = s.rng.choice(
        (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"))
    )
    start, other = s.subject(), s.person(s.chance(), adjective=0.0)
    if s.chance():
        verb, thing = s.doing()
        start = f"{start} {s.verb('thinking').past} that"
        frame = f"{start} {{}} and {other} had {verb.participle} {thing}."
        return frame.format(subject_form), frame.format(object_form)
    frame = f"{start} {s.verb('social').past} {{}} and {other} because of {s.word('messages')}."
    return frame.format(object_form), frame.format(subject_form)


def _comparison(s: _Speaker) -> Sentences:
    """`Taller than`, `as tall as`; not `taller as`, `as tall than`."""
    plain, more = s.pick(LEXICON.comparatives)
    start = f"{s.person(False, adjective=0.3)} {s.word('seems')}"
    end = s.person(s.chance(), adjective=0.3)
    if s.chance():
        return f"{start} {more} than {end}.", f"{start} {more} as {end}."
    return f"{start} as {plain} as {end}.", f"{start} as {plain} than {end}."


PHENOMENA: dict[str, Maker] = {
    "agreement_plain": _plain_subject,
    "agreement_modified_subject": _modified_subject,
    "agreement_relative_clause": _relative_subject,
    "reflexive": _reflexive,
    "negative_polarity": _polarity,
    "transitivity": _transitivity,
    "verb_complement": _complement,
    "determiner_noun": _determiner,
    "filler_gap": _gap,
    "verb_form": _verb_form,
    "question_order": _question_order,
    "comparison": _comparison,
    "preposition": _preposition,
    "mass_noun": _mass_noun,
    "pronoun_case": _pronoun_case,
}
"""Name to the function that makes one pair."""


def make_pairs(count: int, seed: int, *, taught: int | None = None) -> list[Pair]:
    """Return `count` pairs, the phenomena in equal shares, no sentence twice.

    Words that are held back do not occur in the first `taught` pairs (default: in none).
    """
    speaker = _Speaker(random.Random(seed), teaching=True)
    pairs: list[Pair] = []
    seen: set[str] = set()
    names = list(PHENOMENA)
    while len(pairs) < count:
        speaker.teaching = taught is None or len(pairs) < taught
        name = names[len(pairs) % len(names)]
        good, bad = (text[0].upper() + text[1:] for text in PHENOMENA[name](speaker))
        if good == bad or not seen.isdisjoint((good, bad)):
            continue
        seen.update((good, bad))
        pairs.append(Pair(name, good, bad))
    return pairs


def acceptability(seed: int = 2026) -> DatasetDict:
    """Return the embedded data set: splits train and validation; columns sentence, label, idx."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features(
        {
            "sentence": Value("string"),
            "label": ClassLabel(names=["unacceptable", "acceptable"]),
            "idx": Value("int32"),
        }
    )
    taught = TRAIN_ROWS // 2
    pairs = make_pairs(taught + VALIDATION_ROWS // 2, seed, taught=taught)
    # The last pairs: phenomena take turns, so both splits hold all of them in equal shares.
    parts = {"train": pairs[:taught], "validation": pairs[taught:]}
    rng = random.Random(seed)
    splits = {}
    for split, members in parts.items():
        rows = [row for pair in members for row in ((pair.bad, 0), (pair.good, 1))]
        rng.shuffle(rows)
        sentences, labels = map(list, zip(*rows, strict=True))
        splits[split] = Dataset.from_dict(
            {"sentence": sentences, "label": labels, "idx": list(range(len(rows)))},
            features=features,
        )
    return DatasetDict(splits)
