"""The command line: light to start, and one sentence where something is wrong."""

import json
import subprocess
import sys

import pytest

from tacit.cli import COMMANDS, main
from tacit.plan.manifest import FORMAT
from tests.factory import make_world

HEAVY = {"torch", "numpy", "starlette", "uvicorn", "matplotlib", "sklearn", "cryptography", "msgspec"}


def modules_of(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after this statement."""
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def loaded_by(statement: str) -> set[str]:
    """The packages among them."""
    return {name.partition(".")[0] for name in modules_of(statement)}


def test_help_imports_nothing_heavy():
    loaded = loaded_by("import contextlib, tacit.cli\nwith contextlib.suppress(SystemExit): tacit.cli.main(['--help'])")

    assert not loaded & HEAVY


def test_a_device_loads_neither_torch_nor_the_server_stack():
    loaded = loaded_by("import tacit.device, tacit.device.agent, tacit.engine.player")

    assert "tacit" in loaded
    assert not loaded & {"torch", "starlette", "uvicorn", "uvloop", "sklearn", "matplotlib"}


def test_the_servers_load_neither_torch_nor_the_engine_nor_the_device():
    loaded = modules_of("import tacit.coordinator.server, tacit.keyholder.server")

    assert "tacit.plan.bundle" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "sklearn", "matplotlib")}
    assert not {name for name in loaded if name.startswith(("tacit.engine", "tacit.device", "tacit.compiler"))}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    assert ended.value.code == 0
    assert "example:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "nowhere.tacit"],
        ["serve", "nowhere.tacit"],
        ["compile", "nowhere.py"],
        ["join", "not-a-link", "--data", "nowhere.npz"],
        ["join", "http://h/join/00?author=11", "--data", "nowhere.npz"],
        ["device", "status", "--home", "nowhere"],
        ["fetch", "nowhere"],
        ["scout"],
        ["scout", "nowhere.py"],
        ["scout", "--read", "nowhere.tacit", "nowhere.bin"],
        ["demo", "--devices", "2"],
    ],
)
def test_wrong_input_ends_with_2_and_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TACIT_HOME", str(tmp_path / "home"))

    code = main(words)

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith(f"tacit {words[0]}: ") and said.count("\n") == 1
    assert "Traceback" not in said


def test_a_file_that_is_no_plan_is_named(tmp_path, capsys):
    path = tmp_path / "photo.tacit"
    path.write_bytes(b"JFIF" * 100)

    assert main(["inspect", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nonsense_that_is_nowhere", "line 1: ModuleNotFoundError"),
        ("x = 1\n1/0", "line 2: ZeroDivisionError"),
        ("x = 1", "defines none"),
        ("import tacit\ntask = tacit.Task(name='', model=int, example={})", "name = ''"),
    ],
)
def test_a_broken_task_file_is_explained_by_its_line(text, said, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)

    code = main(["compile", str(path), "--home", str(tmp_path / "home")])

    assert code == 2
    assert said in capsys.readouterr().err


def test_a_compiled_task_says_what_it_costs(tmp_path, capsys):
    task = tmp_path / "mine.py"
    task.write_text(
        "import tacit\nfrom torch import nn\n"
        "task = tacit.Task(name='mine', model=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),\n"
        "    example={'x': tacit.array((4,)), 'y': tacit.label(3)}, subset=['2'],\n"
        "    privacy=tacit.Privacy(noise=0.1, devices=3, batch=2, threshold=2, snapshots=20, participations=20))\n"
    )

    drawn = tmp_path / "arena.svg"
    assert main(["compile", str(task), "--home", str(tmp_path / "home"), "--explain", "--picture", str(drawn)]) == 0
    told = capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "mine.tacit"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert figures["trained_values"] == 8 * 3 + 3
    assert figures["subset"] == ["2.weight", "2.bias"]
    assert "No meaningful differential privacy" in told
    assert "Single-operator mode" in told
    assert "^ peak: step" in told
    assert drawn.read_text().startswith("<svg") and "mine" in drawn.read_text()
    for tape in ("train", "apply", "evaluate", "predict"):
        assert main(["inspect", str(tmp_path / "mine.tacit"), "--tape", tape]) == 0
        assert capsys.readouterr().out.startswith(f"{tape} tape: ")


def test_an_operator_that_cannot_be_lowered_is_named_with_its_module_and_a_way_out(tmp_path, capsys):
    task = tmp_path / "mine.py"
    task.write_text(
        "import tacit, torch\nfrom torch import nn\n"
        "class Odd(nn.Module):\n    def forward(self, x):\n        return torch.cumsum(x, 1)\n"
        "task = tacit.Task(name='mine', model=lambda: nn.Sequential(nn.Linear(4, 8), Odd(), nn.Linear(8, 3)),\n"
        "    example={'x': tacit.array((4,)), 'y': tacit.label(3)},\n"
        "    privacy=tacit.Privacy(noise=0.1, devices=3, batch=2, threshold=2))\n"
    )

    assert main(["compile", str(task), "--home", str(tmp_path / "home")]) == 2

    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("tacit compile: 1 (Odd) uses aten.cumsum") and "Use a convolution or attention" in said
    assert not (tmp_path / "mine.tacit").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-100], "cut"),
        (lambda data: data[:6000] + bytes([data[6000] ^ 1]) + data[6001:], "altered"),
        (lambda data: data[:8] + bytes([FORMAT + 1]) + data[9:], "update this one"),
        (lambda data: data[:56] + bytes(64) + data[120:], "not signed"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_sentence(damage, said, tmp_path, capsys):
    plan = tmp_path / "plan.tacit"
    plan.write_bytes(damage(bytes(make_world(tmp_path, d=4000, max_upload_bytes=20_000).plan.raw)))

    for command in ("inspect", "serve"):
        assert main([command, str(plan)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and str(plan) in error
