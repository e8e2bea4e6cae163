"""Small programs of `torch.nn`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Built = tuple[nn.Module, Any, Any]


class Of(nn.Module):
    """A module from a function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module, **tensors: torch.Tensor) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)
        for name, tensor in tensors.items():
            if tensor.requires_grad:
                self.register_parameter(name, nn.Parameter(tensor.detach()))
            else:
                self.register_buffer(name, tensor)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The function's value."""
        return self.function(self, *inputs)


def weight(*shape: int) -> torch.Tensor:
    return (torch.randn(*shape) / shape[-1] ** 0.5).requires_grad_()


def of(shape: tuple[int, ...], function: Callable[..., Any], *parts: nn.Module, **tensors: torch.Tensor) -> Built:
    return Of(function, *parts, **tensors), torch.randn(3, *shape), None


def chain(shape: tuple[int, ...], *parts: nn.Module) -> Built:
    return nn.Sequential(*parts), torch.randn(3, *shape), None


def rnn(kind: Any, **options: Any) -> Built:
    return of((4, 3), lambda s, x: s.parts[0](x)[0], kind(3, 4, batch_first=True, **options))


def attention(mask: str) -> Built:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = {}
        if mask == "causal":
            given = {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5), "is_causal": True}
        if mask == "padding":
            given = {"key_padding_mask": torch.arange(5)[None].expand(len(x), 5) >= 3}
        return s.parts[0](x, x, x, need_weights=False, **given)[0]

    return of((5, 8), forward, nn.MultiheadAttention(8, 2, batch_first=True))


def transformer() -> Built:
    module = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    return module, (torch.randn(3, 5, 8), torch.randn(3, 4, 8)), None


def scaled_dot_product(s: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (x @ s.w).chunk(3, -1)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask[2] = False  # a query without a key
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def convolution(**options: Any) -> Built:
    return chain((4, 9, 9), nn.Conv2d(4, 6, 3, **options), nn.GELU())


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))


def spectrally_normed() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))


def orthogonal() -> nn.Module:
    return nn.utils.parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley")


class Symmetric(nn.Module):
    """The symmetric part of a square matrix."""

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        """By its upper triangle."""
        return matrix.triu() + matrix.triu(1).mT


def symmetric() -> nn.Module:
    layer = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def tied() -> Built:
    embed, head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
    head.weight = embed.weight
    return nn.Sequential(embed, nn.LayerNorm(6), nn.Tanh(), head), torch.randint(0, 11, (3, 5)), None


def bags() -> Built:
    def forward(s: Any, tokens: torch.Tensor) -> torch.Tensor:
        return s.parts[0](tokens)

    return Of(forward, nn.EmbeddingBag(11, 6, mode="mean")), torch.randint(0, 11, (3, 5)), None


def in_place(s: Any, x: torch.Tensor) -> torch.Tensor:
    y = x @ s.w
    y[:, 0] *= 2
    y[:, 1:].add_(1).mul_(0.5)
    return y.add_(s.shift).tanh_()


def counted(s: Any, x: torch.Tensor) -> torch.Tensor:
    s.calls.add_(1)
    s.average.mul_(0.9).add_(0.1)
    return x @ s.w * s.average


