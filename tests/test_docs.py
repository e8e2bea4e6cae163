"""Documentation that runs: README commands and snippets, doctests, and links that lead somewhere."""

import contextlib
import doctest
import importlib
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import fresh
import pytest

from lazyscope.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    "lazyscope." + ".".join(p.relative_to(ROOT / "src" / "lazyscope").with_suffix("").parts)
    for p in (ROOT / "src" / "lazyscope").rglob("*.py")
    if p.name != "__init__.py"
)


def blocks(language, page=README):
    pieces = re.split(r"^```(\w*)\n", page, flags=re.MULTILINE)
    inside = zip(pieces[1::4], pieces[2::4], strict=False)  # fences come in pairs: opening, text, closing, prose
    return [text for name, text in inside if name == language]


@pytest.mark.slow
@pytest.mark.parametrize("snippet", blocks("python"))
def test_readme_snippets_run_as_a_user_runs_them(snippet, tmp_path):
    if "torch" in snippet:
        pytest.importorskip("torch")
        assert len(snippet.splitlines()) <= 8
        assert "jax" not in snippet
    (tmp_path / "snippet.py").write_text(snippet)
    done = fresh.python("snippet.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert printed
    if "lst." in snippet:
        # The table in the README is the one that is printed, up to the last digits of other machines.
        (shown,) = blocks("text")
        assert [line.split()[:1] for line in shown.splitlines()] == [line.split()[:1] for line in printed.splitlines()]


@pytest.mark.slow
def test_readme_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("lazyscope ")]
    assert len(commands) >= 3
    for command in commands:
        with contextlib.suppress(SystemExit):
            assert main(shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "lazyscope-out" / "index.html").exists()


CELLS = """import jax
import jax.numpy as jnp


def train(key, *, tau):
    return {"loss": tau * jnp.exp(jax.random.normal(key))}
"""
# Stands for the packages of a cluster: the same calls, on this machine.
QUEUE = """from distributed import LocalCluster


class SLURMCluster(LocalCluster):
    def __init__(self, *, cores, processes, memory, walltime):
        super().__init__(n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("called", ["executors.dask(", "SLURMCluster(", "from_submitit("])
def test_snippets_on_clusters_run_but_for_where_the_cluster_is(called, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("submitit")
    pages = [(ROOT / "docs" / name).read_text() for name in ("dask.md", "slurm.md")]
    (snippet,) = [text for page in pages for text in blocks("python", page) if called in text]
    (tmp_path / "my_cells.py").write_text(CELLS)
    (tmp_path / "dask_jobqueue.py").write_text(QUEUE)
    monkeypatch.setenv("PYTHONPATH", fresh.environment(tmp_path)["PYTHONPATH"])  # of the workers
    monkeypatch.syspath_prepend(tmp_path)  # of the scheduler
    with contextlib.ExitStack() as stack:
        if called == "executors.dask(":
            here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
            cluster = stack.enter_context(distributed.LocalCluster(**here))
            snippet = snippet.replace("tcp://10.0.0.1:8786", cluster.scheduler_address)
        local = snippet.replace('folder="jobs"', 'folder="jobs", cluster="local"').replace("workers=64", "workers=2")
        (tmp_path / "snippet.py").write_text(f"{local}\n    print(dict(ds.sizes))\n")
        done = fresh.python("snippet.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'tau': 2" in done.stdout
    assert "'seed': 10" in done.stdout


# What the snippets of a page name and do not make, and a line after them that shows that they did something.
NET = """import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
batch = torch.randn(8, 3)
"""
GPT = """from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
import torch
torch.manual_seed(0)
sizes = dict(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
ids = torch.randint(0, 32, (16, 8))
train = [{"input_ids": row, "labels": row} for row in ids]
batch = {"input_ids": ids[:4]}
args = TrainingArguments("out", max_steps=2, report_to=[], disable_tqdm=True, use_cpu=True)
"""
LIGHTNING = f"""{NET}
import lightning as L
import lazyscope.torch as lst
class Net(L.LightningModule):
    def __init__(self): super().__init__(); self.net = model
    def forward(self, x): return self.net(x)
    def training_step(self, rows, i): return self.net(rows[0]).square().mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
"""
LOOP = f"""{NET}
import lazyscope.torch as lst
"""
SNIPPETS = {
    "lst.Callback(": (
        "transformers",
        GPT,
        "print([row for row in trainer.state.log_history if 'lazyscope/gap' in row])",
    ),
    "lst.LightningCallback(": (
        "lightning",
        LIGHTNING,
        "trainer.fit(Net(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(batch), batch_size=4))\n"
        "print(trainer.callback_metrics['lazyscope/gap'])",
    ),
    "lst.Monitor(": ("torch", LOOP, "print(monitor.measure()['lazyscope/gap'])"),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", SNIPPETS)
def test_snippets_for_your_own_training_run(call, tmp_path):
    library, before, after = SNIPPETS[call]
    pytest.importorskip(library)
    (snippet,) = [text for text in blocks("python", (ROOT / "docs" / "training.md").read_text()) if call in text]
    (tmp_path / "snippet.py").write_text(f"{before}\n{snippet}\n{after}\n")
    done = fresh.python("snippet.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() not in ("", "[]")


@pytest.mark.slow
def test_snippets_on_conversion(tmp_path):
    pytest.importorskip("torch")
    (snippet,) = blocks("python", (ROOT / "docs" / "zoo.md").read_text())
    made = """
import jax
import lazyscope as ls
jax.config.update("jax_enable_x64", True)
class Net(torch.nn.Module):
    def __init__(self): super().__init__(); self.net = model
    def forward(self, x): return {"logits": self.net(x), "last_hidden_state": self.net[0](x)}
torch.export.save(torch.export.export(model.eval(), (batch,)), "model.pt2")
model, loader = Net(), [batch]
"""
    (tmp_path / "snippet.py").write_text(f"{NET}\n{made}\n{snippet}\nprint(apply.described)\n")
    done = fresh.python("snippet.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "output of the program" in done.stdout


def test_make_commands_of_the_readme_are_targets():
    named = set(re.findall(r"^make (\S+)", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"reproduce", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        if not target.startswith("_generated/"):  # made when the site is built, which tells when one is missing
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    import jax

    if name.startswith("lazyscope.torch"):
        pytest.importorskip("torch")
        pytest.importorskip({"trainer": "transformers", "lightning": "lightning"}.get(name.split(".")[-1], "torch"))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_figure_of_the_guide_runs_and_its_claim_holds():
    import jax

    from lazyscope.claims import evaluate
    from lazyscope.papers.figure import Trials

    guide = (ROOT / "docs" / "extending.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    module = types.ModuleType("guide")
    sys.modules["guide"] = module  # dataclasses look their module up
    exec(compile(source, "extending.md", "exec"), vars(module))
    figure = module.KERNEL
    tiny = figure.sizes["tiny"]
    dataset = figure.compute(tiny.settings, Trials(jax.random.key(0), tiny.seeds))
    (finding,) = [evaluate(claim, dataset) for claim in figure.claims]
    assert finding.outcome == figure.claims[0].expected["tiny"]
    assert figure.draw(dataset).axes
    assert len(figure.numbers(dataset)) == 4
    del sys.modules["guide"]


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_names_everything_public(tmp_path):
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "_generated" / "reference.html").read_text()
    import lazyscope

    missing = [name for name in lazyscope._HOMES if not re.search(rf'<span class="pre">{name}</span>', reference)]
    assert missing == []


def test_the_lock_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    assert lock.count("--hash=sha256:") > 100
