"""The messages, their canonical bytes, and their signatures. No I/O and no clock.

Two kinds of bytes leave a party. *Envelopes* are MessagePack and carry fields only. *Preimages* are
what is hashed, signed and bound: fixed-layout big-endian bytes that begin with a label, never a
re-encoded envelope, so nobody's serialiser takes part in a signature.
"""
