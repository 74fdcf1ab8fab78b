"""Element-wise operators as a map's instructions.

`ELEMENTWISE` is a table: an ATen operator and how its result follows from its operands. A new activation is a
new line. An operand is a register (`Register`) or a Python float, which becomes an immediate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tacit.compiler.ir import registers_read
from tacit.plan.tape import Fn, MapInstruction

aten = torch.ops.aten


@dataclass(frozen=True)
class Register:
    number: int


Operand = Register | float


@dataclass(eq=False)
class Chain:
    """Instructions being written; registers 0..inputs-1 are the operands."""

    inputs: int
    instructions: list[MapInstruction] = field(default_factory=list[MapInstruction])

    def do(self, fn: Fn, a: Operand, b: Operand = 0.0, c: Operand = 0.0, imm: float = 0.0) -> Register:
        """One instruction; an operand that is a number is set into a register first."""
        takes = len(registers_read(MapInstruction(fn, 0)))
        registers = [self._register(operand).number for operand in (a, b, c)[:takes]] + [0] * (3 - takes)
        to = self.inputs + len(self.instructions)
        self.instructions.append(MapInstruction(fn, to, *registers, imm=imm))
        return Register(to)

    def _register(self, operand: Operand) -> Register:
        if isinstance(operand, Register):
            return operand
        return self.do(Fn.SET, 0.0, imm=operand)

    def add(self, a: Operand, b: Operand) -> Register:
        if isinstance(a, float):
            a, b = b, a
        return self.do(Fn.ADDI, a, imm=b) if isinstance(b, float) else self.do(Fn.ADD, a, b)

    def sub(self, a: Operand, b: Operand) -> Register:
        if isinstance(a, float):
            return self.add(self.do(Fn.NEG, b), a)
        return self.add(a, -b) if isinstance(b, float) else self.do(Fn.SUB, a, b)

    def mul(self, a: Operand, b: Operand) -> Register:
        if isinstance(a, float):
            a, b = b, a
        return self.do(Fn.MULI, a, imm=b) if isinstance(b, float) else self.do(Fn.MUL, a, b)

    def div(self, a: Operand, b: Operand) -> Register:
        if isinstance(b, float):
            return self.mul(a, 1.0 / b)
        return self.do(Fn.RECIPROCAL, b) if a == 1.0 else self.do(Fn.DIV, a, b)

    def madd(self, a: Operand, b: Operand, c: Operand) -> Register:
        return self.do(Fn.MADD, a, b, c)

    def scaled(self, a: Operand, factor: float) -> Operand:
        """a * factor, and a itself where the factor is one."""
        return a if factor == 1.0 else self.mul(a, factor)


def _sigmoid_backward(m: Chain, g: Operand, y: Operand) -> Operand:
    return m.mul(m.mul(g, y), m.add(m.do(Fn.NEG, y), 1.0))


def _tanh_backward(m: Chain, g: Operand, y: Operand) -> Operand:
    return m.mul(g, m.add(m.do(Fn.NEG, m.mul(y, y)), 1.0))


def _silu_backward(m: Chain, g: Operand, x: Operand) -> Operand:
    s = m.do(Fn.SIGMOID, x)
    return m.mul(m.mul(g, s), m.add(m.mul(x, m.add(m.do(Fn.NEG, s), 1.0)), 1.0))


def _leaky(m: Chain, x: Operand, slope: float = 0.01) -> Operand:
    return m.sub(m.do(Fn.RELU, x), m.mul(m.do(Fn.RELU, m.do(Fn.NEG, x)), slope))


def _leaky_backward(m: Chain, g: Operand, x: Operand, slope: float, _is_result: bool) -> Operand:
    through = m.do(Fn.GATE, g, x)
    return m.add(through, m.mul(m.sub(g, through), slope))


def _clamped(m: Chain, x: Operand, low: float = -1.0, high: float = 1.0) -> Operand:
    return m.do(Fn.MIN, m.do(Fn.MAX, x, low), high)


def _clamped_backward(m: Chain, g: Operand, x: Operand, low: float, high: float) -> Operand:
    above = m.do(Fn.GATE, g, m.sub(x, low) if low else x)
    return m.do(Fn.GATE, above, m.add(m.do(Fn.NEG, x), high))


def _elu(m: Chain, x: Operand, alpha: float = 1.0, scale: float = 1.0, inside: float = 1.0) -> Operand:
    below = m.mul(m.add(m.do(Fn.EXP, m.mul(x, inside)), -1.0), alpha)
    return m.scaled(m.do(Fn.SELECT, x, x, below), scale)


def _elu_backward(
    m: Chain, g: Operand, alpha: float, scale: float, inside: float, is_result: bool, x: Operand
) -> Operand | None:
    if is_result:
        return None
    below = m.mul(m.do(Fn.EXP, m.mul(x, inside)), alpha * inside)
    return m.mul(m.mul(g, m.do(Fn.SELECT, x, 1.0, below)), scale)


def _softplus(m: Chain, x: Operand, beta: float = 1.0, threshold: float = 20.0) -> Operand:
    z = m.scaled(x, beta)
    # log(1 + exp z) = max(z, 0) + log(1 + exp -|z|): nothing overflows
    tail = m.do(Fn.LOG, m.add(m.do(Fn.EXP, m.do(Fn.NEG, m.do(Fn.ABS, z))), 1.0))
    return m.scaled(m.add(m.do(Fn.RELU, z), tail), 1.0 / beta)


def _softplus_backward(m: Chain, g: Operand, x: Operand, beta: float, threshold: float) -> Operand:
    return m.mul(g, m.do(Fn.SIGMOID, m.scaled(x, beta)))


def _mish(m: Chain, x: Operand) -> Operand:
    return m.mul(x, m.do(Fn.TANH, _softplus(m, x)))


def _mish_backward(m: Chain, g: Operand, x: Operand) -> Operand:
    t = m.do(Fn.TANH, _softplus(m, x))
    slope = m.mul(m.mul(x, m.do(Fn.SIGMOID, x)), m.add(m.do(Fn.NEG, m.mul(t, t)), 1.0))
    return m.mul(g, m.add(t, slope))


def _hardsigmoid(m: Chain, x: Operand) -> Operand:
    return _clamped(m, m.add(m.mul(x, 1 / 6), 0.5), 0.0, 1.0)


def _inside(m: Chain, x: Operand, low: float, high: float) -> Operand:
    """1 where low < x < high, else 0."""
    return m.do(Fn.GATE, m.do(Fn.GATE, 1.0, m.add(x, -low)), m.add(m.do(Fn.NEG, x), high))


def _hardswish_backward(m: Chain, g: Operand, x: Operand) -> Operand:
    middle = m.mul(m.add(m.mul(x, 1 / 3), 0.5), _inside(m, x, -3.0, 3.0))
    above = m.do(Fn.GATE, 1.0, m.add(x, -3.0))
    return m.mul(g, m.add(middle, above))


SQRT_HALF, TANH_SCALE, TANH_CUBE = 0.5**0.5, (2 / math.pi) ** 0.5, 0.044715


def _gelu(m: Chain, x: Operand, approximate: str = "none") -> Operand:
    if approximate == "tanh":
        inner = m.mul(m.mul(x, m.add(m.mul(m.mul(x, x), TANH_CUBE), 1.0)), TANH_SCALE)
        return m.mul(m.mul(x, 0.5), m.add(m.do(Fn.TANH, inner), 1.0))
    return m.mul(m.mul(x, 0.5), m.add(m.do(Fn.ERF, m.mul(x, SQRT_HALF)), 1.0))


def _gelu_backward(m: Chain, g: Operand, x: Operand, approximate: str = "none") -> Operand:
    if approximate == "tanh":
        square = m.mul(x, x)
        t = m.do(Fn.TANH, m.mul(m.mul(x, m.add(m.mul(square, TANH_CUBE), 1.0)), TANH_SCALE))
        slope = m.mul(m.add(m.mul(square, 3 * TANH_CUBE), 1.0), TANH_SCALE)
        curve = m.mul(m.mul(m.add(m.do(Fn.NEG, m.mul(t, t)), 1.0), slope), x)
        return m.mul(g, m.mul(m.add(m.add(t, 1.0), curve), 0.5))
    share = m.mul(m.add(m.do(Fn.ERF, m.mul(x, SQRT_HALF)), 1.0), 0.5)
    density = m.mul(m.do(Fn.EXP, m.mul(m.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return m.mul(g, m.add(share, m.mul(x, density)))


def _sign(m: Chain, x: Operand) -> Operand:
    return m.sub(m.do(Fn.GATE, 1.0, x), m.do(Fn.GATE, 1.0, m.do(Fn.NEG, x)))


def _truth(a_above_b: bool, or_equal: bool) -> Callable[[Chain, Operand, Operand], Operand]:
    """Comparisons as 1 and 0."""

    def write(m: Chain, a: Operand, b: Operand) -> Operand:
        more, less = (a, b) if a_above_b else (b, a)
        if not or_equal:
            return m.do(Fn.GATE, 1.0, m.sub(more, less))
        return m.add(m.do(Fn.NEG, m.do(Fn.GATE, 1.0, m.sub(less, more))), 1.0)

    return write


def _equal(m: Chain, a: Operand, b: Operand) -> Operand:
    apart = m.sub(a, b)
    either = m.add(m.do(Fn.GATE, 1.0, apart), m.do(Fn.GATE, 1.0, m.do(Fn.NEG, apart)))
    return m.add(m.do(Fn.NEG, either), 1.0)


def _power(m: Chain, x: Operand, exponent: float) -> Operand | None:
    if exponent == 1.0:
        return x
    if exponent == 0.5:
        return m.do(Fn.SQRT, x)
    if exponent == -0.5:
        return m.do(Fn.RECIPROCAL, m.do(Fn.SQRT, x))
    if exponent == -1.0:
        return m.do(Fn.RECIPROCAL, x)
    if exponent in (2.0, 3.0, 4.0):
        square = m.mul(x, x)
        return square if exponent == 2.0 else m.mul(square, x if exponent == 3.0 else square)
    return None


# What each operator computes. None as a result: these particular arguments have no kernel.
ELEMENTWISE: Mapping[Any, Callable[..., Operand | None]] = {
    aten.add.Tensor: lambda m, a, b, alpha=1.0: m.add(a, m.scaled(b, alpha)),
    aten.add.Scalar: lambda m, a, b: m.add(a, b),
    aten.sub.Tensor: lambda m, a, b, alpha=1.0: m.sub(a, m.scaled(b, alpha)),
    aten.sub.Scalar: lambda m, a, b: m.sub(a, b),
    aten.rsub.Scalar: lambda m, a, b: m.add(m.do(Fn.NEG, a), b),
    aten.mul.Tensor: lambda m, a, b: m.mul(a, b),
    aten.mul.Scalar: lambda m, a, b: m.mul(a, b),
    aten.div.Tensor: lambda m, a, b: m.div(a, b),
    aten.div.Scalar: lambda m, a, b: m.div(a, b),
    aten.reciprocal.default: lambda m, a: m.do(Fn.RECIPROCAL, a),
    aten.neg.default: lambda m, a: m.do(Fn.NEG, a),
    aten.exp.default: lambda m, a: m.do(Fn.EXP, a),
    aten.log.default: lambda m, a: m.do(Fn.LOG, a),
    aten.sqrt.default: lambda m, a: m.do(Fn.SQRT, a),
    aten.rsqrt.default: lambda m, a: m.do(Fn.RECIPROCAL, m.do(Fn.SQRT, a)),
    aten.pow.Tensor_Scalar: _power,
    aten.relu.default: lambda m, a: m.do(Fn.RELU, a),
    aten.threshold_backward.default: lambda m, g, y, t: m.do(Fn.GATE, g, m.sub(y, t) if t else y),
    aten.tanh.default: lambda m, a: m.do(Fn.TANH, a),
    aten.tanh_backward.default: _tanh_backward,
    aten.sigmoid.default: lambda m, a: m.do(Fn.SIGMOID, a),
    aten.sigmoid_backward.default: _sigmoid_backward,
    aten.silu.default: lambda m, a: m.mul(a, m.do(Fn.SIGMOID, a)),
    aten.silu_backward.default: _silu_backward,
    aten.leaky_relu.default: _leaky,
    aten.leaky_relu_backward.default: _leaky_backward,
    aten.abs.default: lambda m, a: m.do(Fn.ABS, a),
    aten.sgn.default: _sign,
    aten.sign.default: _sign,
    aten.erf.default: lambda m, a: m.do(Fn.ERF, a),
    aten.log1p.default: lambda m, a: m.do(Fn.LOG, m.add(a, 1.0)),
    aten.square.default: lambda m, a: m.mul(a, a),
    aten.maximum.default: lambda m, a, b: m.do(Fn.MAX, a, b),
    aten.minimum.default: lambda m, a, b: m.do(Fn.MIN, a, b),
    aten.gelu.default: _gelu,
    aten.gelu_backward.default: _gelu_backward,
    aten.elu.default: _elu,
    aten.elu_backward.default: _elu_backward,
    aten.softplus.default: _softplus,
    aten.softplus_backward.default: _softplus_backward,
    aten.mish.default: _mish,
    aten.mish_backward.default: _mish_backward,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.hardsigmoid_backward.default: lambda m, g, x: m.mul(m.mul(g, 1 / 6), _inside(m, x, -3.0, 3.0)),
    aten.hardswish.default: lambda m, a: m.mul(a, _hardsigmoid(m, a)),
    aten.hardswish_backward.default: _hardswish_backward,
    aten.clamp.default: lambda m, a, low=None, high=None: _clamped(
        m, a, -math.inf if low is None else low, math.inf if high is None else high
    ),
    aten.clamp_min.default: lambda m, a, low: m.do(Fn.MAX, a, low),
    aten.addcmul.default: lambda m, a, b, c, value=1.0: m.add(a, m.scaled(m.mul(b, c), value)),
    aten.lerp.Tensor: lambda m, a, b, w: m.add(a, m.mul(w, m.sub(b, a))),
    aten.gt.Scalar: _truth(True, False),
    aten.ge.Scalar: _truth(True, True),
    aten.lt.Scalar: _truth(False, False),
    aten.le.Scalar: _truth(False, True),
    aten.gt.Tensor: _truth(True, False),
    aten.ge.Tensor: _truth(True, True),
    aten.lt.Tensor: _truth(False, False),
    aten.le.Tensor: _truth(False, True),
    aten.eq.Scalar: _equal,
    aten.eq.Tensor: _equal,
    aten.where.self: lambda m, c, a, b: m.do(Fn.SELECT, c, a, b),
    aten.masked_fill.Scalar: lambda m, a, c, value: m.do(Fn.SELECT, c, value, a),
    aten.masked_fill.Tensor: lambda m, a, c, value: m.do(Fn.SELECT, c, value, a),
    aten.logical_not.default: lambda m, a: m.add(m.do(Fn.NEG, a), 1.0),
    aten.logical_and.default: lambda m, a, b: m.mul(a, b),
    aten._to_copy.default: lambda m, a, **_: a,
    aten.hardtanh.default: _clamped,
    aten.hardtanh_backward.default: _clamped_backward,
}
