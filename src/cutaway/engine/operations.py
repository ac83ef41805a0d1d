"""The reviewed table of tensor operations: all that an intervention graph may contain.

What is in it computes tensors from tensors and numbers, and nothing else: no call reads a file, takes a function, makes a view outside a
tensor's own elements (`as_strided`, `set_`), shows memory that nobody filled (`empty_like`), reaches for a storage, adds to the gradients of weights
(`backward`), or takes `out=`. A name is `Tensor.<method>`, `Tensor.<property>`,
`torch.<function>`, `functional.<function>`, `linalg.<function>` or `fft.<function>`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ELEMENTWISE = """
abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh
bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min clip copysign cos cosh
deg2rad digamma div divide eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmod frac ge greater greater_equal gt
heaviside hypot le lerp less less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt masked_fill
maximum minimum mul multiply nan_to_num ne neg negative nextafter not_equal pow rad2deg reciprocal relu remainder round rsqrt rsub sigmoid
sign sgn sin sinc sinh sqrt square sub subtract tan tanh true_divide trunc xlogy where
"""
_TESTS = """
isclose isfinite isinf isnan isneginf isposinf logaddexp logaddexp2 sign signbit
"""
_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum diff logcumsumexp logsumexp max mean median min
mode msort nanmean nanmedian nansum norm prod quantile softmax log_softmax sort std std_mean sum topk var var_mean kthvalue renorm dist cov
corrcoef bincount histc
"""
_SHAPES = """
broadcast_to cat chunk concat diag diag_embed diagonal dsplit dstack expand_as flatten flip fliplr flipud gather hsplit hstack index_add
index_copy index_fill index_select masked_scatter masked_select moveaxis movedim narrow permute ravel repeat_interleave reshape resolve_conj
roll rot90 scatter scatter_add scatter_reduce select split split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim
tensor_split tile transpose tril triu unbind unflatten unsqueeze view_as_complex view_as_real vsplit vstack clone detach searchsorted
bucketize nonzero unique unique_consecutive
"""
_PRODUCTS = """
addbmm addmm addmv addr baddbmm bmm cross dot einsum inner kron matmul mm mv outer tensordot vdot trace cdist cosine_similarity conv1d
conv2d
"""
_LIKE = "full_like ones_like zeros_like"
_RANDOM = "bernoulli multinomial rand_like randn_like randint_like"
_METHODS = """
contiguous double expand float half bfloat16 int long bool to type_as view view_as repeat unfold new_full new_ones new_zeros index_put
sum_to_size cpu __getitem__ __rsub__ __rdiv__ __rtruediv__ __rfloordiv__ __rpow__ __rmod__ __rmatmul__ __rlshift__ __rrshift__ __pow__
__floordiv__ __mod__ __matmul__ __and__ __or__ __xor__ __invert__ __eq__ __ne__ __truediv__ __div__
"""
_IN_PLACE = """
abs_ add_ addcdiv_ addcmul_ addmm_ baddbmm_ bernoulli_ ceil_ clamp_ clamp_max_ clamp_min_ copy_ cos_ cumsum_ div_ divide_ erf_ exp_ fill_
floor_ fmod_ index_add_ index_copy_ index_fill_ index_put_ lerp_ log_ logical_not_ masked_fill_ masked_scatter_ mul_ multiply_ neg_ normal_
pow_ reciprocal_ relu_ remainder_ round_ rsqrt_ scatter_ scatter_add_ sigmoid_ sign_ sin_ sqrt_ square_ sub_ subtract_ tanh_ tril_ triu_
trunc_ uniform_ zero_ fill_diagonal_ requires_grad_ __setitem__ __iadd__ __isub__ __imul__ __ipow__ __idiv__ __itruediv__ __ifloordiv__
__imod__ __iand__ __ior__ __ixor__
"""
_FUNCTIONAL = """
avg_pool1d avg_pool2d adaptive_avg_pool2d binary_cross_entropy binary_cross_entropy_with_logits celu cosine_similarity cross_entropy elu
embedding gelu glu group_norm hardtanh interpolate kl_div l1_loss layer_norm leaky_relu linear log_softmax logsigmoid max_pool2d mse_loss
nll_loss normalize one_hot pad pairwise_distance prelu relu relu6 rms_norm scaled_dot_product_attention selu sigmoid silu smooth_l1_loss
softmax softmin softplus softsign tanh tanhshrink threshold unfold fold conv1d conv2d
"""
_LINALG = """
cholesky cross det diagonal eigh eigvalsh inv lstsq matmul matrix_norm matrix_rank norm pinv qr slogdet solve svd svdvals vector_norm vecdot
"""
_PROPERTIES = "T mT H mH real imag"

_METADATA = """
shape dtype device ndim layout requires_grad is_leaf is_sparse is_quantized is_cuda is_cpu is_meta is_mps is_xpu is_nested itemsize nbytes
names grad_fn
"""
_QUERIES = """
size dim ndimension stride numel nelement is_floating_point is_complex is_contiguous element_size get_device has_names __len__ __hash__
is_signed is_conj is_neg is_inference storage_offset
"""


