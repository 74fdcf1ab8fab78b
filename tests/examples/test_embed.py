"""Programs that embed the engine train what Python trains: the same tapes, examples and order, another language."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import tacit
from engine import build as engine_build
from tacit.cli import main
from tacit.engine.player import Player
from tacit.plan.bundle import build_plan, read_plan
from tacit.plan.manifest import OnDevice
from tests.compiled import AUTHOR, assembled
from tests.engine.elsewhere import NODE, QEMU, need_ziglang
from tests.factory import make_world

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/embed"
EXAMPLES, CLASSES, SEED = 23, 4, 20261121
Command = list[str | Path]
NO_LEAKS = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the program ends with its memory, as programs may


class Net(nn.Module):
    """A little of all that a visit meets: an image and tokens, a frozen prefix, every form of tensor, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Conv2d(2, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.second, self.words = nn.Conv2d(20, 36, 3, groups=2), nn.Embedding(11, 5)
        self.dropout, self.third, self.head = nn.Dropout(0.25), nn.Linear(36 * 4, 18), nn.Linear(18 + 5, 4)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        h = self.each(self.first(x).relu()).relu()
        h = nn.functional.max_pool2d(self.second(h).relu(), 2)
        h = self.dropout(self.third(h.flatten(1)).relu())
        return self.head(torch.cat([h, self.words(words).mean(dim=1)], dim=1))


def task() -> tacit.Task:
    return tacit.Task(
        name="embedded",
        model=Net,
        example={
            "x": tacit.array((2, 6, 6)),
            "words": tacit.array((3,), dtype="int32"),
            "y": tacit.label(CLASSES),
            "weight": tacit.weight(),
        },
        subset=["each", "second", "words", "third", "head"],
        local=tacit.Local(epochs=3, minibatch=10, microbatch=4, dropout=True, proximal=0.1),
        budget=tacit.Budget(memory="2 MiB", upload="64 KiB"),
        privacy=tacit.Privacy(noise=0.1, devices=4, batch=2, threshold=2),
    )


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = assembled(task())
    path = tmp_path_factory.mktemp("plan") / "embedded.tacit"
    path.write_bytes(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    return path


@pytest.fixture(scope="module")
def parts(plan_file: Path) -> Path:
    folder = plan_file.with_name("parts")
    assert main(["export", str(plan_file), str(folder)]) == 0
    return folder


def some_examples() -> dict[str, NDArray]:
    random = np.random.default_rng(7)
    return {
        "x": random.standard_normal((EXAMPLES, 2, 6, 6)).astype(np.float32),
        "words": random.integers(0, 11, (EXAMPLES, 3)).astype(np.int32),
        "y": random.integers(0, CLASSES, EXAMPLES).astype(np.int32),
        "weight": random.choice([0.5, 1.0, 2.0], EXAMPLES).astype(np.float32),
    }


@pytest.fixture(scope="module")
def examples_file(plan_file: Path) -> Path:
    path = plan_file.with_name("examples")
    path.write_bytes(np.uint32(EXAMPLES).tobytes() + b"".join(array.tobytes() for array in some_examples().values()))
    return path


def shuffled(epochs: int) -> list[list[int]]:
    """The programs' order: xorshift32 from SEED on."""
    word, orders = SEED, list[list[int]]()
    for _ in range(epochs):
        order = [0] * EXAMPLES
        for i in range(EXAMPLES):
            word ^= word << 13 & 0xFFFFFFFF
            word ^= word >> 17
            word ^= word << 5 & 0xFFFFFFFF
            order[i], order[word % (i + 1)] = order[word % (i + 1)], i
        orders.append(order)
    return orders


@pytest.fixture(scope="module")
def by_python(plan_file: Path) -> NDArray[np.float32]:
    """The delta of the Player's own steps."""
    plan = read_plan(plan_file)
    player, local, data = Player(plan.playable()), plan.manifest.local, some_examples()
    inputs = {name: data[name] for name in ("x", "words")}
    player.reseed(SEED)
    for order in shuffled(local.epochs):
        for start in range(0, EXAMPLES, local.minibatch):
            part = np.array(order[start : start + local.minibatch])
            player.train_minibatch(inputs, data["y"], part, plan.manifest.program.optimizer.rate, data["weight"])
    return player.snapshot() - plan.playable().initial


def test_the_plan_is_one_that_asks_for_everything(plan_file: Path, by_python: NDArray[np.float32]):
    manifest = read_plan(plan_file).manifest

    assert manifest.program.kept and manifest.program.d == len(by_python) and np.abs(by_python).max() > 0.01
    assert [(field.channels_last, field.dtype) for field in manifest.program.inputs] == [
        (True, "float32"),
        (False, "int32"),
    ]
    trained = {place.form: place for place in manifest.program.places if place.place == "state"}
    assert sorted(trained) == ["conv", "dense", "rows", "vector"]
    assert any(place.image for place in manifest.program.places)


@pytest.fixture(scope="module", params=["as people build it", "with every check", "on aarch64 under emulation"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """train.c with the library beside it; as one program under address and undefined-behaviour checks; elsewhere."""
    if request.param == "as people build it":
        made = tmp_path_factory.mktemp("program") / "train"
        library = engine_build.LIBRARY.parent
        words = f"-std=c11 -Wall -Wextra -Werror -I{engine_build.SOURCES} {FOLDER / 'train.c'}"
        link = f"-L{library} -l:libtacit.so -Wl,-rpath,{library} -o {made}"
        subprocess.run([*engine_build.compiler(), *shlex.split(f"{words} {link}")], check=True)
        return [made]
    assert request.config.cache is not None
    folder, source = Path(request.config.cache.mkdir("embed")), FOLDER / "train.c"
    for made in (folder / "train", folder / "train-aarch64"):
        if made.exists() and made.stat().st_mtime < (FOLDER / "parts.h").stat().st_mtime:
            made.unlink()  # of headers, the build knows the engine's only
    if request.param == "with every check":
        sources = [*sorted(engine_build.SOURCES.glob("*.c")), source]
        return [engine_build.link(folder / "train", sources, sanitize=True, portable=True, shared=False)]
    need_ziglang()
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}; on Debian and Ubuntu: apt install qemu-user-static")
    target = engine_build.TARGETS["linux-aarch64"]
    return [QEMU, engine_build.program_for(target, folder / "train-aarch64", [source])]


def near(delta: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
    """Within a millionth of its length."""
    return bool(np.linalg.norm(delta - wanted) < 1e-6 * np.linalg.norm(wanted))


def run(program: Command, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *map(str, words)], capture_output=True, text=True, check=False, env=NO_LEAKS)


def test_a_program_in_c_trains_what_python_trains(
    program: Command, parts: Path, examples_file: Path, by_python: NDArray[np.float32], tmp_path: Path
):
    done = run(program, parts, examples_file, SEED, tmp_path / "delta")

    delta = np.fromfile(tmp_path / "delta", np.float32)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"21 micro-batches, {len(delta)} values in {tmp_path / 'delta'}"
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:-1]] == [
        f"step {n} of 9" for n in range(1, 10)
    ]
    # The others have kernels of their own; this one plays those that Python played.
    played = Path(program[-1])
    same = played.name == "train" and played.parent.name != "embed"
    assert delta.tobytes() == by_python.tobytes() if same else near(delta, by_python)


def spoilt(parts: Path, to: Path, name: str, at: int, data: bytes) -> Path:
    """The parts with one of them overwritten from `at` on, or cut short there where there is no data."""
    to.mkdir()
    for file in parts.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    before = (parts / name).read_bytes()
    (to / name).write_bytes(before[:at] + data + (before[at + len(data) :] if data else b""))
    return to


@pytest.mark.parametrize(
    ("name", "at", "data", "says"),
    [
        ("program", 0, b"T", None),
        ("program", 0, b"X", "holds no parts"),
        ("program", 100, b"", "holds no parts"),
        ("program", 24, b"\xff\xff\xff\xff", "holds no parts"),
        ("program", 40, b"\1", "a shifted bias"),
        ("program", 64, b"\2", "one has no place"),
        ("program", 72, b"\7", "do not hold as many values"),
        ("train.tape", 300, b"\xff", "is refused in record 0 by rule"),
        ("train.tape", 100, b"", "is refused in record -1 by rule 1"),
        ("apply.tape", 8, b"\2", "is refused in record -1 by rule"),
        ("snapshot", 8, b"", "another size"),
        ("frozen", 64, b"", "smaller than it must be"),
    ],
)
def test_parts_that_were_damaged_are_refused_or_stay_inside(
    program: Command,
    parts: Path,
    examples_file: Path,
    tmp_path: Path,
    name: str,
    at: int,
    data: bytes,
    says: str | None,
):
    damaged = spoilt(parts, tmp_path / "damaged", name, at, data)

    done = run(program, damaged, examples_file, SEED, tmp_path / "delta")

    assert done.returncode == (0 if says is None else 1), done.stderr
    assert (says or "") in done.stderr and "Sanitizer" not in done.stderr
    assert (tmp_path / "delta").exists() == (says is None)


def test_a_file_that_holds_other_examples_is_refused(
    program: Command, parts: Path, examples_file: Path, tmp_path: Path
):
    (tmp_path / "short").write_bytes(examples_file.read_bytes()[:-4])
    (tmp_path / "empty").write_bytes(b"")

    for file in ("short", "empty", "absent"):
        done = run(program, parts, tmp_path / file, SEED, tmp_path / "delta")
        assert done.returncode == 1 and "is not a file of examples" in done.stderr


def test_an_infinite_example_leaves_no_delta(program: Command, parts: Path, examples_file: Path, tmp_path: Path):
    data = bytearray(examples_file.read_bytes())
    data[4:8] = np.float32(np.inf).tobytes()
    (tmp_path / "infinite").write_bytes(data)

    done = run(program, parts, tmp_path / "infinite", SEED, tmp_path / "delta")

    assert done.returncode == 1 and "its loss is not a finite number" in done.stderr
    assert not (tmp_path / "delta").exists()


def test_ctrl_c_ends_a_visit_after_the_micro_batch_under_way(
    program: Command, parts: Path, examples_file: Path, tmp_path: Path
):
    long = spoilt(parts, tmp_path / "long", "program", 44, (10**6).to_bytes(4, "little"))
    words = [*program, long, examples_file, str(SEED), tmp_path / "delta"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=NO_LEAKS) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("step 1 of 3000000")
        os.kill(running.pid, signal.SIGINT)
        _, said = running.communicate()

    assert running.returncode == 1 and "pauses, as asked" in said
    assert not (tmp_path / "delta").exists()


@pytest.fixture(scope="module")
def module() -> Path:
    """engine.wasm, where the README's commands make it."""
    need_ziglang()
    target = engine_build.TARGETS["web"]
    return engine_build.build_for(target, ROOT / "build/engine/web" / target.file)


def run_in_node(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NODE, FOLDER / "train.ts", *map(str, words)], capture_output=True, text=True, check=False)


