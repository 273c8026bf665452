"""Transformers: one callback for the Trainer. A tiny GPT-2 with random first weights learns to count.

python examples/transformers_trainer.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from weightscale_fast.integrations.transformers import RWCTrainerCallback

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/transformers")
torch.manual_seed(0)
counting = [(start + torch.arange(12)) % 32 for start in range(32)]
texts = [{"input_ids": tokens, "labels": tokens} for tokens in counting] * 4

config = GPT2Config(
    vocab_size=32,
    n_positions=12,
    n_embd=16,
    n_layer=2,
    n_head=2,
    bos_token_id=0,
    eos_token_id=0,
    loss_type="ForCausalLM",
)
callback = RWCTrainerCallback(folder / "rwc")
trainer = Trainer(
    GPT2LMHeadModel(config),
    TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,  # a row is recorded at each optimizer step, not at each batch
        learning_rate=1e-2,
        save_steps=8,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=texts,
    callbacks=[callback],
)
trainer.train()  # with resume_from_checkpoint=True, the record is resumed too

history = callback.history()
slowest, fastest = history.rwc.mean(axis=0).argsort()[[0, -1]]
print(f"{len(history)} steps of {len(history.names)} layers; {history.names[fastest]} moves most, ", end="")
print(f"{history.names[slowest]} least; to explain them: weightscale analyze {folder / 'rwc'}")
