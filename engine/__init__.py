"""The engine in C; Python here only compiles it."""
