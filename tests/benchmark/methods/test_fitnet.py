"""FitNet: the regressor and the hint loss against plain loops, in all four cases of map sizes."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info
from torch import nn

import models
from benchmark import methods
from benchmark.errors import InputError

B = 4

# Shapes of the student's and the teacher's second stage, by the student's side relative to the teacher's.
CASES = {
    "twice": ((3, 4, 4), (2, 2, 2)),
    "half": ((3, 2, 2), (2, 4, 4)),
    "equal": ((3, 3, 3), (2, 3, 3)),
    "larger": ((3, 5, 5), (2, 3, 3)),
}


def context_of(student, teacher):
    """A context whose networks have these second stages."""
    return make_context(*(tiny_info(stages=((2, 4, 4), shape)) for shape in (student, teacher)))


def convolve(conv, x, out, input_position):
    """A (transposed) convolution in plain loops: `[B][C][H][W]` -> `[B][D][out][out]`.

    input_position(o, k): the input position that weight k reads for output position o, on one axis, or None.
    """
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weight, bias = conv.weight.tolist(), conv.bias.tolist()
    size, kernel = len(x[0][0]), conv.kernel_size[0]
    result = [[[[b] * out for _ in range(out)] for b in bias] for _ in x]
    for n, image in enumerate(x):
        for o, i, row, col, k, j in (
            (o, i, row, col, k, j)
            for o in range(len(bias))
            for i in range(len(image))
            for row in range(out)
            for col in range(out)
            for k in range(kernel)
            for j in range(kernel)
        ):
            r, c = input_position(row, k), input_position(col, j)
            if r is not None and c is not None and 0 <= r < size and 0 <= c < size:
                w = weight[i][o] if transposed else weight[o][i]
                result[n][o][row][col] += w[k][j] * image[i][r][c]
    return result


INPUT_POSITION = {
    "twice": lambda o, k: 2 * o - 1 + k,
    "half": lambda o, k: (o + 1 - k) // 2 if (o + 1 - k) % 2 == 0 else None,
    "equal": lambda o, k: o + k,
    "larger": lambda o, k: o + k,
}

KERNEL = {"twice": 3, "half": 4, "equal": 1, "larger": 3}  # "larger": 1 + (5 - 3)


def norm_relu(x, bn):
    """Batch norm with the batch's own statistics, then ReLU, in plain loops."""
    result = [[None] * len(x[0]) for _ in x]
    for c in range(len(x[0])):
        values = [v for image in x for row in image[c] for v in row]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        gain, bias = bn.weight[c].item(), bn.bias[c].item()
        for n, image in enumerate(x):
            result[n][c] = [
                [max(0.0, gain * (v - mean) / math.sqrt(variance + bn.eps) + bias) for v in row]
                for row in image[c]
            ]
    return result


@pytest.mark.parametrize("case", CASES)
def test_value(case):
    context = context_of(*CASES[case])
    method = build("fitnet", context)
    conv, bn, _ = method.regressor
    assert conv.kernel_size == (KERNEL[case],) * 2
    with torch.no_grad():
        bn.weight.uniform_(0.5, 1.5)
        bn.bias.uniform_(-0.5, 0.5)
    student, teacher = fake_features(context.student, B), fake_features(context.teacher, B, seed=1)
    f_t = teacher.stages[1].tolist()
    convolved = convolve(conv, student.stages[1].tolist(), len(f_t[0][0]), INPUT_POSITION[case])
    r = norm_relu(convolved, bn)
    squares = [
        (r[n][c][y][x] - f_t[n][c][y][x]) ** 2
        for n in range(B)
        for c in range(2)
        for y in range(len(f_t[0][0]))
        for x in range(len(f_t[0][0]))
    ]
    loss = method.loss(make_step(context, student, teacher))["fitnet"]
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_the_stage_and_the_regressor(case):
    context = context_of(*CASES[case])
    method = build("fitnet", context)
    student = fake_features(context.student, B, requires_grad=True)
    loss = method.loss(make_step(context, student, fake_features(context.teacher, B, seed=1)))["fitnet"]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }


def test_only_the_hint_layer_and_the_regressor_get_gradients():
    context = context_of(*CASES["twice"])
    method = build("fitnet", context)
    student = fake_features(context.student, B, requires_grad=True)
    method.loss(make_step(context, student, fake_features(context.teacher, B, seed=1)))["fitnet"].backward()
    assert student.stages[0].grad is None
    assert student.stages[1].grad.any()
    assert all(p.grad is not None for p in method.parameters())
    assert method.regressor[0].weight.grad.any()


@pytest.mark.parametrize(("layer", "part"), [(0, "stem"), (1, "stages"), (3, "stages")])
def test_another_layer(layer, part):
    info = tiny_info(stages=((3, 4, 4), (4, 3, 3), (5, 2, 2)), stem=(2, 4, 4))
    context = make_context(info, info)
    method = build("fitnet", context, layer=layer)
    assert method.needs(method.config).teacher == {part}
    student, teacher = fake_features(context.student, B), fake_features(context.teacher, B, seed=1)
    expected = (method.regressor(student.maps[layer]) - teacher.maps[layer]).square().mean()
    torch.testing.assert_close(method.loss(make_step(context, student, teacher))["fitnet"], expected)


def test_weight_zero_is_not_computed():
    context = context_of(*CASES["equal"])
    step = make_step(context, fake_features(context.student, B), fake_features(context.teacher, B))
    assert build("fitnet", context, weight=0.0).loss(step) == {}


def skip(student, teacher, layer=2):
    method = methods.get("fitnet")
    return method.skip(method.Config(layer=layer), student, teacher)


def test_a_student_map_smaller_but_not_half_is_skipped_with_a_reason():
    reason = skip(tiny_info(stages=((2, 8, 8), (2, 3, 3))), tiny_info(stages=((2, 8, 8), (2, 4, 4))))
    assert "3x3" in reason and "4x4" in reason


@pytest.mark.parametrize("layer", [3, 4])
def test_a_missing_stage_is_skipped_with_a_reason(layer):
    small, large = tiny_info(name="small"), tiny_info(stages=((2, 4, 4),) * 4)
    for student, teacher in ((small, large), (large, small)):
        assert "small has only 2 stages" in skip(student, teacher, layer=layer)
    assert skip(small, large, layer=1) is None


PAIRS = """
wrn_40_2:wrn_16_2 wrn_40_2:wrn_40_1 resnet56:resnet20 resnet110:resnet20 resnet110:resnet32
resnet32x4:resnet8x4 vgg13:vgg8 vgg13:MobileNetV2 ResNet50:MobileNetV2 ResNet50:vgg8
resnet32x4:ShuffleV1 resnet32x4:ShuffleV2 wrn_40_2:ShuffleV1
"""


@pytest.mark.parametrize("pair", PAIRS.split())
def test_every_pair_of_the_tables_has_a_regressor_that_fits(pair):
    teacher, student = (models.info(name, 100) for name in pair.split(":"))
    assert skip(student, teacher) is None
    method, context = methods.get("fitnet"), make_context(student, teacher)
    with torch.device("meta"):
        built = method(method.Config(), context)
        out = built.regressor(torch.empty(2, *student.stage_shapes[1]))
    assert out.shape[1:] == teacher.stage_shapes[1]


def test_layer_outside_the_networks_is_an_input_error():
    with pytest.raises(InputError, match=r"fitnet.layer=7 is not allowed; allowed: 0, 1, 2, 3, 4"):
        methods.parse("fitnet", {"fitnet.layer": "7"})
