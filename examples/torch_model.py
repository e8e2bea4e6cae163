"""Is a PyTorch model of yours training lazily? By its own training loop, and by where that ended.

    python examples/torch_model.py

`lst.diagnose` calls the loop twice, on a copy of the model and on its linearisation, a module like it: g compares two
trained models. With `trained=` nothing is trained: g is how far the model is from its linearisation *at those weights*.
"""

import torch

import lazyscope.torch as lst


def main() -> tuple[lst.Diagnosis, lst.Diagnosis]:
    """Diagnose with a training loop, then with the weights that it gives."""
    torch.manual_seed(0)
    x = torch.randn(900, 8)
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    data, held_out = torch.utils.data.TensorDataset(x[:800], y[:800]), (x[800:], y[800:])
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    ends = []

    def train(module: torch.nn.Module) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(20):
            for inputs, targets in torch.utils.data.DataLoader(data, batch_size=32, shuffle=True):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(module(inputs), targets).backward()
                optimizer.step()
        ends.append(module)

    loader = torch.utils.data.DataLoader(data, batch_size=32)
    by_loop = lst.diagnose(net, loader, held_out=held_out, train=train)
    by_end = lst.diagnose(net, loader, held_out=held_out, trained=ends[0])
    print(by_loop, by_end, sep="\n\n")
    return by_loop, by_end


if __name__ == "__main__":
    main()
