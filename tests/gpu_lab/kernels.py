"""Small kernels that the laboratory is tested with, right ones and wrong ones."""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def quotient(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """``out = x y + x / (1 + y^2)``, masked at ``n``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    y = tl.load(y_ptr + i, mask=i < n)
    tl.store(out_ptr + i, x * y + x / (1 + y * y), mask=i < n)


@triton.jit
def functions(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Rows of ``out``: exp, log(1 + |x|), tanh, erf, sin, cos, sqrt(|x|), rsqrt(1 + |x|), sigmoid, expm1."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    x = tl.load(x_ptr + i, mask=inside, other=0)
    size = tl.abs(x)
    tl.store(out_ptr + i, tl.exp(x), mask=inside)
    tl.store(out_ptr + n + i, tl.log(1 + size), mask=inside)
    tl.store(out_ptr + 2 * n + i, libdevice.tanh(x), mask=inside)
    tl.store(out_ptr + 3 * n + i, tl.erf(x), mask=inside)
    tl.store(out_ptr + 4 * n + i, tl.sin(x), mask=inside)
    tl.store(out_ptr + 5 * n + i, tl.cos(x), mask=inside)
    tl.store(out_ptr + 6 * n + i, tl.sqrt(size), mask=inside)
    tl.store(out_ptr + 7 * n + i, tl.rsqrt(1 + size), mask=inside)
    tl.store(out_ptr + 8 * n + i, tl.sigmoid(x), mask=inside)
    tl.store(out_ptr + 9 * n + i, libdevice.expm1(x), mask=inside)


@triton.jit
def row_norms(x_ptr, norm_ptr, largest_ptr, rows, features, ROWS: tl.constexpr, FEATURES: tl.constexpr):
    """The root mean square of each row, and the position of its largest element."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, FEATURES)
    inside = (r[:, None] < rows) & (c[None, :] < features)
    x = tl.load(x_ptr + r[:, None] * features + c[None, :], mask=inside, other=0)
    tl.store(norm_ptr + r, tl.sqrt(tl.sum(x * x, 1) / features), mask=r < rows)
    x = tl.where(inside, x, float("-inf"))
    tl.store(largest_ptr + r, tl.argmax(x, 1), mask=r < rows)


@triton.jit
def halvings(x_ptr, count_ptr, n, tolerance, BLOCK: tl.constexpr):
    """Halves each program's part of ``x`` until none of it exceeds ``tolerance``, and counts how often."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    count = 0
    while tl.max(tl.abs(x), 0) > tolerance:
        x = x * 0.5
        count += 1
    tl.store(x_ptr + i, x, mask=i < n)
    tl.store(count_ptr + tl.program_id(0), count)


@triton.jit
def product(a_ptr, b_ptr, out_ptr, K, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """``out[SIZE, SIZE] = a[SIZE, K] b[K, SIZE]``, accumulated in the type of ``out``."""
    r = tl.arange(0, SIZE)
    total = tl.zeros((SIZE, SIZE), out_ptr.dtype.element_ty)
    for k in range(0, K, SIZE):
        a = tl.load(a_ptr + r[:, None] * K + k + r[None, :])
        b = tl.load(b_ptr + (k + r[:, None]) * SIZE + r[None, :])
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)
    tl.store(out_ptr + r[:, None] * SIZE + r[None, :], total)


@triton.jit
def product_by_default(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    """A product without a precision, which the compiler takes to be tf32."""
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out_ptr + at, tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at)))


@triton.jit
def uniforms(seed_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Numbers in [0, 1) from 64 bit seeds: multiplications, shifts and a cast of bits."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(seed_ptr + i, mask=i < n, other=0).to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    tl.store(out_ptr + i, ((z >> 12) | 0x3FF0000000000000).to(tl.float64, bitcast=True) - 1.0, mask=i < n)


@triton.jit
def digits(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Rows of ``out``: quotient and remainder by 7, towards zero, and the upper half of ``x * x``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.store(out_ptr + i, x // 7, mask=i < n)
    tl.store(out_ptr + n + i, x % 7, mask=i < n)
    tl.store(out_ptr + 2 * n + i, tl.umulhi(x, x), mask=i < n)


@triton.jit
def square_plus_one(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """``x^2 + 1`` in float32, whatever ``x`` and ``out`` are stored as."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n).to(tl.float32)
    tl.store(out_ptr + i, (x * x + 1).to(out_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def histogram(x_ptr, weight_ptr, total_ptr, count_ptr, finished_ptr, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Weights added up by bin, elements counted by bin, and the order in which programs finish."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bins = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.atomic_add(total_ptr + bins, tl.load(weight_ptr + i, mask=i < n, other=0), mask=i < n)
    tl.atomic_add(count_ptr + bins, 1, mask=i < n)
    first = tl.atomic_cas(finished_ptr, -1, tl.program_id(0))
    place = tl.atomic_add(finished_ptr + 1, 1)
    tl.store(finished_ptr + 2 + place, tl.where(first == -1, -tl.program_id(0), tl.program_id(0)))


@triton.jit
def scratch_reversal(x_ptr, scratch_ptr, out_ptr, SIZE: tl.constexpr, BARRIER: tl.constexpr):
    """Writes to memory and reads back in reverse, behind a barrier; a wrong kernel without it."""
    i = tl.arange(0, SIZE)
    tl.store(scratch_ptr + i, tl.load(x_ptr + i))
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + i, tl.load(scratch_ptr + SIZE - 1 - i))


@triton.jit
def unmasked_copy(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """A wrong kernel: it stores beyond ``n``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0))


@triton.jit
def copy_but_last(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """A wrong kernel: it does not write the last element."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n - 1)


@triton.jit
def many_at_once(x_ptr, out_ptr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """Needs many values at the same time: each of ``COUNT`` is added to all of the others in turn."""
    i = tl.arange(0, BLOCK)
    j = tl.arange(0, COUNT)
    x = tl.load(x_ptr + i[:, None] * COUNT + j[None, :])
    for _ in range(4):
        x = x * tl.sum(x, 1)[:, None] + tl.max(x, 1)[:, None]
    tl.store(out_ptr + i[:, None] * COUNT + j[None, :], x)


@triton.jit
def scaled(x_ptr, out_ptr, factor, BLOCK: tl.constexpr):
    """A wrong kernel for float64: its factor is float32."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * factor)


@triton.jit
def scaled_in_double(x_ptr, out_ptr, factor: tl.float64, BLOCK: tl.constexpr):
    """As ``scaled``, with the factor passed as float64, and a literal that takes the type of ``x``."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * factor + 0.1)


@triton.jit
def chosen(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """A wrong kernel for float64: both literals are float32 before they meet ``x``."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    rate = 0.0
    rate += 0.7
    tl.store(out_ptr + i, x * tl.where(x > 0, 0.1, 0.3) + x * rate)


@triton.jit
def tuple_sum(pointers, weights, out_ptr, BLOCK: tl.constexpr):
    """Arguments in tuples."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, weights[0] * tl.load(pointers[0] + i) + weights[1] * tl.load(pointers[1] + i))


@triton.jit
def running_mean(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """A wrong kernel where ``out`` is ``x``: each element needs its neighbour, which another program changes."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here, next_ = tl.load(x_ptr + i, mask=i < n, other=0), tl.load(x_ptr + i + 1, mask=i + 1 < n, other=0)
    tl.debug_barrier()
    tl.store(out_ptr + i, 0.5 * (here + next_), mask=i < n)
