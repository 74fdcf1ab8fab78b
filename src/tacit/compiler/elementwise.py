"""Element-wise operators as a map's instructions.

`ELEMENTWISE` is a table: an ATen operator and how its result follows from its operands. A new activation is a
new line. An operand is a register (`Register`) or a Python float, which becomes an immediate.
"""

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
    return m.do(Fn.GATE, m.do(Fn.GATE, g, m.sub(x, low)), m.add(m.do(Fn.NEG, x), high))


def _power(m: Chain, x: Operand, exponent: float) -> Operand | None:
    if exponent == 1.0:
        return x
    if exponent == 0.5:
        return m.do(Fn.SQRT, x)
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
    aten.hardtanh.default: _clamped,
    aten.hardtanh_backward.default: _clamped_backward,
}
