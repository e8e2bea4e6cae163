"""Is a PyTorch model of yours training lazily? Its weights were trained elsewhere.

    python examples/torch_model.py

`ls.adapters.from_torch` turns a module into a JAX function once; PyTorch is not called again. With `params=` the
trained weights are judged as they are: how far the model is from its linearisation *at those weights*.
"""

import jax
import jax.numpy as jnp
import torch

import lazyscope as ls


def main() -> ls.Diagnosis:
    """Train in PyTorch, then diagnose in JAX."""
    torch.manual_seed(0)
    x = torch.randn(1000, 8)
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    apply, params0 = ls.adapters.from_torch(net, x[:4].numpy())

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = 0.5 * ((net(x[:800]) - y[:800]) ** 2).mean()
        loss.backward()
        optimizer.step()

    trained = {name: jnp.asarray(value.detach().numpy()) for name, value in net.named_parameters()}
    arrays = [jnp.asarray(part.numpy()) for part in (x[:800], y[:800], x[800:900], y[800:900])]
    found = ls.diagnose(apply, params0, ls.Problem(*arrays), params=trained, key=jax.random.key(0))
    print(found)
    return found


if __name__ == "__main__":
    main()
