#!/usr/bin/env bash
# Runs once in the new environment, in the folder of the Snakefile: the same packages as `make` installs.
set -euo pipefail
pip install --constraint constraints.txt torch torchvision
pip install --constraint constraints.txt --editable .
