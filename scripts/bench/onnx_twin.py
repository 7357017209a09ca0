"""The encoders of the PyTorch twin run by ONNX Runtime, which many people serve models with."""

import tempfile
from typing import TYPE_CHECKING

import onnxruntime
import torch
from torch import nn

from bench.measure import Call

if TYPE_CHECKING:
    from torch_twin import Twin


class _Encoder(nn.Module):
    """One method of the twin as the forward pass that is exported."""

    def __init__(self, model: nn.Module, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, self.method)(x)


def encode_calls(twin: "Twin") -> dict[str, Call]:
    """{"image", "text"}: the twin's encoders at its batch size, with all graph optimisations."""
    return {
        tower: _call(_Encoder(twin.model, f"encode_{tower}").eval(), twin.batch[name])
        for tower, name in (("image", "image"), ("text", "text_ids"))
    }


def _call(encoder: nn.Module, x: torch.Tensor) -> Call:
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.onnx.export(encoder, (x,), dynamo=True, verbose=False)
        assert program is not None, "with dynamo=True the exporter returns the program"
        program.save(file := f"{folder}/encoder.onnx")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, inputs)
