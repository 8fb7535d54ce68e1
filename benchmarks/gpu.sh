#!/bin/bash
# Measure detection and training on one CUDA GPU beside torchvision; --seconds 150 for the short form.
# benchmarks/gpu.py says what is measured. It needs this checkout and installed packages, no download:
#   PYTHON=python3 bash benchmarks/gpu.sh --seconds 150 --output benchmarks_gpu.md
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
