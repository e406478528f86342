import re

import pytest

from nblib.methods.catalogue import METHODS, parts
from nblib.results import questions


def names(pairs):
    return {part for pair in pairs for name in pair for part in parts(name)}


@pytest.mark.parametrize("data", ["nih", "phantom", "places"])
def test_a_set_is_asked_about_known_methods_and_about_each_pair_once(data):
    pairs = [pair for question in questions.asked_of(data) for pair in question.pairs]
    assert len(set(pairs)) == len(pairs) > 8 and names(pairs) <= set(METHODS)
    assert questions.pairs_of(data).total() == len(pairs)


def test_a_set_with_questions_of_its_own_is_asked_no_others():
    assert set(questions.pairs_of("places")) == {"where place decides"}
    assert set(questions.pairs_of("nih")) == set(questions.KNOWN) - {"where place decides"}
    asked = questions.asked_of("nih") + questions.asked_of("places")
    assert sorted(asked) == sorted(questions.QUESTIONS)


def test_the_thesis_question_asks_of_every_encoding_in_each_form_and_of_swin():
    asked = [q for q in questions.asked_of("nih") if q.family == questions.THESIS]
    pairs = [pair for question in asked for pair in question.pairs]
    built = {n for n, entry in METHODS.items() if re.match(r"3[1-5]|40", entry.notebook)}
    assert {method for method, _ in pairs} == built | {"sagan_place_acts"} and len(pairs) == 10
    for method, against in pairs:
        assert against in METHODS[method].against  # what it was made from, one thing apart


def test_of_every_family_it_is_said_what_was_known():
    assert set(questions.KNOWN) == {question.family for question in questions.QUESTIONS}
