from nblib.results import questions


def test_every_question_names_methods_and_each_pair_once():
    from nblib.methods.catalogue import METHODS

    pairs = [pair for question in questions.QUESTIONS for pair in question.pairs]
    assert len(set(pairs)) == len(pairs) and {n for pair in pairs for n in pair} <= set(METHODS)
