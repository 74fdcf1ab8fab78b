"""Clip, mask, seal, noise, account: pure functions.

Randomness is an argument, `random: Callable[[int], bytes]`, in every function but one: the ephemeral
key of a seal is drawn by the cryptography library from the operating system.
"""
