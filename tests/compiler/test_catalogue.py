"""The page that lists what can be compiled says what the tables say."""

from tacit.compiler.catalogue import PAGE, page


def test_the_page_of_operators_is_written_from_the_tables() -> None:
    assert PAGE.read_text() == page(), "run python -m tacit.compiler.catalogue"
