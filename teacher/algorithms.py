"""GRPO and RLOO through TRL's trainers, PPO through ours (`teacher.ppo`): what a run adds is whole checkpoints, validation and logs.

TRL owns generation, advantages and the loss. The student is asked by `teacher.rewarder`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exchange.settings import SettingError
from teacher.ahead import Begin, ahead_of
from teacher.config import TrainConfig
from teacher.policy import load_model
from teacher.ppo import ppo_trainer
from teacher.processes import Processes
from teacher.run_directory import RunDirectory, mark_complete
from teacher.trl_on_cpu import drop_finished_rows, score_labelled_tokens_alone


def trl_config(config: TrainConfig, output_dir: Path) -> Any:
    """TRL's config for a resolved run: `RLOOConfig` for rloo, `GRPOConfig` for the others.

    Raises SettingError for a field it does not have or a combination it refuses.
    """
    import difflib
    from typing import get_type_hints

    import torch
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from transformers.integrations import get_reporting_integration_callbacks
    from trl import GRPOConfig, RLOOConfig

    config_class = RLOOConfig if config.algorithm == "rloo" else GRPOConfig
    on_gpu = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_steps": config.max_steps,
        "seed": config.seed,
        "max_completion_length": config.teacher.max_instruction_tokens,
        "save_strategy": "steps",
        "save_steps": config.eval.every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "run_name": output_dir.parent.name,
        "report_to": [name for name in config.run.report_to.split(",") if name != "none"],
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "activation_checkpointing": False,
        "ddp_find_unused_parameters": False,
    }
    fields = set(config_class.__dataclass_fields__)
    for name, value in config.trl.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean trl.{near[0]}?" if near else ""
            raise SettingError(f"trl.{name}: TRL's {config_class.__name__} has no such field{hint}")
        # TRL's own dataclass takes any type; a wrong one would surface steps later.
        try:
            TypeAdapter(get_type_hints(config_class)[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            raise SettingError(f"trl.{name}={value!r}: {error.errors()[0]['msg'].lower()}") from None
    try:
        args = config_class(**{**ours, **config.trl})
    except (ValueError, TypeError) as error:
        raise SettingError(f"trl: {' '.join(str(error).split())}") from None
    try:
        for tracker in get_reporting_integration_callbacks(args.report_to):
            tracker()  # only so does it say that its package is missing
    except (ValueError, RuntimeError) as error:
        raise SettingError(f"run.report_to={config.run.report_to!r}: {' '.join(str(error).split())}") from None
    # TRL keeps a generated batch over several steps and does not save it; a checkpoint inside one would resume differently.
    period = args.steps_per_generation * args.num_iterations
    if (config.eval.every * args.gradient_accumulation_steps) % period:
        aligned = math.lcm(period, args.gradient_accumulation_steps) // args.gradient_accumulation_steps
        raise SettingError(f"eval.every={config.eval.every}: checkpoints must fall between generated batches; use a multiple of {aligned}")
    return args


def lora_config(config: TrainConfig) -> Any:
    """peft's config of the run's adapter; None where all weights are trained."""
    if config.teacher.lora is None:
        return None
    from peft import LoraConfig

    lora = config.teacher.lora
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def questions_a_batch(args: Any) -> int:
    """Questions that one generated batch holds; fewer training questions than that would train nothing."""
    return int(args.generation_batch_size // args.num_generations)


def generated_questions(config: TrainConfig) -> int:
    """Questions in all batches that a run generates; one that comes again counts again."""
    args = trl_config(config, Path(os.devnull))
    batches = math.ceil((config.max_steps or 0) * args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations))
    questions: int = batches * questions_a_batch(args)
    return questions


def training_questions(config: TrainConfig) -> int:
    """Training questions that a run can use: those of its warm start and of all batches that it generates, at most all there are."""
    warm = config.teacher.warm_start.questions if config.teacher.warm_start is not None else 0
    needed = max(warm, generated_questions(config), questions_a_batch(trl_config(config, Path(os.devnull))))
    return min(config.task.train_size, needed)


def shares_weights_out(trainer: Any) -> bool:
    """Whether each process holds but a part of the weights (FSDP, DeepSpeed ZeRO-3), so that no one of them can run the model by itself."""
    accelerator = trainer.accelerator
    kind = accelerator.distributed_type.value
    return bool(kind == "FSDP" or (kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3))


def whole(trainer: Any, start: Path, peft_config: Any) -> Any:
    """A copy of the trained model with all its weights, in the main process; None in the others, which have to call this too.

    `start` is the folder of the weights that learning started from, `peft_config` its LoRA or None.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return None
    model, _ = load_model(str(start))
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    found = model.load_state_dict(state, strict=False)
    tied = {name for name in found.missing_keys if name.endswith(tuple(getattr(model, "_tied_weights_keys", None) or ()))}
    if found.unexpected_keys or set(found.missing_keys) - tied:
        raise RuntimeError(f"the gathered weights are not the model's: {found}")
    return model.to(trainer.accelerator.device)


