"""torchao's weight-only quantisation: the weights that its modules come to are used, in every use.

`test_tools` has an imitation of it. This is the real one, which reports on standard error what of
itself it cannot load, whenever transformers is imported.
"""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.changed_models import (
    FACTOR,
    KINDS,
    LINEAR,
    USES,
    build,
    compare,
    module_names,
    read_quantised,
)

torchao = pytest.importorskip("torchao.quantization", reason="torchao is not there (make torchao)")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
def test_int8_weights(kind: str, use: str) -> None:
    before = build(kind)
    model = copy.deepcopy(before)
    names = module_names(model, LINEAR)
    with torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            module.weight = nn.Parameter(module.weight * FACTOR)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert not any(type(model.get_submodule(name).weight) is nn.Parameter for name in names)
    compare(before, read_quantised(model, names), use, all_at_once=True)
