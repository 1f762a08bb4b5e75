"""The examples for clusters, as far as they can be tried without one."""

import re
import subprocess

import yaml
from commands import ROOT

from fastvgan.runs.config import DataConfig, TrainingConfig

HOW_TO = ROOT / "docs" / "how-to"
TEXT = (HOW_TO / "several-gpus.md").read_text(encoding="utf-8")
OWN = {"run_dir", "resume"} | set(TrainingConfig.model_fields) | set(DataConfig.model_fields)
TORCHRUN = {"standalone", "nnodes", "nproc_per_node", "max_restarts", "rdzv_backend", "rdzv_endpoint", "rdzv_id"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_scripts_are_shell_and_what_they_ask_of_slurm_exists():
    (script,) = blocks("bash")
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    asked = re.findall(r"#SBATCH --([a-z-]+)", script)
    assert set(asked) <= set(
        "job-name nodes ntasks-per-node gpus-per-node cpus-per-task time requeue open-mode signal".split()
    )
    assert 'grep -q "stopped by SIGTERM"' in script  # what the trainer logs


def test_manifests_are_yaml_that_starts_training():
    for block in blocks("yaml"):
        job = yaml.safe_load(block)
        spec = job["spec"]["template"]["spec"] if job["kind"] == "Job" else _worker(job)
        (container,) = spec["containers"]
        command = container["command"]
        assert command[0] == "torchrun" and command[command.index("-m") + 1] == "fastvgan.train"
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in spec.get("volumes", [])}


def _worker(job):
    return job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]


def test_flags_exist():
    text = "\n".join([*blocks("bash"), *blocks("yaml"), *blocks("sh")])
    for line in text.splitlines():
        if line.startswith("#SBATCH") or "srun" in line.split("torchrun")[0]:
            continue
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", line):
            assert flag.replace("-", "_") in OWN | TORCHRUN, flag


def test_statuses_are_those_of_the_code():
    from fastvgan.training.run.watchdog import STATUS

    text = (HOW_TO / "resume.md").read_text(encoding="utf-8")
    assert f"| {STATUS} |" in text and "| 130, 143 |" in text and "`--watchdog` seconds (600)" in text
    assert TrainingConfig().watchdog == 600
