"""Plays tapes: the C library behind a few Python calls. Its sources are in `engine/` at the root."""

from tacit.engine.library import EngineMissing
from tacit.engine.player import Player
from tacit.engine.tape import TapeRefused, VerifiedTape
from tacit.engine.visit import NotFinite, WrongExamples

__all__ = ["EngineMissing", "NotFinite", "Player", "TapeRefused", "VerifiedTape", "WrongExamples"]
