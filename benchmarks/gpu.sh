#!/bin/bash
# Compare detection and training on one CUDA GPU with torchvision; benchmarks/gpu.py describes the measurements.
# The script needs this checkout and the installed packages, but no download. --seconds 150 is a shorter run:
#   PYTHON=python3 bash benchmarks/gpu.sh --seconds 150 --output benchmarks_gpu.md
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
