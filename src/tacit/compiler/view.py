"""How PyTorch sees a block of memory: transposed, flattened, split, with axes of size one, repeated.

A `View` says, for each dimension PyTorch knows, how memory runs along it: atoms of (size, stride), outermost
first, strides in elements, 0 where what is there repeats. Permuting, flattening, splitting and expanding change
the view and never the memory, so none of them is an operation. Atoms of size one are dropped and neighbours
that run on are joined, so two views of the same memory are alike exactly when their atoms are equal.

A micro-batch is traced with `EXAMPLES` examples, whatever its size will be: the example axis is always the
outermost of memory, never of size one, and a single trace serves every size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tacit.compiler.ir import Value

# How many examples a traced micro-batch has. A prime that no layer's width is a multiple of by accident: a
# tensor made inside the module with this size in its shape was made for the whole micro-batch.
EXAMPLES = 509

Atom = tuple[int, int]
Dims = tuple[tuple[Atom, ...], ...]

# Which axis of `[N, H, W, C]` runs along each of PyTorch's dimensions, by their number.
USUAL = {4: (0, 3, 1, 2), 3: (0, 2, 3), 2: (0, 3), 1: (0,)}


@dataclass(frozen=True)
class View:
    """A value as PyTorch sees it; `shape` counts EXAMPLES examples."""

    value: Value
    shape: tuple[int, ...]
    dims: Dims
    offset: int = 0  # the element of memory where it begins


def joined(atoms: Iterable[Atom]) -> tuple[Atom, ...]:
    """Without atoms of size one, and with those that run on as one.

    >>> joined([(7, 56), (7, 8), (1, 5)])
    ((49, 8),)
    """
    found: list[Atom] = []
    for size, stride in atoms:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def row_strides(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next, in row-major order.

    >>> row_strides((4, 7, 7, 8))
    [392, 56, 8, 1]
    """
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def traced_shape(value: Value) -> tuple[int, ...]:
    """The value's shape with EXAMPLES examples."""
    return (EXAMPLES, *value.shape[1:]) if value.batched else value.shape


def view_of(value: Value, axes: Sequence[int]) -> View:
    """The value with axis `axes[i]` of its memory as PyTorch's dimension i.

    >>> from tacit.plan.tape import Region
    >>> view_of(Value("x", (4, 28, 28, 1), Region.X), (0, 3, 1, 2)).dims
    (((509, 784),), (), ((28, 28),), ((28, 1),))
    """
    shape = traced_shape(value)
    strides = row_strides(shape)
    return View(value, tuple(shape[a] for a in axes), tuple(joined([(shape[a], strides[a])]) for a in axes))


def whole(value: Value) -> View:
    """A value as its memory is: dimension i is axis i."""
    return view_of(value, range(len(value.shape)))


def image_view(value: Value) -> View:
    """`[N, H, W, C]` as PyTorch's (N, C, H, W)."""
    return view_of(value, USUAL[4])


def permute(view: View, order: Sequence[int]) -> View:
    """The dimensions in another order."""
    rank = len(view.shape)
    shape, dims = (tuple(of[i % rank] for i in order) for of in (view.shape, view.dims))
    return replace(view, shape=shape, dims=dims)


