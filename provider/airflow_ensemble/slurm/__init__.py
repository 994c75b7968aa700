"""Slurm as text in, text out, over a runner: this machine, paramiko, or the system's ssh."""
