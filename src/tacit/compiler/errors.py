"""What the compiler refuses, and what to do about it."""

from tacit.errors import InputError, TacitError


class NotLowered(InputError):
    """The module uses something there is no kernel for. Nothing was compiled.

    >>> str(NotLowered("aten.gelu.default", "head.act (GELU)", "Use nn.ReLU or nn.SiLU instead."))
    'head.act (GELU) uses aten.gelu.default, which tacit cannot compile. Use nn.ReLU or nn.SiLU instead.'

    `line` is the developer's own, as file:line, where there is one.
    """

    def __init__(self, operator: str, module: str, remedy: str, line: str = ""):
        self.operator, self.module, self.remedy, self.line = operator, module, remedy, line
        at = f" ({line})" if line else ""
        super().__init__(f"{module} uses {operator}{at}, {self.why}. {remedy}")

    why = "which tacit cannot compile"


class PaddingNotExact(NotLowered):
    """Examples of a micro-batch meet, so that padding it would change what is learnt from the others.

    >>> str(PaddingNotExact("aten.sub.Tensor", "norm (Centred)", "Look at one.", "net.py:12"))[:73]
    'norm (Centred) uses aten.sub.Tensor (net.py:12), which mixes the examples'
    """

    why = "which mixes the examples of a micro-batch: padding it would not be exact"


class NotTraceable(InputError):
    """The module does not run, or not without looking at the values of an example."""


class WrongSubset(InputError):
    """A name in the subset is not a parameter, or does not influence the loss."""


class NothingFits(InputError):
    """Even the smallest subset is over the limits."""


class RuleBroken(TacitError):
    """A pass of the compiler made an illegal graph: a mistake in tacit, not in the module."""

    def __init__(self, after: str, rule: str, where: str):
        self.after, self.rule, self.where = after, rule, where
        super().__init__(
            f'after "{after}" the compiler\'s graph breaks the rule "{rule}": {where}. This is a mistake in tacit; '
            "please report it with the module that shows it."
        )
