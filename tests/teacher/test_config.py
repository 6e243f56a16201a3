"""Presets and the errors of a run's settings."""

import pytest

from exchange.settings import SettingError, load, parse_flags
from teacher.config import HUB_ALGORITHM, HUB_TRL, LAB_ALGORITHM, LAB_TRL, LAB_WARM_START, TrainConfig, resolve


def read(*flags, data=None):
    return resolve(load(TrainConfig, data or {}, parse_flags(flags)))


def test_no_config_is_the_lab_world():
    config = read()
    assert (config.task.name, config.student.model, config.teacher.preset) == ("lab_arithmetic", "lab:arithmetic/student", "lab")
    assert config.trl == {**LAB_TRL, **LAB_ALGORITHM["grpo"]} and config.teacher.warm_start == LAB_WARM_START


def test_a_hub_teacher_never_inherits_lab_values():
    config = read("--teacher.model=Qwen/Qwen2.5-0.5B-Instruct")
    assert config.teacher.preset == "hub" and config.trl == {**HUB_TRL, **HUB_ALGORITHM["grpo"]}
    assert config.trl["learning_rate"] == 1e-6 and config.trl["beta"] > 0 and config.trl["num_generations"] >= 8
    assert config.teacher.max_instruction_tokens == 128 and config.teacher.warm_start.questions > 0


def test_each_algorithm_has_defaults_of_its_own():
    assert read("--algorithm=rloo").trl == {**LAB_TRL, **LAB_ALGORITHM["rloo"]}
    assert read("--algorithm=ppo").trl["num_generations"] == 2
    assert read("--algorithm=ppo", "--trl.num_generations=4").trl["num_generations"] == 4


def test_what_the_user_sets_wins_over_the_preset():
    config = read("--trl.learning_rate=0.5", "--max_steps=3", "--teacher.warm_start.questions=0")
    assert config.trl["learning_rate"] == 0.5 and config.trl["num_generations"] == LAB_TRL["num_generations"]
    assert config.max_steps == 3 and config.teacher.warm_start.questions == 0


def test_a_warm_start_set_in_part_keeps_the_rest_of_its_preset():
    assert read("--teacher.warm_start.questions=7").teacher.warm_start == LAB_WARM_START.model_copy(update={"questions": 7})
    hub = read("--teacher.model=x/y", "--teacher.warm_start.questions=7").teacher.warm_start
    assert hub.learning_rate == 1e-5 and hub.questions == 7


def test_resolving_twice_changes_nothing():
    config = read("--seed=4")
    assert resolve(config) == config


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--max_step=3", "max_step=3: no such setting; did you mean max_steps?"),
        ("--student.base_ur=x", "did you mean student.base_url?"),
        ("--max_steps=many", "max_steps='many': input should be a valid integer"),
        ("--algorithm=grop", "algorithm='grop': input should be 'grpo', 'rloo' or 'ppo'"),
        ("--trl.max_steps=3", "trl.max_steps=3: set max_steps instead"),
        ("--trl.seed=3", "trl.seed=3: set seed instead"),
        ("--task.dial=2", "task.dial=2: input should be less than or equal to 1"),
        ("--task=gsm8k", "task='gsm8k': input should be a valid dictionary"),
        ("max_steps=3", "settings are written --name=value"),
    ],
)
def test_bad_settings_are_one_clear_line(flag, message):
    with pytest.raises(SettingError) as caught:
        read(flag)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "model", "penalty"),
    [
        ({"name": "gsm8k"}, "org/model", 1.0),
        ({"name": "own", "path": "x.jsonl"}, "org/model", 1.0),
        ({"name": "own", "path": "x.jsonl", "own": {"answer": None}}, "org/model", 0.0),
        ({"name": "hh_rlhf"}, "org/model", 0.0),
        ({"name": "gsm8k"}, "lab:arithmetic/teacher", 0.0),
    ],
)
def test_leakage_is_looked_for_where_a_real_teacher_meets_a_gold(task, model, penalty):
    config = TrainConfig.model_validate({"task": task, "teacher": {"model": model}})
    assert resolve(config).reward.leakage_penalty == penalty
    given = TrainConfig.model_validate({"task": task, "teacher": {"model": model}, "reward": {"leakage_penalty": 0.3}})
    assert resolve(given).reward.leakage_penalty == 0.3
