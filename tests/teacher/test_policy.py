"""The teacher as a policy, and its folder format."""

import asyncio
import copy
import json

import pytest
import torch

from exchange.records import Message, PublicExample
from exchange.settings import SettingError
from lab.weights_folder import weights_dir
from teacher.folder import end_biases, load_teacher, save_teacher
from teacher.policy import BrokenWeights, TransformersPolicy, as_instruction, end_ids, load_model, with_room
from teacher.prompt import HIDDEN, TeacherPrompt

EXAMPLES = [
    PublicExample(id=str(i), task="lab_arithmetic", split="test", query=text)
    for i, text in enumerate(
        ("Anna has 47 pens and Ben has 8 pens. How many pens are there altogether?", "Ravi lost 8 of the 47 cups. How many cups are left?")
    )
]


@pytest.fixture(scope="module")
def base():
    return load_model("lab:arithmetic/teacher")


def test_a_batch_writes_what_single_queries_get(base):
    policy = TransformersPolicy(*base, TeacherPrompt.named("lab"), max_instruction_tokens=40)
    together = asyncio.run(policy.instruct(EXAMPLES))
    alone = [asyncio.run(policy.instruct([example]))[0] for example in EXAMPLES]
    assert together == alone
    assert all(not instruction.truncated for instruction in together)


