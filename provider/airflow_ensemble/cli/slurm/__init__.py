"""The backend ``slurm`` on the command line of a login node: no SSH, Slurm's own commands."""
