"""From a PyTorch module to a `Playable`: trace, lower, fuse, order, place, emit.

The only room that may import torch. Each module is one station of the path, in this order: `trace` (PyTorch's
graph), `lower` with `operators` and `elementwise` (our graph, `ir`), `fuse`, `split` (the prefix), `order`,
`arena`, `emit` (bytes). `rules` is what is true of a graph after every pass. `compile` walks the path, `choose`
picks the subset, `explain` says what was done.
"""

from tacit.compiler.developer import DeveloperPlan, open_plan

__all__ = ["DeveloperPlan", "open_plan"]
