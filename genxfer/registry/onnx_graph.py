"""The nets that draw samples as one ONNX graph: z [n latent_dim] -> images [n C H W] in [-1, 1].

A family whose sampling is one pass is exported as it stands. A flow's is a loop: its net is exported once, as the body
of a Scan over the calls of Heun's method; unrolled, the same takes minutes to export and ten times as many nodes. Knows
nothing of files, nor of how exact the graph is.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from genxfer.models.config import FlowConfig
from genxfer.models.flow import shifted_times
from genxfer.registry.sampler import SnapshotSampler

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

STATE = ("x", "ahead", "slope")  # of the loop over a flow's steps
COEFFICIENTS = ("t", "of_slope", "of_velocity", "look_ahead")  # of one call of the net


def build_graph(sampler: SnapshotSampler) -> "ModelProto":
    """Return the model with the input `z` and the output `images`, the batch free; its weights are inside."""
    model = _loop(sampler) if isinstance(sampler.family.config, FlowConfig) else _single_pass(sampler)
    for graph in _graphs(model.graph):
        # The shapes of everything in between, and where in the source each node was made: as large as a small net.
        graph.ClearField("value_info")
        for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    return model


class SinglePass(nn.Module):
    """z [n Z] -> images [n C H W], as the family decodes."""

    def __init__(self, sampler: SnapshotSampler) -> None:
        super().__init__()
        self.sampler = sampler
        self.nets = sampler.family.nets

    def forward(self, z: Tensor) -> Tensor:
        """Return images [n C H W] in [-1, 1] of z [n Z]."""
        return self.sampler.decode(z)


class OneCall(nn.Module):
    """One call of a flow's net, and what Heun's method makes of it; the state is x, the point ahead, the last slope."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, x: Tensor, ahead: Tensor, slope: Tensor, t: Tensor, of_slope: Tensor, of_velocity: Tensor, look: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, each [n C H W], from the velocity at `ahead` and t []."""
        velocity = self.unet(ahead, t.expand(len(ahead)))
        x = x + of_slope * slope + of_velocity * velocity
        return x, x + look * velocity, velocity


def heun_calls(times: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Return COEFFICIENTS of each call of the net by `genxfer.models.flow.heun`, whose last step is Euler's.

    A step calls the net twice: to look ahead along its first slope, and to move by the mean of both slopes.
    """
    calls = []
    for t, after in pairwise(times):
        step = after - t
        if after < times[-1]:
            calls += [(t, 0.0, 0.0, step), (after, step / 2, step / 2, 0.0)]
        else:
            calls += [(t, 0.0, step, 0.0)]
    return calls


def _single_pass(sampler: SnapshotSampler) -> "ModelProto":
    return _export(SinglePass(sampler), (sampler.noise(2, 0),), ["z"], ["images"])


def _loop(sampler: SnapshotSampler) -> "ModelProto":
    from onnx import TensorProto, checker, helper, numpy_helper

    config, noise = sampler.family.config, sampler.noise(2, 0)
    assert isinstance(config, FlowConfig)
    # Tensors of their own: what is handed over twice is taken for one input.
    example = (*(noise.clone() for _ in STATE), *(torch.tensor(0.5) for _ in COEFFICIENTS))
    call = OneCall(sampler.family.nets["unet"])
    body = _export(call, example, [*STATE, *COEFFICIENTS], [f"next_{name}" for name in STATE])
    columns = np.array(heun_calls(shifted_times(config.sample_steps)), np.float32).T
    constants = {"shape": np.array([-1, *sampler.noise_shape]), **dict(zip(COEFFICIENTS, columns, strict=True))}
    nodes = [
        helper.make_node("Reshape", ["z", "all_shape"], ["noise"]),
        helper.make_node(
            "Scan",
            ["noise"] * len(STATE) + [f"all_{name}" for name in COEFFICIENTS],
            [f"last_{name}" for name in STATE],
            body=body.graph,
            num_scan_inputs=len(COEFFICIENTS),
        ),
        helper.make_node("Clip", ["last_x", "darkest", "brightest"], ["images"]),
    ]
    arrays = {f"all_{name}": value for name, value in constants.items()}
    arrays |= {"darkest": np.float32(-1), "brightest": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "flow",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", sampler.latent_dim])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *sampler.noise_shape])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=body.opset_import, ir_version=body.ir_version)
    checker.check_model(model)
    return model


def _export(module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str]) -> "ModelProto":
    """Return torch's own export of `module`; the first dimension of each tensor that is no scalar is the free batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to the exporter's caller, which is this function and not the user
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: "n"} if tensor.ndim else None for tensor in example),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _graphs(graph: "GraphProto") -> "list[GraphProto]":
    """Return `graph` and those inside of its nodes."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(deeper for found in inner for deeper in _graphs(found))]
