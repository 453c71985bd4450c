"""A student learns from its teacher's answers, starts as its copy, and waits for it."""

import math

import pytest
import torch
from torch import nn

from i2p_lib.runs import RunError, execute, run_all, status
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import RunSpec
from i2p_lib.runs.store import Entry
from i2p_lib.runs.tables import RunResult
from i2p_lib.train.classify import distillation_loss, teacher_answers
from i2p_lib.train.loop import train

TEACHER = RunSpec(points=64, voxel_size=0.25, epochs=1, batch_size=8, test_limit=8,
                  weights="random", shots=1, episode=0)  # fmt: skip
STUDENT = TEACHER.but(shots=None, episode=None, train_limit=16, teacher=TEACHER, distill="soft",
                      temperature=0.8)  # fmt: skip


def logits(seed):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).double()


def test_the_soft_loss_is_the_formula_at_the_papers_temperature():
    student, teacher, T = logits(0), logits(1), 0.8
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / T) / sum(math.exp(w / T) for w in t) for v in t]
        q = [math.exp(v / T) / sum(math.exp(w / T) for w in s) for v in s]
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    loss = distillation_loss(student, teacher, "soft", T)
    assert float(loss) == pytest.approx(T**2 * total / 5)


def test_the_hard_loss_reads_the_teachers_first_choice_from_real_logits():
    student, teacher = logits(0), logits(1) / 10  # cut to integers, all of these would be 0
    best = teacher.argmax(1)
    log_p = student - student.logsumexp(1, keepdim=True)
    wanted = -log_p[torch.arange(5), best].mean()
    assert torch.isclose(distillation_loss(student, teacher, "hard", None), wanted)
    assert len(best.unique()) > 1


def test_a_teacher_does_not_learn_whatever_mode_it_came_in():
    teacher = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before, x = teacher[1].running_mean.clone(), torch.rand(4, 3)
    answers = teacher_answers(teacher, x, STUDENT)
    assert not answers.requires_grad and not teacher.training
    assert torch.equal(teacher[1].running_mean, before)


def test_the_originals_teacher_is_in_training_mode_and_its_hard_labels_are_cut():
    teacher, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.randn(8, 3)
    original = STUDENT.but(protocol="released", distill="hard", temperature=None)
    answers = teacher_answers(teacher, x, original)
    assert teacher.training and torch.equal(answers, teacher(x).trunc())
    soft = teacher_answers(teacher, x, original.but(distill="soft", temperature=0.8))
    assert torch.equal(soft, teacher(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": None, "temperature": None}, "teacher and distill belong together"),
        ({"temperature": None}, "temperature belongs to distill: soft"),
        ({"distill": "hard"}, "temperature belongs to distill: soft"),
        ({"model": "resnet18"}, "differ in .*'model'"),
        ({"regime": "io"}, "a student trains all layers"),
    ],
)
def test_a_student_that_cannot_follow_its_teacher_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        STUDENT.but(**changes)


def test_a_spec_with_a_teacher_survives_json():
    assert RunSpec(**STUDENT.model_dump(mode="json")) == STUDENT
    assert STUDENT.chain() == [TEACHER, STUDENT]


def test_a_profile_writes_a_teacher_as_what_it_does_otherwise(tmp_path):
    path = tmp_path / "p.yml"
    text = ("experiments: {semi: [{weights: random, epochs: 7, distill: hard, "
            "teacher: {shots: 5, episode: 0}}]}\n")  # fmt: skip
    path.write_text(text)
    (student,) = load_profile(path).all_specs()
    assert student.teacher == RunSpec(weights="random", epochs=7, shots=5, episode=0)
    path.write_text(text.replace("shots", "shot"))
    with pytest.raises(ValueError, match="teacher: unknown setting 'shot'; did you mean 'shots'"):
        load_profile(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store in which two workers were asked for a student alone."""
    root = tmp_path_factory.mktemp("runs")
    run_all([STUDENT], workers=2, store=root, progress=False)
    return root


def test_a_student_brings_its_teacher_and_both_are_found_again(trained, monkeypatch):
    assert list(status([TEACHER, STUDENT], store=trained)["state"]) == ["done", "done"]
    monkeypatch.setattr(execute, "train", None)  # nothing may train any more
    assert run_all([STUDENT], store=trained, progress=False)[0].metrics["n_train"] == 16


def test_a_student_starts_as_its_teacher_which_stays_as_it_is(trained):
    state = execute._start(Entry.of(STUDENT, trained), torch.device("cpu"))
    wanted = RunResult.load(Entry.of(TEACHER, trained)).network().state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in state.net.state_dict().items())
    state.task.splits["train"].labels.fill_(0)  # labels must not matter
    train(state)
    assert all(torch.equal(t, wanted[name]) for name, t in state.task.teacher.state_dict().items())
    ended = RunResult.load(Entry.of(STUDENT, trained)).network().state_dict()
    assert all(torch.equal(t, ended[name]) for name, t in state.net.state_dict().items())


def test_a_student_whose_teacher_failed_is_not_tried(tmp_path):
    bad = TEACHER.but(points=99_999)
    student = STUDENT.but(teacher=bad)
    with pytest.raises(RunError, match="its teacher failed") as error:
        run_all([student], workers=1, store=tmp_path, progress=False)
    assert [spec for spec, _ in error.value.failures] == [bad, student]
    assert not Entry.of(student, tmp_path).folder.exists()
