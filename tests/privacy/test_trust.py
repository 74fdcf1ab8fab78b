"""Trust is computed from keys, never claimed."""

from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.trust import Trust, sentence, trust_of

KEYS = [bytes([i]) * 32 for i in range(6)]
keyholders = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True)
directories = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["uni", "union", "clinic"]))


@given(keyholders)
def test_without_a_directory_everybody_is_the_operator(keys):
    """I14: a keyholder outside the device's directory counts as embedded."""
    assert trust_of(keys, {}) is Trust.SINGLE_OPERATOR


@given(keyholders, directories)
def test_trust_counts_the_operators_of_the_keyholders_that_are_in_the_directory(keys, directory):
    operators = {operator for key, operator in directory.items() if key in keys}

    assert (
        trust_of(keys, directory)
        == ([Trust.SINGLE_OPERATOR, Trust.TWO_PARTY, Trust.THREE_PARTY][min(len(operators), 2)])
    )


def test_two_keys_of_one_operator_are_one_party():
    assert trust_of(KEYS[:2], {KEYS[0]: "uni", KEYS[1]: "uni"}) is Trust.TWO_PARTY


def test_the_single_operator_sentence_is_the_protocols_word_for_word():
    assert sentence(Trust.SINGLE_OPERATOR) == (
        "Single-operator mode: whoever runs this server can unmask individual updates. Encryption here exercises "
        "the protocol; it does not protect you from the operator."
    )


def test_no_sentence_promises_security_or_privacy():
    for trust in Trust:
        assert not {"secure", "private", "safe", "anonymous"} & set(sentence(trust).lower().split())