def _named(home: Any, prefix: str, names: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in names.split():
        found = getattr(home, name, None)
        if callable(found):  # a few names are methods only or functions only
            yield f"{prefix}.{name}", found


def _table() -> dict[str, Callable[..., Any]]:
    both = " ".join((_ELEMENTWISE, _TESTS, _REDUCTIONS, _SHAPES, _PRODUCTS, _LIKE, _RANDOM))
    fft: ModuleType = torch.fft
    table = dict(_named(torch, "torch", both))
    table |= dict(_named(functional, "functional", _FUNCTIONAL))
    table |= dict(_named(torch.linalg, "linalg", _LINALG))
    table |= dict(_named(fft, "fft", "fft ifft rfft irfft fft2 ifft2"))
    table |= dict(_named(Tensor, "Tensor", f"{both} {_METHODS} {_IN_PLACE}"))
    table |= {f"Tensor.{name}": getattr(Tensor, name).__get__ for name in _PROPERTIES.split()}
    table["torch.autograd.grad"] = torch.autograd.grad
    return table


TABLE = _table()
"""Name -> what it calls."""
NAMES = {function: name for name, function in TABLE.items()}
"""What is called -> its name."""
IN_PLACE = frozenset(f"Tensor.{name}" for name in _IN_PLACE.split())
"""Operations that change their first argument."""
RANDOM = frozenset(f"{home}.{name}" for home in ("torch", "Tensor") for name in (*_RANDOM.split(), "bernoulli_", "normal_", "uniform_"))
"""Operations that draw; each is given a seed of its own."""
MANY = frozenset(
    f"{home}.{name}"
    for home in ("torch", "Tensor")
    for name in "unbind split chunk split_with_sizes tensor_split hsplit vsplit dsplit".split()
)
"""Operations that return as many tensors as their arguments say."""
DYNAMIC = frozenset(
    [
        *(f"{home}.{name}" for home in ("torch", "Tensor") for name in "nonzero masked_select unique unique_consecutive where".split()),
        "Tensor.__getitem__",
    ]
)
"""Operations whose result has a shape that depends on values, and a bound that does not."""
LOCAL = frozenset(
    [*(getattr(Tensor, n).__get__ for n in _METADATA.split() if hasattr(Tensor, n)), *(f for _, f in _named(Tensor, "", _QUERIES))]
)
"""What is known of a tensor without its values: answered on the spot, never recorded."""
EQUIVALENT = {
    "__bool__": "torch.where(condition, a, b) instead of `if`",
    "__float__": "keep it a tensor (torch.stack([...]) for torch.tensor([...])); run.save(name=value) brings it back",
    "__int__": "keep it a tensor; run.save(name=value) brings it back",
    "__index__": "index with the tensor itself: x.index_select(dim, i) or x[i[None]]",
    "__contains__": "(x == value).any()",
    "item": "keep it a tensor (torch.stack([...]) for torch.tensor([...])); run.save(name=value) brings it back",
    "tolist": "keep it a tensor; run.save(name=value) brings it back",
    "numpy": "run.save(name=value), and numpy after the run",
    "__array__": "torch.from_numpy for an array that meets it; run.save(name=value), and numpy after the run",
    "__repr__": "run.save(name=value), and print it after the run",
    "__format__": "run.save(name=value), and print it after the run",
    "nonzero": "torch.where(condition, a, b), or topk with a fixed k",
    "masked_select": "x * mask, or torch.where(mask, x, 0)",
    "unique": "run.save(name=value), and unique after the run",
}
"""Operations that need a value which is not there yet -> what would work instead."""
INSTEAD = {
    "backward": "torch.autograd.grad(loss, values)",
    "retain_grad": "torch.autograd.grad(loss, values)",
    "grad": "torch.autograd.grad(loss, values)",
    "register_hook": "torch.autograd.grad inside the body",
    "requires_grad": "values of a forward that keeps gradients; torch.autograd.grad(loss, values)",
    "data": "x.detach()",
    "as_strided": "reshape, unfold, narrow or a slice",
    "set_": "an assignment to the point",
    "resize_": "reshape, or torch.nn.functional.pad",
    "map_": "operations on whole tensors",
    "cuda": "nothing: values are where the model is",
    "empty_like": "torch.zeros_like",
    "new_empty": "x.new_zeros",
    "new_tensor": "torch.tensor of plain numbers, or torch.stack of recorded ones",
    "apply_": "operations on whole tensors",
}
"""Other operations that are not in the table -> what would work."""


def page() -> str:
    """The table for reading: what `docs/usage/record.md` holds between its markers."""
    homes: dict[str, list[str]] = {}
    for name in TABLE:
        home, _, short = name.rpartition(".")
        homes.setdefault(home, []).append(short)
    listed = [
        textwrap.fill(f"{home}: {' '.join(sorted(names))}", 140, subsequent_indent="    ", break_on_hyphens=False)
        for home, names in homes.items()
    ]
    return "\n".join(["```text", *listed, "```", ""])
