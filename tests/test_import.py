"""What an import costs and brings along, each seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

_SECONDS = 0.2
_BLOCK_RAY = dedent("""
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("ray", "optuna"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocked())
    """)


def run(code: str, *arguments: str) -> str:
    """Returns what Python prints for the code, after it ended well."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_is_quick_and_brings_nothing_heavy() -> None:
    code = dedent("""
        import sys, time
        start = time.perf_counter()
        import dim_ray
        seconds = time.perf_counter() - start
        print(seconds, *sorted({"torch", "ray", "optuna", "pandas", "pyarrow", "numpy"} & set(sys.modules)))
        """)
    outputs = [run(code).split() for _ in range(3)]  # the least of three, as others use the machine too
    assert min(float(seconds) for seconds, *_ in outputs) < _SECONDS
    assert all(heavy == [] for _, *heavy in outputs)


def test_help_needs_neither_torch_nor_ray() -> None:
    code = dedent("""
        import sys
        from dim_ray import distill, doctor, evaluate, generate, pool, report, results, tune
        from dim_ray import quirks
        for entry in (distill, doctor, evaluate, generate, pool, quirks, report, results, tune):
            try:
                entry.main(["--help"])
            except SystemExit as end:
                assert end.code == 0
        print("loaded:", *sorted({"torch", "ray", "optuna"} & set(sys.modules)))
        """)
    assert run(code).splitlines()[-1] == "loaded:"


def test_core_store_and_pipeline_are_imported_where_there_is_no_ray() -> None:
    code = _BLOCK_RAY + dedent("""
        import importlib, pkgutil, torch
        from dim_ray.core.networks import build_classifier
        for name in ("alexnet", "convnet3", "lenet", "mlp"):
            build_classifier(name, num_channels=1, num_classes=2, image_size=8, rng=torch.Generator())
        print("torchvision" in sys.modules)  # our own layers don't wait for it
        import dim_ray.core, dim_ray.store, dim_ray.pipeline
        packages = (dim_ray.core, dim_ray.store, dim_ray.pipeline)
        names = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
        entries = ["cli.session", "cli.summary", "cli.grid", "cli.upkeep", "api", "tune", "pool", "distill", "evaluate",
                   "quirks", "generate", "results", "export.folder"]
        for name in [*names, *(f"dim_ray.{entry}" for entry in entries)]:
            importlib.import_module(name)
        print(len(names))
        """)
    has_torchvision, num_modules = run(code).split()
    assert has_torchvision == "False"
    assert int(num_modules) > 20


def test_generator_is_distilled_evaluated_and_reused_where_there_is_no_ray(tmp_path: Path) -> None:
    code = _BLOCK_RAY + dedent("""
        from pathlib import Path
        import torch
        import dim_ray, dim_ray.distill, dim_ray.evaluate

        torch.set_num_threads(1)
        storage = Path(sys.argv[1])
        flags = ["--local", "--storage", str(storage), "--networks.students", "convnet3_w8",
                 "--evaluation.epochs", "1", "--evaluation.min_steps", "1", "--evaluation.num_seeds", "1",
                 "--evaluation.protocols", "on_the_fly"]
        tiny = ["--networks.teachers", "convnet3_w8", "--pool.size", "1", "--pool.epochs", "1", "--prior.epochs", "1",
                "--prior.batch_size", "256", "--matching.epochs", "1", "--matching.batch_size", "256",
                "--generator.capacity", "4", "--study.grace_epochs", "1"]
        dim_ray.distill.main([*flags, *tiny])
        [folder] = (storage / "generators").iterdir()
        dim_ray.evaluate.main([str(folder), *flags, "--ipc", "1"])
        dim_ray.evaluate.main([*flags, "--ipc", "2"])  # another IPC, of the best at those that are there
        generator = dim_ray.best_generator(str(storage), dataset="digits", ipc=2)
        print(generator.fingerprint == folder.name, tuple(generator.sample(torch.arange(10), seed=0).shape))
        print("tuning" in sys.modules)
        """)
    assert run(code, str(tmp_path / "storage")).splitlines()[-2:] == ["True (10, 1, 8, 8)", "False"]


def test_configuration_and_rows_are_read_without_torch() -> None:
    modules = "dim_ray.config, dim_ray.errors, dim_ray.progress, dim_ray.store.reader"
    assert run(f"import sys, {modules}; print({{'torch', 'ray'}} & set(sys.modules))") == "set()\n"
