"""An alignment that is looked through with one's eyes."""

import numpy as np

from bahdanau_hf.alignment.record import Alignment

WEIGHTS = np.array(
    [[0.9, 0.06, 0.04], [0.02, 0.95, 0.03], [0.5, 0.25, 0.25], [0.0, 0.001, 0.999]],
    dtype=np.float32,
)
SOURCE = ["Call", "us", "<eos>"]
TARGET = ["联", "系", "我们", "。"]
ALIGNMENT = Alignment(SOURCE, TARGET, WEIGHTS)
