"""The hooks of an objective: when they run, and what they see and may change."""

from __future__ import annotations

import pytest
import torch
from test_training import batches, equal, quiet
from transformers import Trainer, TrainingArguments

from bertcompress.training import (
    BaseObjective,
    DelegatingObjective,
    LabelLoss,
    ObjectiveCallback,
    TrainSettings,
    fit_batches,
)

SETTINGS = TrainSettings(epochs=1, precision="fp32", learning_rate=1e-3, warmup=0)


class Diary(DelegatingObjective):
    """Notes the calls of a training, the norm of the gradients, and the weights."""

    def __init__(self):
        super().__init__(LabelLoss())
        self.calls, self.norms, self.weights, self.optimizers = [], [], [], set()

    def __call__(self, model, batch, outputs, step):
        self.calls.append(("loss", step))
        return super().__call__(model, batch, outputs, step)

    def on_backward(self, model, step):
        self.calls.append(("backward", step))
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))
        self.weights.append(model.classifier.weight.detach().clone())

    def on_step_end(self, model, optimizer, step):
        self.calls.append(("end", step))
        self.optimizers.add(type(optimizer))
        assert all(p.grad is None for p in model.parameters())
        assert not torch.equal(model.classifier.weight, self.weights[-1])
        assert "exp_avg" in optimizer.state[model.classifier.weight]


def noted(**changes):
    diary = Diary()
    settings = SETTINGS.model_copy(update=changes)
    fit_batches(quiet(), diary, batches(8), settings=settings, progress=False)
    return diary


def test_hooks_run_once_a_step_in_their_order():
    losses = [("loss", 0), ("loss", 0), ("backward", 0), ("end", 1)]
    later = [("loss", 1), ("loss", 1), ("backward", 1), ("end", 2)]
    diary = noted(gradient_accumulation=2)
    assert diary.calls == losses + later
    assert diary.optimizers == {torch.optim.AdamW}


def test_gradients_are_of_the_whole_step_and_not_clipped_yet():
    """Of two batches of 8 as of one of 16, and above the norm that they are clipped to."""
    diary = noted(gradient_accumulation=2, max_grad_norm=1e-3)
    model = quiet().train()
    batch = next(iter(batches(16)))
    outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    LabelLoss()(model, batch, outputs, 0).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert diary.norms[0] == pytest.approx(float(gradients.norm()), rel=1e-4)
    assert diary.norms[0] > 1e-2


class Frozen(DelegatingObjective):
    """Takes the gradient of all weights but those of the classifier away."""

    def __init__(self):
        super().__init__(LabelLoss())

    def on_backward(self, model, step):
        for name, parameter in model.named_parameters():
            if "classifier" not in name:
                parameter.grad = None


def through_fit(objective):
    model = quiet()
    fit_batches(model, objective, batches(8), settings=SETTINGS, progress=False)
    return model


def through_a_stock_trainer(objective, folder):
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=8,
        max_grad_norm=0,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    model, hook = quiet(), ObjectiveCallback(objective)
    Trainer(
        model,
        arguments,
        train_dataset=batches(8).dataset,
        callbacks=[hook],
        compute_loss_func=hook.compute_loss_func,
    ).train()
    return model


@pytest.mark.parametrize("way", ["fit", "stock"])
def test_gradients_that_a_hook_takes_away_move_nothing(way, tmp_path):
    objective = Frozen()
    trained = (
        through_fit(objective) if way == "fit" else through_a_stock_trainer(objective, tmp_path)
    )
    assert equal(trained.bert, quiet().bert)
    assert not equal(trained.classifier, quiet().classifier)


def test_a_stock_trainer_runs_every_hook(tmp_path):
    diary = Diary()
    through_a_stock_trainer(diary, tmp_path)
    wanted = [(("loss", i), ("backward", i), ("end", i + 1)) for i in range(4)]
    assert diary.calls == [call for step in wanted for call in step]


def test_a_loss_is_all_that_has_to_be_written():
    class Mean(BaseObjective):
        def __call__(self, model, batch, outputs, step):
            return outputs["logits"].square().mean()

    model = through_fit(Mean())
    batch = {k: v for k, v in next(iter(batches(8))).items() if k != "labels"}
    assert model(**batch).logits.abs().mean() < quiet()(**batch).logits.abs().mean()
    with pytest.raises(NotImplementedError, match="BaseObjective has no loss: write __call__"):
        through_fit(BaseObjective())