def build_trainer(
    config: TrainConfig,
    run: RunDirectory,
    model: Any,
    tokenizer: Any,
    *,
    start: Path,
    rows: list[dict[str, Any]],
    reward: Callable[..., Any],
    on_step: Callable[[int, dict[str, float]], None],
    on_validate: Callable[[int, Any], None],
    on_saved: Callable[[int], None],
    stop: Callable[[], bool],
    begin: Begin | None = None,
    processes: Processes | None = None,
) -> Any:
    """The algorithm's trainer, whose checkpoints carry a marker once they are whole.

    `start` is the folder of the weights that learning starts from, PPO's value model too. `begin` sends off the student calls of a batch
    whose `reward` is asked for later (`rollout_ahead`). Of several `processes` the main one alone has hooks and decides when to stop.
    `on_step(step, metrics)` runs after each step, `on_validate(step, model)` before every regular checkpoint, `on_saved(step)` after it;
    once `stop()` is true the trainer writes a checkpoint at the next step that can be resumed exactly, and ends.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from transformers.integrations import TensorBoardCallback
    from trl import GRPOTrainer, RLOOTrainer

    class Hooks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % config.eval.every == 0 or state.global_step >= state.max_steps:
                control.should_save = True
                model = whole(trainer, start, peft_config) if shares_weights_out(trainer) else kwargs["model"]
                if together.main:
                    on_validate(state.global_step, model)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" not in logs:
                return  # the totals at the end
            if together.main:
                on_step(state.global_step, logs)
            if together.share(together.main and stop()) and (state.global_step * args.gradient_accumulation_steps) % period == 0:
                control.should_save = True
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            together.wait()  # every process has written its part
            if together.main:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
                on_saved(state.global_step)

    together, args, peft_config = processes or Processes(), trl_config(config, run.checkpoints), lora_config(config)
    period = args.steps_per_generation * args.num_iterations
    trainer_class, extra = RLOOTrainer if config.algorithm == "rloo" else GRPOTrainer, {}
    if config.algorithm == "ppo":
        trainer_class, extra = ppo_trainer(), {"critic_model": str(start), "ppo": config.ppo}
    if config.rollout_ahead:
        trainer_class, extra = ahead_of(trainer_class), {**extra, "rollout_ahead": config.rollout_ahead, "begin": begin}
    score_labelled_tokens_alone()
    drop_finished_rows(model)
    try:
        trainer = trainer_class(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Hooks()],
            peft_config=peft_config,
            **extra,
        )
    except ValueError as error:
        raise SettingError(f"trl: {' '.join(str(error).split())}") from None
    if config.algorithm == "ppo" and shares_weights_out(trainer):
        raise SettingError("algorithm=ppo: its value model is whole on each card; with FSDP or ZeRO-3 take grpo or rloo")
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(run.path / "tensorboard")
    trainer.remove_callback(PrinterCallback)  # its line a step is in metrics.jsonl
    return trainer
