"""The computed memory: parameter counts against real models, parts against arithmetic by hand."""

import pytest

from exchange.settings import load, parse_flags
from lab.weights_folder import model_dir
from teacher.config import TrainConfig, resolve
from teacher.estimate import parameters
from teacher.memory import SHAPES, memory, shape_of, training_gib, vllm_share

HALF = SHAPES["Qwen/Qwen2.5-0.5B-Instruct"]


def read(*flags):
    return resolve(load(TrainConfig, {}, parse_flags(["--teacher.model=Qwen/Qwen2.5-0.5B-Instruct", *flags])))


@pytest.mark.parametrize("role", ["student", "student_b", "teacher"])
def test_a_shape_counts_the_weights_of_a_real_folder(role):
    folder = model_dir("arithmetic", role)
    assert shape_of(str(folder)).parameters == pytest.approx(parameters(folder), rel=0.01)


def test_the_known_shapes_have_the_published_sizes():
    published = {
        "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
        "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
        "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    }
    for name, count in published.items():
        assert SHAPES[name].parameters == pytest.approx(count, rel=0.001)


def test_an_adapter_counts_what_peft_makes():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = model_dir("arithmetic", "teacher")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    assert shape_of(str(folder)).adapter(4) == model.get_nb_trainable_parameters()[0]


def test_logits_of_a_large_vocabulary_are_counted():
    parts = training_gib(read(), HALF, prompt_tokens=300)
    assert parts["logits"] == round(8 * 129 * 151_936 * 14 / 2**30, 3) == 2.044
    assert training_gib(read("--trl.per_device_train_batch_size=4"), HALF, 300)["logits"] == 1.022


def test_an_adapter_needs_no_reference_and_hardly_an_optimizer():
    full, adapter = training_gib(read(), HALF, 300), training_gib(read("--teacher.lora.r=16"), HALF, 300)
    assert full["weights"] == pytest.approx(HALF.parameters * 10 / 2**30, abs=0.01)
    assert adapter["weights"] == pytest.approx(HALF.parameters * 6 / 2**30, abs=0.01)
    assert full["optimizer"] > 5 and adapter["optimizer"] < 0.2


@pytest.mark.parametrize(
    ("args", "share"),
    [("[--gpu-memory-utilization, '0.42']", 0.42), ("[--gpu-memory-utilization=0.3]", 0.3), ("[--max-model-len, '4096']", 0.9)],
)
def test_the_share_of_a_launched_vllm_is_what_its_arguments_say(args, share):
    config = read("--student.kind=vllm", "--student.model=m", "--student.vllm.launch", f"--student.vllm.args={args}")
    assert vllm_share(config.student) == share


def test_a_run_fits_or_does_not():
    flags = ["--student.kind=vllm", "--student.model=m", "--student.vllm.launch", "--run.gpu_gib=48"]
    found = memory(read(*flags, "--student.vllm.args=[--gpu-memory-utilization, '0.4']"), trains=True, prompt_tokens=300)
    assert found["fits"] is True and found["total"] == pytest.approx(found["teacher"] + 0.4 * 48 + 1.0, abs=0.02)
    assert memory(read(*flags), trains=True, prompt_tokens=300)["fits"] is False  # vLLM's own 0.9
    assert memory(read("--teacher.model=no/such", *flags), trains=True, prompt_tokens=300)["fits"] is None
