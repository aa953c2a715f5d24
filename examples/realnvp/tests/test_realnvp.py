"""Does the flow do what it declares?"""

from __future__ import annotations

import pytest
import torch
from realnvp_plugin import SPEC, FlowConfig
from realnvp_plugin.flow import RealNVP

from studio.plugin import DataInfo
from studio.testing import check_plugin


@pytest.mark.parametrize("data", ["points", "pictures"])
def test_conformance(data: str) -> None:
    check_plugin(SPEC, data=data).require()


def flow(shape: tuple[int, ...]) -> RealNVP:
    """With weights that make it no identity."""
    torch.manual_seed(0)
    model = RealNVP(FlowConfig(width=16, couplings=4), DataInfo(shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_decoding_inverts_encoding(shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape, dtype=torch.float64)
    model = flow(shape)
    assert torch.allclose(model.decode(model.encode(x)), x, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_the_likelihood_is_that_of_the_change_of_variables(shape: tuple[int, ...]) -> None:
    model = flow(shape)
    x = torch.rand(1, *shape, dtype=torch.float64)

    def latents(values: torch.Tensor) -> torch.Tensor:
        return model._flow(model._enter(values[None], None)[0])[0][0]

    jacobian = torch.autograd.functional.jacobian(latents, x[0]).reshape(x.numel(), x.numel())
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latents(x[0])).sum()
    expected = normal + torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(model.log_likelihood(x)[0], expected, atol=1e-9)
