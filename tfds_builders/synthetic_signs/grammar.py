"""The language of the drawn signers: glosses in signed order, and their English sentence.

The signed order is roughly that of Indian Sign Language: time, subject, object (noun, adjectives,
number), verb, negation, and the question at the end:

    (TIME) SUBJECT (SUBJECT) (OBJECT (ADJECTIVE)* (NUMBER)) VERB (NOT) (Q | WHAT | WHO)

English has another order and adds what signs leave out (articles, auxiliaries, number, agreement,
case, tense), so a model must have seen the complete clip to write the second word. The sentence is
a function of the glosses: nothing in it is random.
"""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from signvit_jax.errors.base import SignVitError

TIMES = {"YESTERDAY": "yesterday", "TOMORROW": "tomorrow"}
PEOPLE = {  # gloss -> (as the subject, as the object)
    "I": ("i", "me"),
    "YOU": ("you", "you"),
    "MOTHER": ("mother", "mother"),
    "FATHER": ("father", "father"),
    "TEACHER": ("the teacher", "the teacher"),
}
THINGS = {  # gloss -> (singular, plural)
    "BOOK": ("book", "books"),
    "APPLE": ("apple", "apples"),
    "HOUSE": ("house", "houses"),
    "CUP": ("cup", "cups"),
}
# In English order: "big red", for any order of the signs.
ADJECTIVES = {"BIG": "big", "RED": "red"}
NUMBERS = {"TWO": "two", "MANY": "many"}
VERBS = {  # gloss -> (base form, third person, past)
    "BUY": ("buy", "buys", "bought"),
    "SEE": ("see", "sees", "saw"),
    "LIKE": ("like", "likes", "liked"),
    "SLEEP": ("sleep", "sleeps", "slept"),
}
TAKES_PEOPLE = ("SEE", "LIKE")  # verbs whose object can be a person
QUESTIONS = ("Q", "WHAT", "WHO")  # ask for yes or no, for the object, for the subject
GLOSSES = (*TIMES, *PEOPLE, *THINGS, *ADJECTIVES, *NUMBERS, *VERBS, "NOT", *QUESTIONS)
MAX_GLOSSES = 6
# The glosses, the most useful first. A smaller vocabulary consists of the first ones: with
# MIN_SIGNS or more there are sentences for each split.
BY_USE = (
    *("I", "BOOK", "SEE", "MOTHER", "LIKE", "NOT", "HOUSE", "Q", "BUY", "YESTERDAY", "BIG", "YOU"),
    *(
        "APPLE",
        "TOMORROW",
        "TEACHER",
        "MANY",
        "WHO",
        "RED",
        "FATHER",
        "CUP",
        "TWO",
        "WHAT",
        "SLEEP",
    ),
)
MIN_SIGNS = 12


class GrammarError(SignVitError, ValueError):
    """A sequence of glosses that is not a sentence."""


def translate(glosses: Sequence[str]) -> str:
    """Return the English sentence, in lower case without punctuation, for `glosses`.

    Raises GrammarError if there is none.
    """
    rest = list(glosses)

    def refuse(why: str) -> GrammarError:
        return GrammarError(f"no sentence for {' '.join(glosses)!r}: {why}")

    time = rest.pop(0) if rest and rest[0] in TIMES else ""
    question = rest.pop() if rest and rest[-1] in QUESTIONS else ""
    negated = bool(rest) and rest[-1] == "NOT"
    if negated:
        rest.pop()
    verb = rest.pop() if rest else ""
    if verb not in VERBS:
        raise refuse(f"a verb ({', '.join(VERBS)}) is expected in place of {verb or 'nothing'}")

    num_people = next((i for i, gloss in enumerate(rest) if gloss not in PEOPLE), len(rest))
    people, thing = rest[:num_people], rest[num_people:]
    if verb == "SLEEP" or question == "WHAT":
        if thing or (verb == "SLEEP" and question == "WHAT"):
            raise refuse("there is one object too many")
        target = ""
    elif thing:
        target = _noun_phrase(thing)
    elif people and verb in TAKES_PEOPLE:
        target = PEOPLE[people.pop()][1]
    else:
        raise refuse(f"{verb} lacks its object")
    if (question == "WHO") == bool(people) or len(people) > 2 or len(set(rest)) < len(rest):
        raise refuse("one or two different subjects are needed, and none with WHO")

    subject, agreement = _subject(people)
    return " ".join(
        filter(None, _clause(subject, agreement, verb, target, time, negated, question))
    )


