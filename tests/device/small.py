"""A model small enough to be written by hand: softmax regression, as real tapes in a real Plan.

With `prefix=True` the inputs are copied by a prefix tape and kept, so both ways of training are there.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tacit.device.link import JoinLink
from tacit.device.settings import JoinSettings
from tacit.keyholder.keys import new_card
from tacit.plan.bundle import build_plan, parse_plan, playable_blobs
from tacit.plan.evaluating import Evaluating, evaluation_of
from tacit.plan.layout import TensorPlace
from tacit.plan.program import Field, KeptTensor, Optimizer, Playable, Program, Resources
from tacit.plan.tape import (
    Accumulate,
    Fn,
    Kind,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    counted,
    encode,
    loss_parameters,
    map_parameters,
    up,
)
from tests.factory import World, make_world

FEATURES, CLASSES, MICROBATCH = 4, 3, 4
WEIGHT_BYTES, BIAS_BYTES = 4 * 16 * FEATURES, 4 * 16
STATE_BYTES = WEIGHT_BYTES + BIAS_BYTES
X_BYTES, Z_BYTES = 4 * MICROBATCH * FEATURES, 4 * MICROBATCH * CLASSES
D = CLASSES * FEATURES + CLASSES
UNLESS_FIRST = Accumulate.UNLESS_FIRST


def _linear(source: Region, target: Operand) -> Record:
    shape = (MICROBATCH, 1, 1, FEATURES, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, CLASSES, 0, 0)
    weight, bias = (
        Operand(Region.STATE, 0, WEIGHT_BYTES),
        Operand(Region.STATE, WEIGHT_BYTES, BIAS_BYTES),
    )
    return Record(Op.CONV, (target, None, Operand(source, 0, X_BYTES), weight, bias), shape)


def _tapes(prefix: bool) -> dict[Kind, bytes]:
    source = Region.KEPT if prefix else Region.X
    z, dz = Operand(Region.ARENA, 0, Z_BYTES), Operand(Region.ARENA, 64, Z_BYTES)
    y, weight = Operand(Region.Y, 0, 4 * MICROBATCH), Operand(Region.WEIGHT, 0, 4 * MICROBATCH)
    x = Operand(source, 0, X_BYTES)
    divisor, loss, rate = (Operand(region, 0, 4) for region in (Region.DIVISOR, Region.LOSS, Region.RATE))
    shape = (MICROBATCH, 1, 1, FEATURES, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, CLASSES, 0, 0)
    state = Operand(Region.STATE, 0, STATE_BYTES)
    gradient = Operand(Region.GRADIENT, 0, STATE_BYTES)
    step = MapProgram(
        total=STATE_BYTES // 4,
        channels=STATE_BYTES // 4,
        rows=1,
        inputs=(MapInput(Mode.LINEAR), MapInput(Mode.LINEAR), MapInput(Mode.SCALAR)),
        instructions=(MapInstruction(Fn.NEG, 3, 2), MapInstruction(Fn.MADD, 4, 1, 3, 0)),
        outputs=(4,),
    )
    copy = MapProgram(
        total=MICROBATCH * FEATURES,
        channels=FEATURES,
        rows=1,
        inputs=(MapInput(Mode.LINEAR),),
        instructions=(MapInstruction(Fn.MULI, 1, 0, imm=1.0),),
        outputs=(1,),
    )
    records: dict[Kind, tuple[Record, ...]] = {
        Kind.TRAIN: (
            _linear(source, z),
            Record(
                Op.CROSS_ENTROPY, (loss, dz, z, y, weight, divisor), loss_parameters(MICROBATCH, CLASSES), UNLESS_FIRST
            ),
            Record(
                Op.CONV_WEIGHT_GRADIENT,
                (Operand(Region.GRADIENT, 0, WEIGHT_BYTES), None, x, dz),
                shape,
                UNLESS_FIRST,
            ),
            Record(
                Op.SUM,
                (Operand(Region.GRADIENT, WEIGHT_BYTES, BIAS_BYTES), dz),
                (1, MICROBATCH, CLASSES, 1065353216),
                UNLESS_FIRST,
            ),
        ),
        Kind.APPLY: (Record(Op.MAP, (state, state, gradient, rate), map_parameters(step)),),
        Kind.EVALUATE: (
            _linear(Region.X, z),
            Record(
                Op.CROSS_ENTROPY_SCORE,
                (Operand(Region.OUTPUT, 0, 8 * MICROBATCH), z, y, weight),
                loss_parameters(MICROBATCH, CLASSES)[:4],
            ),
        ),
        Kind.PREDICT: (_linear(Region.X, Operand(Region.OUTPUT, 0, Z_BYTES)),),
    }
    if prefix:
        kept = Operand(Region.KEPT, 0, X_BYTES)
        records[Kind.PREFIX] = (Record(Op.MAP, (kept, Operand(Region.X, 0, X_BYTES)), map_parameters(copy)),)
    return {kind: encode(counted(Tape(kind, _regions(listed), listed))) for kind, listed in records.items()}


def _regions(records: tuple[Record, ...]) -> dict[Region, int]:
    sizes: dict[Region, int] = {}
    for operand in (operand for record in records for operand in record.operands if operand):
        end = up(operand.offset + operand.extent, 64)
        sizes[operand.region] = max(sizes.get(operand.region, 0), end)
    return sizes


def playable(prefix: bool = False, rate: float = 0.1) -> Playable:
    """Softmax regression of 4 features and 3 classes, in micro-batches of 4."""
    program = Program(
        runtime="tape/1",
        microbatch=MICROBATCH,
        d=D,
        places=(
            TensorPlace("fc.weight", (CLASSES, FEATURES), "dense", "state", 0),
            TensorPlace("fc.bias", (CLASSES,), "vector", "state", WEIGHT_BYTES),
        ),
        inputs=(Field("x", (FEATURES,), "float32", 0),),
        label=Field("y", (), "int32", 0, classes=CLASSES),
        kept=(KeptTensor("x", 0, 4 * FEATURES),) if prefix else (),
        output_shape=(CLASSES,),
        optimizer=Optimizer(rate),
        resources=Resources(128, 64, 128, 640, 384, 0, 0, 16 if prefix else 0, "fc", 48, 4096),
    )
    return Playable(program, _tapes(prefix), np.zeros(0, np.uint8), np.zeros(D, np.float32))


def learning_world(
    folder: Path, prefix: bool = False, rate: float = 0.1, minibatch: int = 6, epochs: int = 1, **rules: Any
) -> World:
    """A world of `tests.factory` whose Plan learns: its rules are those of `make_plan`."""
    world = make_world(folder, d=D, **rules)
    model = playable(prefix, rate)
    local = msgspec.structs.replace(world.plan.manifest.local, minibatch=minibatch, epochs=epochs)
    return with_plan(world, model, program=model.program, local=local)


def with_plan(world: World, model: Playable, **changes: Any) -> World:
    """The world with another Plan: this model, and a manifest with these changes."""
    manifest = msgspec.structs.replace(world.plan.manifest, **changes)
    data = build_plan(manifest, world.plan.charter, playable_blobs(model), world.author)
    world.plan_file.write_bytes(data)
    return replace(world, plan=parse_plan(data))


def judged_world(
    folder: Path, evaluators: int = 50, how: Evaluating | None = None, **rules: Any
) -> tuple[World, World]:
    """A world whose charter has an evaluation cohort, and the same world with the Plan that judges its Snapshots."""
    world = learning_world(folder, **rules)
    charter = msgspec.structs.replace(world.plan.charter, evaluators=evaluators)
    data = build_plan(world.plan.manifest, charter, playable_blobs(world.plan.playable()), world.author)
    world.plan_file.write_bytes(data)
    trained = replace(world, plan=parse_plan(data))
    count = len(world.plan.manifest.keyholders)
    cards = [new_card(world.keyholder_home(j), "http://127.0.0.1:1", os.urandom) for j in range(1, count + 1)]
    manifest, blobs = evaluation_of(trained.plan, cards, how or Evaluating(batch=4))
    made = build_plan(manifest, charter, blobs, world.author)
    (folder / "eval.tacit").write_bytes(made)
    return trained, replace(world, plan=parse_plan(made), file="eval.tacit")


def examples(count: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """Three clouds that a linear model can tell apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.normal(0, 0.3, (count, FEATURES)) + np.eye(CLASSES, FEATURES)[y] * 2
    return {"x": x.astype(np.float32), "y": y.astype(np.int32)}


def save_examples(path: Path, count: int = 20, seed: int = 0) -> Path:
    np.savez(path, allow_pickle=False, **examples(count, seed))
    return path


def link_to(world: World, port: int) -> JoinLink:
    return JoinLink(False, "127.0.0.1", port, world.plan.plan_id, world.author.public)


def settings_for(world: World, port: int, home: Path, data: Path, **changes: Any) -> JoinSettings:
    """A device that grants the Plan everything it asks for."""
    base = JoinSettings(str(link_to(world, port)), data, home, poll=0.05, allow_mu2=1e14)
    return replace(base, **changes)
