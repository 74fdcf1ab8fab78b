"""What this machine says about itself. psutil is asked if it is installed, and nothing is required."""

import importlib
from typing import Any

from tacit.device.decision import Conditions


def read_conditions() -> Conditions:
    """The conditions now; what cannot be read is None.

    >>> isinstance(read_conditions(), Conditions)
    True
    """
    battery = _battery()
    if battery is None:
        return Conditions()
    return Conditions(battery=battery.percent / 100, charging=bool(battery.power_plugged))


def _battery() -> Any:
    try:
        # By name, so that the device neither needs psutil nor pays for it when it is not asked.
        psutil = importlib.import_module("psutil")
    except ImportError:
        return None
    read = getattr(psutil, "sensors_battery", None)  # absent on some systems
    return None if read is None else read()