def _noun_phrase(glosses: list[str]) -> str:
    noun, *rest = glosses
    number = rest.pop() if rest and rest[-1] in NUMBERS else ""
    if (
        noun not in THINGS
        or any(gloss not in ADJECTIVES for gloss in rest)
        or len(set(rest)) < len(rest)
    ):
        raise GrammarError(
            f"no object in {' '.join(glosses)!r}: allowed: a noun, then adjectives, then a number"
        )
    words = [english for gloss, english in ADJECTIVES.items() if gloss in rest] + [
        THINGS[noun][bool(number)]
    ]
    article = NUMBERS.get(number) or ("an" if words[0][0] in "aeiou" else "a")
    return " ".join([article, *words])


def _subject(people: list[str]) -> tuple[str, str]:
    """Return the words of the subject, and whether its verb is in the "base" or "third" person.

    The subject is "who" without people.
    """
    if not people:
        return "who", "third"
    # English names "you" first and "i" last.
    polite = sorted(people, key=lambda gloss: (gloss == "I", gloss != "YOU"))
    agreement = "base" if len(people) == 2 or people[0] in ("I", "YOU") else "third"
    return " and ".join(PEOPLE[gloss][0] for gloss in polite), agreement


def _clause(
    subject: str, agreement: str, verb: str, target: str, time: str, negated: bool, question: str
) -> list[str]:
    """Return the words and phrases of the sentence in English order; some of them are ""."""
    base, third, past = VERBS[verb]
    auxiliary = {"YESTERDAY": "did", "TOMORROW": "will"}.get(time) or (
        "does" if agreement == "third" else "do"
    )
    when, not_ = TIMES.get(time, ""), "not" if negated else ""
    if question in ("Q", "WHAT"):
        return ["what" if question == "WHAT" else "", auxiliary, subject, not_, base, target, when]
    if negated or auxiliary == "will":
        return [subject, auxiliary, not_, base, target, when]
    present = third if agreement == "third" else base
    return [subject, past if time == "YESTERDAY" else present, target, when]


def split_of(text: str) -> str:
    """Return the split of a sentence: of 10 sentences about 8 train, 1 validation, 1 test.

    It depends on the sentence alone, not on the seed of a data set.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest, "big") % 10, "train")


def draw_glosses(
    rng: np.random.Generator,
    split: str,
    num_signs: int = len(GLOSSES),
    max_glosses: int = MAX_GLOSSES,
) -> tuple[str, ...]:
    """Draw a sentence of 2 to `max_glosses` glosses that belongs to `split`.

    Its glosses are among the first `num_signs` of `BY_USE`. The types of sentences are balanced so
    that no gloss is rare.
    """
    allowed = frozenset(BY_USE[:num_signs])
    while True:
        glosses = _draw_any(rng)
        if (
            len(glosses) <= max_glosses
            and allowed.issuperset(glosses)
            and split_of(translate(glosses)) == split
        ):
            return glosses


def _draw_any(rng: np.random.Generator) -> tuple[str, ...]:
    verb = _pick(rng, VERBS, (0.3, 0.3, 0.3, 0.1))
    question = _pick(rng, ("", *QUESTIONS), (0.52, 0.2, 0.14, 0.14))
    if verb == "SLEEP" and question == "WHAT":
        question = "Q"
    people = rng.permutation(list(PEOPLE)).tolist()
    subjects = [] if question == "WHO" else people[: _pick(rng, (1, 2), (0.7, 0.3))]
    target: list[str] = []
    if verb != "SLEEP" and question != "WHAT":
        if verb in TAKES_PEOPLE and rng.random() < 0.3:
            target = [people[-1]]
        else:
            adjectives = _pick(
                rng,
                ((), ("BIG",), ("RED",), ("BIG", "RED"), ("RED", "BIG")),
                (0.4, 0.25, 0.25, 0.05, 0.05),
            )
            target = [
                _pick(rng, THINGS),
                *adjectives,
                *([_pick(rng, NUMBERS)] if rng.random() < 0.5 else []),
            ]
    time = [_pick(rng, TIMES)] if rng.random() < 0.5 else []
    negation = ["NOT"] if rng.random() < 0.3 else []
    return (*time, *subjects, *target, verb, *negation, *([question] if question else []))


def _pick[Option](
    rng: np.random.Generator, options: Iterable[Option], shares: Sequence[float] | None = None
) -> Option:
    """Draw one of the options, uniformly or by shares that add up to 1.

    It takes a tenth of the time of `rng.choice`.
    """
    options = tuple(options)
    if shares is None:
        return options[int(rng.random() * len(options))]
    limits = list(itertools.accumulate(shares))
    number = bisect.bisect(limits, rng.random())
    return options[min(number, len(options) - 1)]  # the shares may add up to slightly less than 1
