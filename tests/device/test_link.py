"""A join link is taken whole or refused with the part that is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.device.link import JoinLink, LinkRefused, parse_link

PLAN, AUTHOR = "0a" * 32, "ff" * 32
hosts = st.sampled_from(["127.0.0.1", "example.org", "a-b.example", "::1", "fe80::2"])
links = st.builds(
    JoinLink,
    st.booleans(),
    hosts,
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.one_of(st.just(""), st.text("AZaz09-_", min_size=1, max_size=200)),
)


@given(links)
def test_a_link_written_is_the_link_read(link: JoinLink):
    assert parse_link(str(link)) == link


def test_an_invitation_is_not_shown_by_accident():
    assert "secret" not in repr(parse_link(f"http://example.org/join/{PLAN}?author={AUTHOR}#invite=secret"))


def test_space_around_a_link_is_what_pasting_leaves():
    assert parse_link(f"  http://example.org:8080/join/{PLAN}?author={AUTHOR}\n").port == 8080


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("", "it does not begin with http:// or https://"),
        (f"ftp://example.org/join/{PLAN}?author={AUTHOR}", "it does not begin with http:// or https://"),
        (f"http:///join/{PLAN}?author={AUTHOR}", "it names no host"),
        (f"http://user@example.org/join/{PLAN}?author={AUTHOR}", "it names no host"),
        (f"http://example.org:port/join/{PLAN}?author={AUTHOR}", "its address cannot be read"),
        (f"http://example.org:99999/join/{PLAN}?author={AUTHOR}", "its address cannot be read"),
        (f"http://example.org/{PLAN}?author={AUTHOR}", "its path is"),
        (f"http://example.org/other/join/{PLAN}?author={AUTHOR}", "its path is"),
        (f"http://example.org/join/{PLAN[:-1]}?author={AUTHOR}", "64 hex digits and this one has 63 characters"),
        (f"http://example.org/join/{'x' * 64}?author={AUTHOR}", "64 hex digits"),
        (f"http://example.org/join/{PLAN}", "it does not name the Plan's author"),
        (f"http://example.org/join/{PLAN}?author={AUTHOR}&author={PLAN}", "it does not name the Plan's author once"),
        (f"http://example.org/join/{PLAN}?author={AUTHOR}#top", "what comes after # is no invitation"),
        (f"http://example.org/join/{PLAN}?author={AUTHOR}#invite=", "what comes after # is no invitation"),
        (f"http://example.org/join/{PLAN}?author={AUTHOR}#invite=a b", "what comes after # is no invitation"),
        (f"http://example.org/join/{PLAN}?author=", "64 hex digits and this one has 0 characters"),
    ],
)
def test_what_is_no_link_is_refused_with_the_part_that_is_wrong(link: str, why: str):
    with pytest.raises(LinkRefused) as refused:
        parse_link(link)

    assert why in str(refused.value)
    assert refused.value.exit_code == 2
