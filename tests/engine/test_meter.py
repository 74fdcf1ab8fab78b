"""Watts from folders that look like the system's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tacit.engine.meter import Watts, measured_watts, meter_of


@dataclass
class Machine:
    """A machine that takes 2 watts at rest and 5 at work, and writes it where a meter is read."""

    write: Callable[[float, float], None]  # joules so far, watts now
    now: float = 0.0
    joules: float = field(default=0.0)

    def spend(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.joules += seconds * watts
        self.write(self.joules, watts)

    def measured(self, folder: Path) -> Watts | None:
        return measured_watts(
            lambda: self.spend(0.25, 5.0), rest=lambda s: self.spend(s, 2.0), clock=lambda: self.now, folder=folder
        )


def counter(folder: Path, number: int, name: str, *, wraps: int = 10**9) -> Path:
    zone = folder / "powercap" / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text("0\n")
    (zone / "max_energy_range_uj").write_text(f"{wraps}\n")
    return zone


def battery(folder: Path, status: str = "Discharging") -> Path:
    place = folder / "power_supply" / "BAT0"
    place.mkdir(parents=True)
    (place / "type").write_text("Battery\n")
    (place / "status").write_text(f"{status}\n")
    return place


def test_the_energy_counter_gives_watts_at_rest_and_at_work(tmp_path: Path):
    zone = counter(tmp_path, 0, "package-0")

    watts = Machine(lambda joules, _: _count(zone, joules)).measured(tmp_path)

    assert watts == Watts(pytest.approx(2.0), pytest.approx(5.0), "RAPL, processor")


def test_a_counter_that_begins_anew_is_read_on(tmp_path: Path):
    zone = counter(tmp_path, 0, "package-0", wraps=4 * 10**6)

    watts = Machine(lambda joules, _: _count(zone, joules % 4)).measured(tmp_path)

    assert watts == Watts(pytest.approx(2.0), pytest.approx(5.0), "RAPL, processor")


def test_the_counter_of_the_platform_is_preferred_to_that_of_the_processor(tmp_path: Path):
    counter(tmp_path, 0, "package-0")
    counter(tmp_path, 1, "psys")

    meter = meter_of(tmp_path)

    assert meter is not None
    assert meter.name == "RAPL, platform"


def test_a_draining_battery_gives_watts(tmp_path: Path):
    place = battery(tmp_path)
    (place / "power_now").write_text("2000000\n")

    watts = Machine(lambda _, now: _write(place / "power_now", now)).measured(tmp_path)

    assert watts is not None
    assert watts.rest == pytest.approx(2.0)
    assert watts.work == pytest.approx(5.0, rel=0.1)  # the first sample is still of the rest


def test_a_battery_with_current_and_voltage_gives_watts(tmp_path: Path):
    place = battery(tmp_path)
    (place / "voltage_now").write_text("4000000\n")
    (place / "current_now").write_text("-500000\n")

    meter = meter_of(tmp_path)

    assert meter is not None
    assert meter.read() == pytest.approx(2.0)


def test_a_battery_being_charged_says_nothing(tmp_path: Path):
    place = battery(tmp_path, "Charging")
    (place / "power_now").write_text("2000000\n")

    assert meter_of(tmp_path) is None


def test_where_nothing_meters_there_are_no_watts(tmp_path: Path):
    assert measured_watts(lambda: None, folder=tmp_path) is None


def _count(zone: Path, joules: float) -> None:
    (zone / "energy_uj").write_text(f"{round(1e6 * joules)}\n")


def _write(path: Path, watts: float) -> None:
    path.write_text(f"{round(1e6 * watts)}\n")