def expand(view: View, shape: Sequence[int]) -> View:
    """Dimensions of size one repeated, new ones in front; -1 keeps a dimension."""
    missing = len(shape) - len(view.shape)
    old = (1,) * missing + view.shape
    dims = ((),) * missing + view.dims
    sizes = tuple(o if s == -1 else s for o, s in zip(old, shape, strict=True))
    dims = tuple(d if o == s else joined([(s, 0)]) for d, o, s in zip(dims, old, sizes, strict=True))
    return replace(view, shape=sizes, dims=dims)


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """The same elements in other dimensions, or None where no strides describe that.

    >>> from tacit.plan.tape import Region
    >>> x = image_view(Value("x", (4, 7, 7, 8), Region.ARENA))
    >>> reshape(x, (EXAMPLES, -1)).dims
    (((509, 392),), ((8, 1), (49, 8)))
    """
    known = math.prod(size for size in shape if size != -1)
    sizes = tuple(math.prod(view.shape) // known if size == -1 else size for size in shape)
    atoms = [atom for d in view.dims for atom in d]
    dims: list[tuple[Atom, ...]] = []
    for wanted in sizes:
        taken: list[Atom] = []
        left = wanted
        while left > 1:
            if not atoms:
                return None
            size, stride = atoms.pop(0)
            if size <= left:
                if left % size:
                    return None
                taken.append((size, stride))
                left //= size
            else:  # the outer part of an atom belongs here, the inner part to the next dimension
                if size % left:
                    return None
                inner = size // left
                taken.append((left, stride * inner))
                atoms.insert(0, (inner, stride))
                left = 1
        dims.append(joined(taken))
    return None if atoms else replace(view, shape=sizes, dims=tuple(dims))


def squeeze(view: View, dims: Sequence[int]) -> View:
    """Without the given dimensions where their size is one."""
    gone = {d % len(view.shape) for d in dims}
    keep = [i for i in range(len(view.shape)) if i not in gone or view.shape[i] != 1]
    return replace(view, shape=tuple(view.shape[i] for i in keep), dims=tuple(view.dims[i] for i in keep))


def unsqueeze(view: View, dim: int) -> View:
    """With a dimension of size one at `dim`."""
    at = dim % (len(view.shape) + 1)
    shape, dims = ((*of[:at], one, *of[at:]) for of, one in ((view.shape, 1), (view.dims, ())))
    return replace(view, shape=shape, dims=dims)


def narrow(view: View, dim: int, start: int, count: int, step: int = 1) -> View | None:
    """A range of one dimension, or None where no strides describe it.

    >>> from tacit.plan.tape import Region
    >>> found = narrow(whole(Value("x", (4, 6), Region.ARENA)), 1, 2, 3)
    >>> found.shape, found.dims, found.offset
    ((509, 3), (((509, 6),), ((3, 1),)), 2)
    """
    at = dim % len(view.shape)
    atoms = list(view.dims[at])
    shape = (*view.shape[:at], count, *view.shape[at + 1 :])
    if (start, count) == (0, view.shape[at]) and step == 1:
        return view
    if count == 1:  # one index, taken apart into an index of every atom
        offset, rest = view.offset, start
        for size, stride in reversed(atoms):
            offset, rest = offset + rest % size * stride, rest // size
        return replace(view, shape=shape, dims=(*view.dims[:at], (), *view.dims[at + 1 :]), offset=offset)
    inner = math.prod(size for size, _ in atoms[1:])
    if step == 1 and len(atoms) > 1 and start % inner == 0 and count % inner == 0:
        stride = atoms[0][1]
        taken = [(count // inner, stride), *atoms[1:]]
        offset = view.offset + start // inner * stride
    elif len(atoms) == 1:
        stride = atoms[0][1]
        taken, offset = [(count, stride * step)], view.offset + start * stride
    else:
        return None
    return replace(view, shape=shape, dims=(*view.dims[:at], joined(taken), *view.dims[at + 1 :]), offset=offset)


def elements(view: View) -> int:
    """How many different elements it sees."""
    return math.prod(size for d in view.dims for size, stride in d if stride)


def is_usual(view: View) -> bool:
    """Whether memory is in the usual order: (N, C, H, W) as `[N, H, W, C]`, everything else row by row."""
    memory = [view.shape[0], *view.shape[2:], view.shape[1]] if len(view.shape) == 4 else list(view.shape)
    strides = row_strides(memory)
    if len(view.shape) == 4:
        strides = [strides[0], strides[3], strides[1], strides[2]]
    every = math.prod(view.shape) == math.prod(traced_shape(view.value))
    return every and view.dims == tuple(joined([atom]) for atom in zip(view.shape, strides, strict=True))


def is_turned(view: View) -> bool:
    """Whether this is a whole matrix transposed; one of a single element is both."""
    return len(view.value.shape) == len(view.shape) == 2 and view == permute(whole(view.value), (1, 0))


def runs_over_examples(view: View, dim: int) -> bool:
    """Whether this dimension begins with the example axis."""
    if not view.value.batched or not view.dims[dim]:
        return False
    size, stride = view.dims[dim][0]
    return stride > 0 and size % EXAMPLES == 0 and size * stride == math.prod(traced_shape(view.value))


def aligned(view: View, main: View) -> list[tuple[int, int, int]] | None:
    """Both views, of the same shape, cut into common pieces: (size, stride in `view`, stride in `main`)."""
    pieces: list[tuple[int, int, int]] = []
    for mine, others in zip(view.dims, main.dims, strict=True):
        # Innermost first, so that the rest of a cut atom begins where the cut ended.
        a, b = list(reversed(mine)), list(reversed(others))
        while a and b:
            (size, stride), (other, pace) = a.pop(0), b.pop(0)
            least, most = min(size, other), max(size, other)
            if most % least:
                return None
            pieces.append((least, stride, pace))
            if size > least:
                a.insert(0, (size // least, stride * least))
            if other > least:
                b.insert(0, (other // least, pace * least))
        if a or b:
            return None
    return pieces