STRIP = """
import { readFileSync, writeFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
const [from, to] = process.argv.slice(1);
writeFileSync(to, stripTypeScriptTypes(readFileSync(from, "utf8")).replaceAll('.ts";', '.mjs";'));
"""


@pytest.fixture(scope="module", params=["TypeScript", "JavaScript"])
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """train.ts in a node that runs TypeScript, and with its types taken off in the node of this machine."""
    if request.param == "TypeScript":
        return [NODE, FOLDER / "train.ts"]
    found = shutil.which("node")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else "v0"
    if found is None or int(said[1:].partition(".")[0]) < 20:
        pytest.skip("there is no node 20 or later on the PATH; Debian 12's own is older: https://nodejs.org has it")
    root = tmp_path_factory.mktemp("script")
    for name in ("web/engine", "web/plan", "web/visit", "examples/embed/train"):
        made = root / f"{name}.mjs"
        made.parent.mkdir(parents=True, exist_ok=True)
        command = [NODE, "--no-warnings", "--input-type=module", "-e", STRIP, "--", ROOT / f"{name}.ts", made]
        subprocess.run(command, check=True)
    return [found, root / "examples/embed/train.mjs"]


def test_a_program_in_typescript_trains_what_python_trains(
    script: Command,
    module: Path,
    plan_file: Path,
    examples_file: Path,
    by_python: NDArray[np.float32],
    tmp_path: Path,
):
    words = [*script, module, plan_file, examples_file, str(SEED), tmp_path / "delta"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == f"21 micro-batches, {len(by_python)} values in {tmp_path / 'delta'}"
    assert [line.partition(":")[0] for line in lines[:-1]] == [f"step {n} of 9" for n in range(1, 10)]
    delta = np.fromfile(tmp_path / "delta", np.float32)
    assert near(delta, by_python)


def test_a_plan_that_was_altered_is_refused_in_typescript_too(
    module: Path, plan_file: Path, examples_file: Path, tmp_path: Path
):
    raw = plan_file.read_bytes()
    for at in (0, 30, 60, 300, len(raw) - 200):
        data = bytearray(raw)
        data[at] ^= 1
        (tmp_path / "altered.tacit").write_bytes(data)

        done = run_in_node(module, tmp_path / "altered.tacit", examples_file, SEED, tmp_path / "delta")

        assert done.returncode != 0 and "Plan" in done.stderr, at
    assert not (tmp_path / "delta").exists()


def test_a_plan_whose_visits_add_noise_themselves_is_not_played_in_typescript(
    module: Path, examples_file: Path, tmp_path: Path
):
    world = make_world(tmp_path, mechanism=OnDevice("patient", 1.0, 2), sigma=0.7, target=4)
    (tmp_path / "silo.tacit").write_bytes(world.plan.raw)

    done = run_in_node(module, tmp_path / "silo.tacit", examples_file, SEED, tmp_path / "delta")

    assert done.returncode != 0 and "add noise themselves" in done.stderr
    assert not (tmp_path / "delta").exists()


def test_an_infinite_example_leaves_no_delta_in_typescript_either(
    module: Path, plan_file: Path, examples_file: Path, tmp_path: Path
):
    data = bytearray(examples_file.read_bytes())
    data[4:8] = np.float32(np.inf).tobytes()
    (tmp_path / "infinite").write_bytes(data)

    done = run_in_node(module, plan_file, tmp_path / "infinite", SEED, tmp_path / "delta")

    assert done.returncode != 0 and "its loss is not a finite number" in done.stderr
    assert not (tmp_path / "delta").exists()


def test_the_commands_of_the_readme_print_what_it_says(module: Path, tmp_path: Path):
    text = (FOLDER / "README.md").read_text()
    blocks = re.findall(r"^```(sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [block for language, block in blocks if language]
    printed = [block for language, block in blocks if not language]
    path = os.pathsep.join([str(NODE.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TACIT_HOME": str(tmp_path)}
    said: list[str] = []
    for block in commands:
        words = ["bash", "-euc", block]
        said.append(
            subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        )

    last = [block.splitlines()[-1] for block in (*printed, *said[1:])]
    assert last == ["32 micro-batches, 389 values in build/embed/delta"] * 4
