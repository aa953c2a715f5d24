"""The sixteen-lane vector layer: values against NumPy, for this processor and for others that it can stand for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding

from studio.kernels.cache import kernel
from studio.kernels.vec import (
    absolute,
    any_lane,
    bits_of,
    bits_set,
    broadcast,
    broadcast_pair,
    ceil,
    element,
    exp2,
    fetch_add,
    flagged,
    floor,
    fma,
    fnma,
    from_bits,
    halves,
    joined,
    lane_bits,
    lane_index,
    lane_index8,
    load,
    load8,
    maximum,
    minimum,
    prefetch,
    put,
    select,
    splat,
    splat8,
    splat_i32,
    sqrt,
    store,
    sum_lanes,
    sum_rows,
    to_float,
    to_int,
    trailing_zeros,
    transpose,
)


@kernel("void(f4[:,::1], f4[:,::1], i8[::1], i4[::1], u1[::1])")
def _everything(values: Any, out: Any, counter: Any, flags: Any, bytes_: Any) -> None:
    a = load(values, 0)
    b = load(values, 16)
    store(out, 0, a + b)
    store(out, 16, a - 2.0)
    store(out, 32, 0.5 * a)
    store(out, 48, a / b)
    store(out, 64, fma(a, b, 1.0))
    store(out, 80, fnma(a, b, b))
    store(out, 96, minimum(a, b))
    store(out, 112, maximum(a, 0.0))
    store(out, 128, select((a > b) & ~(b < 0.5), a, -1.0))
    store(out, 144, select((a <= b) | (a == 0.0), 7.0, b))
    store(out, 160, sqrt(absolute(a)))
    store(out, 176, floor(a))
    store(out, 192, ceil(a))
    store(out, 208, to_float(to_int(a)))
    store(out, 224, to_float((lane_index() << 2) + splat_i32(-3)))
    store(out, 240, to_float((lane_index() - 8) >> 1))
    store(out, 256, from_bits(bits_of(a) & np.int32(0x7FFFFFFF)))
    store(out, 272, broadcast(values, 5) + splat(element(values, 6)))
    store(out, 288, exp2(a))
    low, high = halves(a)
    store(out, 304, sum_rows((low, high, low * high, low, low, low, low, low, high)))
    store(out, 320, splat(sum_lanes(a)))
    c = load(values, 32)
    columns = transpose((a, b, c, a, b, c, a, b, c, a, b, c, a, b, c, -a))
    store(out, 336, columns[0])
    store(out, 352, columns[15])
    store(out, 368, joined(load8(values, 2), high))
    store(out, 384, broadcast_pair(values, 5))
    store(out, 400, joined(exp2(fma(low, 0.5, high)), select(low < high, to_float(lane_index8()), splat8(-1.0))))
    x = a
    x += b
    x *= 2.0
    x -= 1.0
    store(out, 416, -x)
    counter[1] = flagged(bytes_, 0, 6)  # 48 of 64 have bit 1 or 2
    flags[6] = bits_set(counter[1])
    flags[7] = trailing_zeros(40)
    flags[8] = lane_bits(low > high)
    flags[0] = lane_bits(a > b)
    flags[1] = any_lane(a > 1e30)
    flags[2] = any_lane(a >= a)
    flags[3] = fetch_add(counter, 5)
    flags[4] = fetch_add(counter, 1)
    put(flags, 5, 42)
    prefetch(values, 10**9)


def _run() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32) * 5.0
    values[1] = np.abs(values[1]) + 0.1
    values[0, 3] = 0.0
    out = np.zeros((27, 16), np.float32)
    flags = np.zeros(9, np.int32)
    counter = np.array([10, 0], np.int64)
    _everything(values, out, counter, flags, np.arange(64, dtype=np.uint8) % 8)
    return values, out, flags


def test_operations_match_numpy() -> None:
    values, out, flags = _run()
    a, b, c = values[:3]
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lanes = np.arange(16)
    exact = {
        0: a + b,
        1: a - np.float32(2),
        2: a * np.float32(0.5),
        3: a / b,
        6: np.minimum(a, b),
        7: np.maximum(a, 0),
        8: np.where((a > b) & ~(b < 0.5), a, -1),
        9: np.where((a <= b) | (a == 0), 7, b),
        10: np.sqrt(np.abs(a)),
        11: np.floor(a),
        12: np.ceil(a),
        13: np.trunc(a),
        14: lanes * 4 - 3,
        15: (lanes - 8) >> 1,
        16: np.abs(a),
        17: np.full(16, a[5] + a[6]),
        21: np.array([a[0], b[0], c[0]] * 5 + [-a[0]]),
        22: np.array([a[15], b[15], c[15]] * 5 + [-a[15]]),
        23: np.concatenate([a[2:10], a[8:]]),
        24: np.repeat(a[5:7], 8),
        26: -((a + b) * np.float32(2) - np.float32(1)),
    }
    for row, expected in exact.items():
        np.testing.assert_array_equal(out[row], expected.astype(np.float32), err_msg=f"row {row}")
    np.testing.assert_allclose(out[4], a64 * b64 + 1, rtol=2e-7, atol=2e-6)
    np.testing.assert_allclose(out[5], b64 - a64 * b64, rtol=2e-7, atol=2e-6)
    np.testing.assert_allclose(out[18], np.exp2(a64), rtol=1.7e-7)
    low, high = a64[:8], a64[8:]
    sums = [low.sum(), high.sum(), (low * high).sum(), *[low.sum()] * 5, high.sum(), *[0.0] * 7]
    np.testing.assert_allclose(out[19], sums, rtol=1e-5, atol=1e-5)
    assert not out[19, 9:].any()
    np.testing.assert_allclose(out[20], a64.sum(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out[25, :8], np.exp2(low * 0.5 + high), rtol=2e-6)
    np.testing.assert_array_equal(out[25, 8:], np.where(a[:8] < a[8:], lanes[:8], -1))
    assert list(flags[6:]) == [48, 3, (a[:8] > a[8:]) @ (1 << lanes[:8])]
    np.testing.assert_array_equal(flags[:6], [(a > b) @ (1 << lanes), 0, 1, 10, 15, 42])


@kernel("void(f4[::1], f4[::1])")
def _exp2_all(x: Any, y: Any) -> None:
    for i in range(0, x.shape[0], 16):
        store(y, i, exp2(load(x, i)))


def test_exp2_stays_within_its_bound_over_the_whole_range() -> None:
    x = np.concatenate([np.linspace(-126, 126.99, 2**18), np.linspace(-8, 0, 2**16)]).astype(np.float32)
    y = np.empty_like(x)
    _exp2_all(x, y)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(y / exact - 1.0).max() < 1.7e-7
    whole = np.arange(-126, 2, dtype=np.float32)
    y = np.empty_like(whole)
    _exp2_all(whole, y)
    np.testing.assert_array_equal(y, np.exp2(whole))


_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import test_kernel_vec as subject
import numpy as np
subject.test_operations_match_numpy()
sys.stdout.buffer.write(subject._run()[1].tobytes())
sys.stdout.buffer.flush()
print(subject._everything.assembly(), file=sys.stderr)
"""

