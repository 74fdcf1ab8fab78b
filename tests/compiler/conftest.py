import torch

# The tests of a suite share a machine; PyTorch alone would take all of it.
torch.set_num_threads(1)