def generated(model, tokenizer, prompt):
    """What transformers' own loop makes of the examples."""
    turns = [[message.model_dump() for message in prompt.messages(example)] for example in EXAMPLES]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
    named = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    whole = model.generate(**named, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return [as_instruction(ids, tokenizer, end_ids(model, tokenizer)) for ids in whole[:, inputs["input_ids"].shape[1] :].tolist()]


def test_it_writes_what_transformers_generates(base):
    prompt = TeacherPrompt.named("lab")
    policy = TransformersPolicy(*base, prompt, max_instruction_tokens=40)
    expected = generated(*base, prompt)
    assert asyncio.run(policy.instruct(EXAMPLES)) == expected and expected[0].text


def test_under_an_adapter_too_which_hides_what_its_models_forward_takes(base):
    """GPT-2 has learned positions: a left-padded row that is not told its positions reads other ones."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ends = {"eos_token_id": base[1].eos_token_id, "bos_token_id": None}
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=len(base[1]), n_positions=256, n_embd=32, n_layer=2, n_head=2, **ends))
    adapter = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(plain, adapter).eval()
    prompt = TeacherPrompt.named("lab")
    policy = TransformersPolicy(model, base[1], prompt, max_instruction_tokens=40)
    assert asyncio.run(policy.instruct(EXAMPLES)) == generated(model, base[1], prompt)


def test_kinds_of_model_that_keep_a_state_of_their_own_are_refused(base, tmp_path):
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "lru_width": 32}
    RecurrentGemmaForCausalLM(RecurrentGemmaConfig(vocab_size=len(base[1]), **sizes)).save_pretrained(tmp_path)
    base[1].save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"recurrent_gemma\) keeps a state of its own between tokens; take a model of another kind"):
        load_model(str(tmp_path))


def test_draws_follow_torchs_seed_and_a_greedy_text_leaves_the_generator_alone(base):
    policy = TransformersPolicy(*base, TeacherPrompt.named("lab"), max_instruction_tokens=40, temperature=1.0)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(asyncio.run(policy.instruct(EXAMPLES * 8)))
    assert drawn[0] == drawn[1] != drawn[2] and len({i.text for i in drawn[0]}) > 2, "and equal questions get different ones"
    policy.temperature = 0.0
    before = torch.get_rng_state()
    asyncio.run(policy.instruct(EXAMPLES))
    policy.temperature = 1.0
    policy.silence_margins(EXAMPLES)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_cut_at_the_limit_is_marked(base):
    policy = TransformersPolicy(*base, TeacherPrompt.named("lab"), max_instruction_tokens=1, temperature=1.0)
    instructions = asyncio.run(policy.instruct(EXAMPLES * 20))
    assert any(instruction.truncated and instruction.num_tokens == 1 for instruction in instructions)


def test_a_model_that_computes_no_numbers_is_an_error_and_no_silence(base):
    broken = copy.deepcopy(base[0])
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    policy = TransformersPolicy(broken, base[1], TeacherPrompt.named("lab"), max_instruction_tokens=40)
    with pytest.raises(BrokenWeights, match="not finite"):
        asyncio.run(policy.instruct(EXAMPLES))


def test_ids_are_cut_at_the_end_token(base):
    tokenizer = base[1]
    words = tokenizer("Add the two numbers.")["input_ids"]
    ends = end_ids(*base)
    assert ends == {tokenizer.eos_token_id}
    ended = as_instruction([*words, tokenizer.eos_token_id, tokenizer.pad_token_id], tokenizer, ends)
    assert (ended.text, ended.num_tokens, ended.truncated, ended.source) == ("Add the two numbers.", len(words), False, "teacher")
    assert as_instruction(words, tokenizer, ends).truncated
    assert not as_instruction([*words, 7], tokenizer, frozenset({7, 8})).truncated
    silent = as_instruction([tokenizer.eos_token_id], tokenizer, ends)
    assert (silent.text, silent.source, silent.truncated) == ("", "silence", False)


def test_a_saved_teacher_loads_and_writes_the_same(base, tmp_path):
    prompt = TeacherPrompt.named("lab")
    facts = {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    manifest = save_teacher(tmp_path / "teacher", *base, prompt, facts)
    teacher = load_teacher(tmp_path / "teacher")
    assert (teacher.id, teacher.sha256) == ("t", manifest["sha256"])
    texts = [i.text for i in asyncio.run(teacher.policy.instruct(EXAMPLES))]
    direct = TransformersPolicy(*base, prompt, max_instruction_tokens=40)
    assert texts == [i.text for i in asyncio.run(direct.instruct(EXAMPLES))]


def test_a_bias_silences_who_is_in_doubt_and_stands_in_the_folder(base, tmp_path):
    prompt = TeacherPrompt.named("lab")
    spoken = TransformersPolicy(*base, prompt, max_instruction_tokens=40)
    margins = spoken.silence_margins(EXAMPLES)
    texts = [i.text for i in asyncio.run(spoken.instruct(EXAMPLES))]
    assert [margin >= 0 for margin in margins] == [not text for text in texts]
    speaking = sorted(margin for margin in margins if margin < 0)
    bias = -sum(speaking[-2:]) / 2  # between the two who are in doubt most
    facts = {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    manifest = save_teacher(tmp_path / "biased", *base, prompt, facts, silence_bias=bias)
    plain = save_teacher(tmp_path / "plain", *base, prompt, facts)
    assert manifest["sha256"] != plain["sha256"]
    biased = load_teacher(tmp_path / "biased").policy
    heard = [i.text for i in asyncio.run(biased.instruct(EXAMPLES))]
    assert [not text for text in heard] == [margin + bias >= 0 for margin in margins]
    assert heard.count("") == texts.count("") + 1
    assert biased.silence_margins(EXAMPLES) == pytest.approx(margins)
    drawn = load_teacher(tmp_path / "biased", temperature=1e-3).policy
    torch.manual_seed(0)
    assert [i.text for i in asyncio.run(drawn.instruct(EXAMPLES))] == texts, "who draws explores, and the bias would hide what there is"
    # Who trains on from it, or lets it write as a base model, samples what its weights say.
    on = TransformersPolicy(*load_model(str(tmp_path / "biased")), prompt, max_instruction_tokens=40)
    assert [i.text for i in asyncio.run(on.instruct(EXAMPLES))] == texts
    config = tmp_path / "biased" / "generation_config.json"
    config.write_text(config.read_text().replace('"sequence_bias": [', '"sequence_bias": [7,'))
    with pytest.raises(SettingError, match="sequence_bias"):
        end_biases(tmp_path / "biased")


def test_what_a_base_model_ships_for_sampling_bends_nothing(base, tmp_path):
    """Neither what we write nor what TRL samples: both fill what they leave open from the model's own config."""
    folder = tmp_path / "shipped"
    for part in base:
        part.save_pretrained(folder)
    config = json.loads((folder / "generation_config.json").read_text())
    bent = {"num_beams": 4, "no_repeat_ngram_size": 1, "suppress_tokens": [1], "repetition_penalty": 5.0, "min_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps({**config, **bent}))
    loaded = load_model(str(folder))
    assert not set(bent) & set(loaded[0].generation_config.to_diff_dict())
    assert end_ids(*loaded) == end_ids(*base)
    for temperature in (0.0, 1.0):
        texts = []
        for model in (base, loaded):
            torch.manual_seed(0)
            policy = TransformersPolicy(*model, TeacherPrompt.named("lab"), max_instruction_tokens=40, temperature=temperature)
            texts.append([i.text for i in asyncio.run(policy.instruct(EXAMPLES))])
        assert texts[0] == texts[1]
    facts = {"id": "t", "task": "x", "max_instruction_tokens": 8}
    save_teacher(tmp_path / "teacher", *loaded, TeacherPrompt.named("lab"), facts, silence_bias=1.0)
    assert not set(bent) & set(json.loads((tmp_path / "teacher" / "generation_config.json").read_text()))


def test_altered_or_incomplete_teachers_are_refused(base, tmp_path):
    folder = tmp_path / "teacher"
    save_teacher(folder, *base, TeacherPrompt.named("lab"), {"id": "t", "task": "x", "max_instruction_tokens": 8})
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(SettingError, match="do not match the manifest's sha256"):
        load_teacher(folder)
    (folder / "teacher.json").unlink()
    with pytest.raises(SettingError, match="not a teacher"):
        load_teacher(folder)


def test_models_that_cannot_be_loaded_say_why(tmp_path, base):
    with pytest.raises(SettingError, match=r"teacher model .* cannot be loaded"):
        load_model(str(tmp_path))
    source = weights_dir("arithmetic") / "teacher"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(SettingError, match=r"teacher model .* cannot be loaded"):
        load_model(str(tmp_path))
    with pytest.raises(SettingError, match="has no model 'nobody'"):
        load_model("lab:arithmetic/nobody")


def test_the_prompt_is_history_then_the_filled_template(tmp_path):
    example = EXAMPLES[0].model_copy(update={"query": "Is {query} safe?", "history": (Message(role="user", content="Hi"),)})
    messages = TeacherPrompt("Q: {query}\nI:").messages(example)
    assert [m.content for m in messages] == ["Hi", "Q: Is {query} safe?\nI:"]
    assert [m.content for m in TeacherPrompt("{query}", blind=True).messages(example)] == [HIDDEN]
    (tmp_path / "bad.txt").write_text("no slot")
    with pytest.raises(SettingError, match="exactly once"):
        TeacherPrompt.named(str(tmp_path / "bad.txt"))
    with pytest.raises(SettingError, match="shipped templates: default, default_three_step, lab, lab_three_step"):
        TeacherPrompt.named("nothing")


def test_a_query_beyond_the_context_is_passed_through_and_leaves_its_neighbours_alone(base):
    policy = TransformersPolicy(*base, TeacherPrompt.named("lab"), max_instruction_tokens=40)
    long = EXAMPLES[0].model_copy(update={"query": "long words " * 3000})
    first, second, third = asyncio.run(policy.instruct([EXAMPLES[0], long, EXAMPLES[1]]))
    assert (second.text, second.source) == ("", "passthrough")
    assert [first, third] == asyncio.run(policy.instruct(EXAMPLES))


@pytest.mark.parametrize(("text", "message"), [("{", "not a JSON object"), ("[]", "has no blind"), ('{"id": "x"}', "has no blind")])
def test_a_damaged_manifest_is_refused(base, tmp_path, text, message):
    save_teacher(tmp_path / "t", *base, TeacherPrompt.named("lab"), {"id": "t", "task": "x", "max_instruction_tokens": 8})
    (tmp_path / "t" / "teacher.json").write_text(text)
    with pytest.raises(SettingError, match=message):
        load_teacher(tmp_path / "t")


def test_the_manifest_is_json_with_both_template_versions(base, tmp_path):
    save_teacher(tmp_path / "t", *base, TeacherPrompt.named("lab"), {"id": "t", "task": "x", "max_instruction_tokens": 8})
    manifest = json.loads((tmp_path / "t" / "teacher.json").read_text())
    assert {len(manifest[key]) for key in ("sha256", "teacher_template", "advice_template")} == {64}


def test_a_teacher_without_a_chat_template_is_refused(tmp_path):
    source = weights_dir("arithmetic") / "teacher"
    for path in source.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SettingError, match="its tokenizer has no chat template; use an instruct model or add one"):
        load_model(str(tmp_path))


def test_questions_that_leave_no_room_are_left_out_and_too_few_are_refused():
    long = EXAMPLES[0].model_copy(update={"query": "long words " * 3000})
    prompt = TeacherPrompt.named("lab")
    kept = with_room([EXAMPLES[0], long, EXAMPLES[1]], "lab:arithmetic/teacher", prompt, max_instruction_tokens=40, needed=2)
    assert kept == EXAMPLES
    with pytest.raises(SettingError, match="the prompts of 1 of 3 questions leave no room for 40 tokens"):
        with_room([EXAMPLES[0], long, EXAMPLES[1]], "lab:arithmetic/teacher", prompt, max_instruction_tokens=40, needed=3)