# Named processors, with the registers their code must use and those it must not.
_TARGETS = {
    "x86-64-v2": ("xmm", "ymm"),
    "x86-64-v3": ("ymm", "zmm"),
    "haswell": ("ymm", "zmm"),
    "x86-64-v4": ("zmm", ""),
}


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="these are processors of x86")
@pytest.mark.parametrize("target", _TARGETS)
def test_named_processor_decides_the_instructions(target: str, tmp_path: Path) -> None:
    wanted, unwanted = _TARGETS[target]
    if target == "x86-64-v4" and "avx512vl" not in _host_features():
        pytest.skip("this processor has no AVX-512")
    if target != "x86-64-v2" and "avx2" not in _host_features():
        pytest.skip("this processor has no AVX2")
    env = {**os.environ, "NUMBA_CPU_NAME": target, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("NUMBA_CPU_FEATURES", None)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent)], env=env, capture_output=True, check=False
    )
    assembly = done.stderr.decode()
    assert done.returncode == 0, assembly
    assert wanted in assembly
    assert not unwanted or unwanted not in assembly
    fused = "vfmadd" in assembly
    assert fused == (target != "x86-64-v2")
    if fused and "fma" in _host_features():
        assert done.stdout == _run()[1].tobytes()


def _host_features() -> set[str]:
    return {name for name, has in binding.get_host_cpu_features().items() if has}
