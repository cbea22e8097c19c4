"""DRG against its formula in plain loops; the auxiliary classifier against a computation layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info, weights
from selfkd_kit import kl, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(stages=((3, 8, 8), (4, 8, 8), (5, 4, 4))), None)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    student = fake_features(CONTEXT.student)
    step = make_step(CONTEXT, student)
    method = build("drg", CONTEXT, temperature=temperature)
    z_aux = method.auxiliary(student.stages[1]).tolist()
    terms = method.loss(step)
    guidance = [
        kl(softmax(a, temperature), z, temperature)
        for a, z in zip(z_aux, student.logits.tolist(), strict=True)
    ]
    assert terms["drg"].item() == pytest.approx(temperature**2 * sum(guidance) / 6, rel=1e-12)
    cross_entropies = [
        -torch.log(torch.tensor(softmax(a)[y])).item()
        for a, y in zip(z_aux, step.labels.tolist(), strict=True)
    ]
    assert terms["drg_aux"].item() == pytest.approx(sum(cross_entropies) / 6, rel=1e-6)


def test_the_auxiliary_classifier_layer_by_layer():
    x = fake_features(CONTEXT.student).stages[1]
    net = build("drg", CONTEXT).auxiliary.eval()
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(
            (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None]
            + bias[:, None, None]
        )

    def separable(x, name, stride):
        for first, step in ((0, stride), (4, 1)):
            x = F.conv2d(x, state[f"{name}.{first}.weight"], stride=step, padding=1, groups=x.shape[1])
            x = norm(F.conv2d(x, state[f"{name}.{first + 1}.weight"]), f"{name}.{first + 2}")
        return x

    small = norm(separable(x, "attention.0", 2), "attention.1")
    positions = torch.linspace(0, 3, 8, dtype=x.dtype)  # aligned corners: 4 positions over 8
    weights = (1 - (positions[:, None] - torch.arange(4)).abs()).clamp(min=0)
    attended = x * torch.sigmoid(torch.einsum("ih,jw,bchw->bcij", weights, weights, small))
    pooled = separable(separable(attended, "deeper.0", 2), "deeper.1", 2).mean((2, 3))
    torch.testing.assert_close(net(x), pooled @ state["classify.weight"].t() + state["classify.bias"])
    assert pooled.shape[1] == 16
    assert sum(k.endswith("bias") for k in state) == 8, "only batch norms and the classifier have biases"


def test_gradients():
    """The KL reaches only the network's logits, the auxiliary cross-entropy only the second stage."""
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("drg", CONTEXT).loss(make_step(CONTEXT, student))
    assert reaches(terms["drg"], student, "logits") and reaches(terms["drg_aux"], student, "stages")
    terms["drg_aux"].backward()
    assert student.stages[0].grad is None and student.stages[1].grad.any()


def test_weights_and_skip():
    assert weights(build("drg", CONTEXT)) == {"drg": 0.2, "drg_aux": 1.0}
    assert methods.parse("drg+dsr").ce == 1.0
    step = make_step(CONTEXT, fake_features(CONTEXT.student))
    assert build("drg", CONTEXT, guide=0.0, aux=0.0).loss(step) == {}
    assert "second stage" in methods.get("drg").skip(None, tiny_info(stages=((3, 4, 4),)), None)
    assert methods.get("drg").skip(None, CONTEXT.student, None) is None
