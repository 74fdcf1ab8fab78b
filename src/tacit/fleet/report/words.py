"""Numbers as people read them: in the unit that fits."""

from math import isfinite

Ladder = tuple[tuple[str, float], ...]

SECONDS: Ladder = (("ms", 1e-3), ("s", 1), ("min", 60), ("h", 3600), ("days", 86_400))
BYTES: Ladder = (("B", 1), ("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3), ("TiB", 1024**4))
JOULES: Ladder = (("mJ", 1e-3), ("J", 1), ("kJ", 1e3), ("MJ", 1e6), ("GJ", 1e9))


def unit(value: float, ladder: Ladder) -> tuple[str, float]:
    """The largest unit that there are two of, and how much it is.

    >>> unit(90, SECONDS), unit(7200, SECONDS), unit(0, BYTES)
    (('s', 1), ('h', 3600), ('B', 1))
    """
    least = next(step for step in ladder if step[1] >= 1)
    if not value:
        return least
    fitting = [step for step in ladder if value >= (2 if ladder is SECONDS and step[1] > 1 else 1) * step[1]]
    return fitting[-1] if fitting else ladder[0]


def text(value: float, ladder: Ladder) -> str:
    """Three digits and a unit.

    >>> text(90, SECONDS), text(5400, SECONDS), text(1536, BYTES), text(2_500, JOULES), text(0, JOULES)
    ('90 s', '90 min', '1.5 KiB', '2.5 kJ', '0 J')
    """
    name, per = unit(value, ladder)
    return f"{number(value / per)} {name}"


def number(value: float) -> str:
    """Three digits at least, and never an exponent.

    >>> number(1234.5), number(0.12345), number(12.0), number(float("nan"))
    ('1,234', '0.123', '12', 'not a number')
    """
    if not isfinite(value):
        return "not a number" if value != value else "∞" if value > 0 else "−∞"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = f"{value:.3g}"
    return digits if "e" not in digits else f"{value:.12f}".rstrip("0").rstrip(".")


def rounded(value: float) -> str:
    """Two digits, for what is not known better.

    >>> rounded(153.4), rounded(0.0784), rounded(2.27)
    ('150', '0.078', '2.3')
    """
    return number(float(f"{value:.2g}"))


def share(value: float) -> str:
    """A share of one.

    >>> share(0.8417), share(1.0)
    ('84.2 %', '100 %')
    """
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def change(value: float, before: float) -> str:
    """How much less or more than before: what is less by percent, what is more by how many times.

    >>> change(5, 100), change(300, 100), change(104, 100), change(1, 0), change(0.1, 1000), change(0, 7)
    ('−95 %', '3 ×', '+4 %', '', '−99.99 %', '−100 %')
    """
    if before <= 0 or value == before:
        return ""
    ratio = value / before
    if ratio >= 2:
        return f"{number(ratio)} ×"
    if ratio > 1:
        return f"+{100 * (ratio - 1):.0f} %"
    # Among savings of 99 % and more the digits behind it are what differs.
    digits = 0 if ratio >= 0.02 or not ratio else 1 if ratio >= 0.002 else 2
    return f"−{100 * (1 - ratio):.{digits}f} %"


def points(value: float, before: float) -> str:
    """How many points a share is above or below another.

    >>> points(0.861, 0.87), points(0.9, 0.87), points(0.87, 0.87)
    ('−0.9 points', '+3.0 points', '')
    """
    text = f"{100 * (value - before):+.1f}"
    return "" if float(text) == 0 else f"{text.replace('-', '−')} points"


def setting(value: object) -> str:
    """A setting.

    >>> setting(None), setting(True), setting(0.5), setting(1000), setting("plan")
    ('none', 'yes', '0.5', '1,000', 'plan')
    """
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return number(value)
        case int():
            return f"{value:,}"
        case _:
            return str(value)
