"""torch says that there is a GPU, in this process and (on PYTHONPATH) in all that it starts."""

import torch

torch.cuda.is_available = lambda: True
