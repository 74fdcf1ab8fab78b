"""Makes `weights.npz`: PhotoNet trained on studio photos, which anybody may see. A few minutes on one core.

python examples/photos/train.py

One thread and fixed seeds: the same machine and the same PyTorch make the same file.
"""

from pathlib import Path

import numpy as np
import torch
from data import HOME, photos
from net import PhotoNet
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("weights.npz")
PHOTOS, PASSES, MINIBATCH = 8000, 12, 64


def trained() -> PhotoNet:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, public = PhotoNet(), photos(PHOTOS, seed=1)
    x, y = torch.from_numpy(public.x), torch.from_numpy(public.y).long()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = PASSES * (PHOTOS // MINIBATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    order = np.random.default_rng(2)
    for turn in range(PASSES):
        total = 0.0
        for part in order.permutation(PHOTOS).reshape(-1, MINIBATCH):
            seen = x[part].flip(3) if order.random() < 0.5 else x[part]
            loss = F.cross_entropy(net(seen), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"pass {turn + 1}: loss {total / (PHOTOS // MINIBATCH):.3f}", flush=True)
    return net.eval()


def main() -> None:
    net = trained()
    for where, seen in (("studio", photos(1000, seed=3)), ("home", photos(1000, seed=4, manner=HOME))):
        with torch.no_grad():
            right = net(torch.from_numpy(seen.x)).argmax(1).numpy() == seen.y
        print(f"{where}: {right.mean():.1%} of {len(seen)} photos it has not seen")
    tensors = {name: t.numpy() for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    np.savez_compressed(WEIGHTS, **tensors)
    print(f"wrote {WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