def fourier_mix(s: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft2(x @ s.w).real


def fourier_operator(s: Any, x: torch.Tensor) -> torch.Tensor:
    modes = torch.fft.rfft(x, dim=-1) * torch.view_as_complex(s.w)
    return torch.fft.irfft(modes, n=x.shape[-1], dim=-1)


def state_space(s: Any, x: torch.Tensor) -> torch.Tensor:
    state, outputs = torch.zeros_like(x[:, 0] @ s.inwards), []
    for t in range(x.shape[1]):
        state = state * torch.exp(-functional.softplus(s.rate)) + x[:, t] @ s.inwards
        outputs.append(state @ s.outwards)
    return torch.stack(outputs, 1)


def mixture(s: Any, x: torch.Tensor) -> torch.Tensor:
    weights, chosen = torch.topk(torch.softmax(x @ s.router, -1), 2, dim=-1)
    return torch.einsum("bk,bkdo,bd->bo", weights / weights.sum(-1, keepdim=True), s.experts[chosen], x)


def branches(s: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cond(s.w.sum() > 0, lambda v, w: torch.tanh(v @ w), lambda v, w: v @ w * 2, (x, s.w))


def memory(s: Any, x: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(x, s.keys)
    return torch.softmax(-distance, -1) @ s.values


def products(s: Any, x: torch.Tensor) -> torch.Tensor:
    lifted = x.unsqueeze(-1) * s.a
    return torch.baddbmm(s.bias.expand(len(x), 4, 2), lifted, s.b.expand(len(x), 3, 2), beta=0.5)


def relative_bias(s: Any, x: torch.Tensor) -> torch.Tensor:
    place = torch.arange(5)
    bias = s.table[(place[:, None] - place[None]).clamp(-3, 3) + 3]
    return torch.softmax(x @ x.mT / 2 + bias, -1) @ (x @ s.w)


def rotary(s: Any, x: torch.Tensor) -> torch.Tensor:
    angle = torch.outer(torch.arange(5.0), 1 / 100 ** (torch.arange(0, 4, 2) / 4))
    turn = torch.polar(torch.ones_like(angle), angle)
    q = torch.view_as_complex((x @ s.w).unflatten(-1, (2, 2)))
    return torch.view_as_real(q * turn).flatten(-2)


MODELS: dict[str, Callable[[], Built]] = {
    "RNN": lambda: rnn(nn.RNN, num_layers=2),
    "RNN, relu, no bias": lambda: rnn(nn.RNN, nonlinearity="relu", bias=False),
    "LSTM, bidirectional": lambda: rnn(nn.LSTM, bidirectional=True),
    "LSTM with projection": lambda: rnn(nn.LSTM, proj_size=2),
    "GRU": lambda: rnn(nn.GRU),
    "LSTMCell": lambda: of((3,), lambda s, x: torch.cat(s.parts[0](x), -1), nn.LSTMCell(3, 4)),
    "attention": lambda: attention("none"),
    "attention, causal mask": lambda: attention("causal"),
    "attention, padding mask": lambda: attention("padding"),
    "attention, a query without a key": lambda: of((5, 4), scaled_dot_product, w=weight(4, 12)),
    "Transformer": transformer,
    "TransformerEncoder": lambda: chain((5, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "relative position bias": lambda: of((5, 4), relative_bias, w=weight(4, 4), table=weight(7)),
    "rotary positions, complex": lambda: of((5, 4), rotary, w=weight(4, 4)),
    "convolution, reflected padding": lambda: convolution(padding=1, padding_mode="reflect"),
    "convolution, replicated padding": lambda: convolution(padding=2, padding_mode="replicate"),
    "convolution, circular padding": lambda: convolution(padding=1, padding_mode="circular"),
    "convolution, dilated": lambda: convolution(dilation=2, padding="same"),
    "convolution, in groups": lambda: convolution(groups=2, stride=2),
    "convolution, depthwise separable": lambda: chain((4, 8, 8), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1)),
    "convolution, one axis": lambda: chain((2, 12), nn.Conv1d(2, 4, 5, 2, 2), nn.Hardswish(), nn.MaxPool1d(2)),
    "convolution, three axes": lambda: chain((2, 4, 6, 6), nn.Conv3d(2, 3, 3, padding=1), nn.AvgPool3d(2)),
    "convolution, transposed": lambda: chain((4, 5, 5), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), nn.Softplus()),
    "pixel shuffle and resizing": lambda: chain(
        (4, 4, 4), nn.Conv2d(4, 8, 1), nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bicubic")
    ),
    "fold and unfold": lambda: chain(
        (2, 6, 6), nn.Conv2d(2, 2, 1), nn.Unfold(3, stride=3), nn.Fold((6, 6), 3, stride=3)
    ),
    "pooling to a size": lambda: chain((2, 9, 9), nn.Conv2d(2, 3, 2), nn.AdaptiveMaxPool2d(3), nn.LPPool2d(2, 2)),
    "weight_norm": lambda: chain((4,), weight_normed(), nn.Tanh()),
    "spectral_norm": lambda: chain((4,), spectrally_normed(), nn.Tanh()),
    "orthogonal": lambda: chain((4,), orthogonal(), nn.Tanh()),
    "symmetric parametrisation": lambda: chain((4,), symmetric(), nn.SiLU()),
    "tied embedding": tied,
    "EmbeddingBag": bags,
    "in-place operations": lambda: of((4,), in_place, w=weight(4, 5), shift=torch.rand(5)),
    "buffers that change": lambda: of((4,), counted, w=weight(4, 3), average=torch.ones(3), calls=torch.tensor(0)),
    "einsum": lambda: of((3, 4), lambda s, x: torch.einsum("bij,jkl,bik->bl", x, s.w, x), w=weight(4, 4, 5)),
    "bilinear form": lambda: of((4,), lambda s, x: s.parts[0](x, torch.tanh(x)), nn.Bilinear(4, 4, 3)),
    "Fourier mixing": lambda: of((4, 6), fourier_mix, w=weight(6, 6)),
    "Fourier operator": lambda: of((2, 8), fourier_operator, w=weight(5, 2)),
    "state space, by hand": lambda: of(
        (6, 3), state_space, inwards=weight(3, 4), outwards=weight(4, 2), rate=weight(4)
    ),
    "mixture of experts, by hand": lambda: of((4,), mixture, router=weight(4, 3), experts=weight(3, 4, 2)),
    "two branches (cond)": lambda: of((4,), branches, w=weight(4, 3)),
    "soft nearest neighbours": lambda: of((4,), memory, keys=weight(6, 4), values=weight(6, 2)),
    "batched products": lambda: of((4,), products, a=weight(3), b=weight(3, 2), bias=weight(4, 2)),
    "normalisations": lambda: chain(
        (4, 6),
        nn.Conv1d(4, 6, 3),
        nn.BatchNorm1d(6),
        nn.GroupNorm(2, 6),
        nn.InstanceNorm1d(6, affine=True),
        nn.RMSNorm(4),
    ),
    "losses as outputs": lambda: of(
        (4,),
        lambda s, x: functional.cross_entropy(x @ s.w, x.argmax(-1), reduction="none", label_smoothing=0.1),
        w=weight(4, 4),
    ),
}
