"""How a question is measured: interleaved runs, CPU and wall time, memory, calibrated, and compared with an earlier one.

A question is a module of this package with `NAME`, `QUESTION`, `METHOD` and `run(scale) -> rows`. It runs in a process
of its own, so that neither the heap nor the peak memory of one question shows in another.
"""

import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from benchmarks import calibration, campaigns_curve, ingest, member_bytes, replay_speed, sink_rate, worker_rate
from benchmarks.measure import Row, Scale

QUESTIONS: Mapping[str, ModuleType] = {
    module.NAME: module for module in (replay_speed, campaigns_curve, ingest, member_bytes, sink_rate, worker_rate)
}
