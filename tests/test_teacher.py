"""EMATeacher follows its student: parameters and running statistics slowly, other buffers at once."""

import copy
import threading

import pytest
import torch
from torch import nn

from graphcorrect.teacher import EMATeacher


def student():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)).double()


def train_a_step(model):
    model.train()
    model(torch.randn(2, 3, 5, 4, dtype=torch.float64) + 3).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad)
            parameter.grad = None


def test_parameters_are_averaged():
    model = student()
    teacher = EMATeacher(model, momentum=0.9)
    expected = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        train_a_step(model)
        teacher.update(model)
        expected = [0.9 * old + 0.1 * new.detach() for old, new in zip(expected, model.parameters(), strict=True)]
    for mine, wanted in zip(teacher.module.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inside", ["teacher", "both"])
def test_a_teacher_outlives_the_inference_mode_that_it_was_made_in(inside):
    model = student()
    with torch.inference_mode():
        teacher = EMATeacher(student() if inside == "both" else model, momentum=0.75).float().double()
        teacher.load_state_dict({f"module.{name}": value for name, value in model.state_dict().items()})
    expected = EMATeacher(model, momentum=0.75)
    train_a_step(model)
    for each in (teacher, expected):
        each.update(model)
    for mine, wanted in zip(teacher.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, wanted)


def test_running_statistics_are_averaged_and_other_buffers_copied():
    model = student()
    model.register_buffer("place", torch.tensor(0.5))
    teacher = EMATeacher(model, momentum=0.75)
    train_a_step(model)
    model.place.fill_(2.0)
    assert model[1].running_mean.abs().max() > 0.01
    teacher.update(model)
    norm = teacher.module[1]
    torch.testing.assert_close(norm.running_mean, 0.25 * model[1].running_mean)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * model[1].running_var)
    assert norm.num_batches_tracked.item() == 1
    assert teacher.module.place.item() == 2.0


def test_a_teacher_of_a_student_that_stands_still_becomes_that_student():
    model = student()
    teacher = EMATeacher(model, momentum=0.5)
    for _ in range(3):
        train_a_step(model)
    for _ in range(60):
        teacher.update(model)
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(teacher(images), model.eval()(images))


def test_the_copy_is_not_the_student():
    model = student()
    teacher = EMATeacher(model)
    before = [p.clone() for p in teacher.module.parameters()]
    train_a_step(model)
    for mine, old in zip(teacher.module.parameters(), before, strict=True):
        assert torch.equal(mine, old)


def test_the_copy_answers_in_evaluation_mode_without_gradients():
    model = student()
    teacher = EMATeacher(model)
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.module.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    answer = teacher(images.requires_grad_())
    assert not answer.requires_grad
    torch.testing.assert_close(answer, model.eval()(images).detach())
    assert torch.equal(teacher(images), answer)


def test_the_student_stays_as_it_was():
    model = student().train()
    EMATeacher(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_teacher_resumes_from_its_state_dict():
    model = student()
    teacher = EMATeacher(model)
    train_a_step(model)
    teacher.update(model)
    resumed = EMATeacher(student())
    resumed.load_state_dict(teacher.state_dict())
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(resumed(images), teacher(images), rtol=0, atol=0)


def test_another_network_is_refused_by_name():
    teacher = EMATeacher(student())
    with pytest.raises(ValueError, match=r"`model`.*0\.weight"):
        teacher.update(nn.Sequential(nn.Conv2d(3, 5, 1)))


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_a_momentum_outside_zero_to_one_is_refused(momentum):
    with pytest.raises(ValueError, match=rf"`momentum`.*got {momentum}"):
        EMATeacher(student(), momentum=momentum)


def test_parameters_of_whole_numbers_are_copied():
    model = nn.Module()
    model.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    teacher = EMATeacher(model, momentum=0.9)
    model.count.data += 5
    teacher.update(model)
    assert teacher.module.count.tolist() == [6, 7]


class Shell(nn.Module):
    """As wrappers of other libraries have it: the network is `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return self.module(images)


class Keeps(nn.Module):
    """Keeps feature maps of its last pass, here and there."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, images):
        self.features = self.first(images)
        self.levels = {"all": [self.features, (2 * self.features,)]}
        return self.last(self.features)


def wrapped_inside(student):
    student[0] = torch.compile(student[0], backend="eager")
    return student


WRAPPERS = {
    "plain": lambda student: student,
    "compiled": lambda student: torch.compile(student, backend="eager"),
    "DataParallel": nn.DataParallel,
    "a shell": Shell,
    "compiled in a shell": lambda student: Shell(torch.compile(student, backend="eager")),
    "a shell compiled": lambda student: torch.compile(Shell(student), backend="eager"),
    "a part compiled": wrapped_inside,
}


@pytest.mark.parametrize("later", WRAPPERS)
@pytest.mark.parametrize("first", WRAPPERS)
def test_a_wrapped_student_moves_the_teacher_as_the_plain_one_does(first, later):
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    begin = student[0].weight.detach().clone()
    teacher = EMATeacher(WRAPPERS[first](copy.deepcopy(student)), momentum=0.75)
    with torch.no_grad():
        student[0].weight.add_(1.0)
        student[1].running_mean.fill_(3.0)
    teacher.update(WRAPPERS[later](student))
    weights = dict(teacher.named_parameters())
    moved = next(value for name, value in weights.items() if name.endswith("0.weight") or name.endswith("mod.weight"))
    torch.testing.assert_close(moved, begin + 0.25)
    assert next(value for name, value in teacher.named_buffers() if name.endswith("running_mean"))[0] == 0.75


def test_a_student_that_keeps_maps_of_its_last_pass_is_copied():
    student, images = Keeps(), torch.rand(1, 3, 8, 8)
    student(images).sum().backward()
    teacher = EMATeacher(student)
    torch.testing.assert_close(teacher(images), student(images))
    assert teacher.module.features.data_ptr() != student.features.data_ptr()
    teacher.update(student)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_student_whose_weight_is_computed_is_copied(normed):
    student = normed(nn.Linear(3, 2))
    student(torch.rand(4, 3)).sum().backward()
    teacher = EMATeacher(student, momentum=0.0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(2.0)
    teacher.update(student)
    student.eval()
    x = torch.rand(4, 3)
    torch.testing.assert_close(teacher(x), student(x))


def test_students_that_cannot_be_copied_or_followed_are_refused_in_words():
    with pytest.raises(TypeError, match="lazy weight, bias; pass it a batch first"):
        EMATeacher(nn.LazyLinear(3))
    student = nn.Linear(2, 2)
    student.lock = threading.Lock()
    with pytest.raises(TypeError, match="`model` that can be copied"):
        EMATeacher(student)
    with pytest.raises(TypeError, match="expected `model` to be a torch.nn.Module, got OrderedDict"):
        EMATeacher(nn.Linear(2, 2)).update(nn.Linear(2, 2).state_dict())
