"""The shipped weights are whole, small, and refused when damaged."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import weights_folder
from lab.measure import BOUNDS
from lab.weights_folder import model_dir, one_at_a_time, read_manifest, weights_dir


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the shipped world that a test may damage."""
    shutil.copytree(weights_dir("arithmetic"), tmp_path / "arithmetic")
    monkeypatch.setattr(weights_folder, "weights_dir", lambda world: tmp_path / world)
    return tmp_path / "arithmetic"


def test_the_shipped_world_is_whole_and_small():
    for role in ("student", "student_b", "teacher"):
        assert model_dir("arithmetic", role).is_dir()
    files = [path for path in weights_dir("arithmetic").parent.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 4_000_000
    assert sum(path.stat().st_size for path in files) <= 11_000_000


def test_a_flipped_bit_and_a_missing_file_are_refused_by_name(copy):
    weights = copy / "teacher" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"model.safetensors does not match its sha256; restore it"):
        model_dir("arithmetic", "teacher")
    assert model_dir("arithmetic", "student").is_dir()
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing"):
        model_dir("arithmetic", "teacher")


def test_unknown_names_list_the_known_ones(copy):
    with pytest.raises(ValueError, match=r"no model 'judge'; it has .*student, student_b, student_c, teacher"):
        model_dir("arithmetic", "judge")
    with pytest.raises(ValueError, match=r"lab.pretrain chess"):
        read_manifest("chess")


def figures(role):
    return {name: entry["right"] for name, entry in read_manifest("arithmetic")["figures"][role].items() if name != "weights"}


@pytest.mark.parametrize("role", ["student", "student_b"])
def test_the_figures_keep_the_worlds_bounds(role):
    arms = figures(role)
    assert {"raw", "untrained", "oracle", "best_static"} <= set(arms)
    assert role != "student" or {"trained", "blind"} <= set(arms)
    assert arms["untrained"] < arms["raw"]
    for name, (low, high) in BOUNDS.items():
        assert name not in arms or low <= arms[name] <= high, (name, arms[name])


@pytest.mark.parametrize("role", ["student", "student_b"])
def test_the_figures_are_of_these_weights(role):
    manifest = read_manifest("arithmetic")
    assert manifest["figures"][role]["weights"] == manifest["files"][f"{role}/model.safetensors"]


def test_the_teacher_is_much_smaller_than_its_students():
    from teacher.estimate import parameters

    size = {role: parameters(model_dir("arithmetic", role)) for role in ("student", "student_b", "teacher")}
    assert max(size["student"], size["student_b"]) <= 1_000_000
    assert size["teacher"] <= 300_000
    assert 3 * size["teacher"] <= min(size["student"], size["student_b"])


def test_models_are_read_one_at_a_time():
    """Two at once break each other in transformers: a second teacher's weights had no data."""
    second, at_work = threading.Event(), 0

    def load():
        nonlocal at_work
        at_work += 1
        if at_work == 1:
            assert not second.wait(0.2)  # the other thread would come in now
        else:
            second.set()
        return at_work

    one, other = one_at_a_time(load), one_at_a_time(lambda: load())
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(function) for function in (one, other)]
    assert [future.result() for future in found] == [1, 2]
