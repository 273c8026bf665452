"""Why something is wrong, and what to do: the causes of findings in words."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A cause in words."""

    because: str  # the end of the sentence that begins with the finding
    advice: str  # what to do


# By the code of a cause. The first seven are those that a monitor observes.
CAUSES = {
    "frozen": Words("requires_grad is False", "If you froze it, nothing is wrong; else set requires_grad to True."),
    "not_in_optimizer": Words("it is not in the optimizer", "Give its parameters to the optimizer."),
    "other_tensors": Words(
        "the optimizer has tensors that are not in the model",
        "Make the optimizer after the model is complete: after layers are replaced, cast, moved or wrapped.",
    ),
    "zero_rate": Words("its learning rate is 0", "Set the rate of its parameter group, or look at the schedule."),
    "no_gradient": Words(
        "it had no gradient (grad was None)",
        "Check that forward() uses it, that nothing on the way to the loss is detached, and that zero_grad() does not "
        "come between backward() and step().",
    ),
    "zero_gradient": Words(
        "its gradient was exactly 0",
        "Look for dead ReLUs, a saturated activation, a mask or a factor of 0 between this layer and the loss. A lower "
        "rate before this step may keep units alive.",
    ),
    "rounding": Words(
        "its steps are smaller than the spacing of its numbers",
        "Keep the weights in float32 and use autocast, keep float32 master weights, round stochastically, or raise the "
        "rate.",
    ),
    "low_rate": Words(
        "the learning rate is low for these weights",
        "Compare with the loss: if it falls slowly, raise the rate. For fine-tuning this may be on purpose.",
    ),
    "high_rate": Words("the learning rate is high for these weights", "Divide the rate by 10, or warm it up."),
    "group_rate": Words(
        "the learning rate of its group is far from the others'", "Check the rates of the parameter groups."
    ),
    "rate_decayed": Words(
        "the schedule took the learning rate to almost 0",
        "Check whether the scheduler steps once for each batch where it should for each epoch, and its length.",
    ),
    "large_weights": Words("the weights are large for this learning rate", "Check how they are initialized or loaded."),
    "tiny_gradient": Words(
        "the gradients were tiny when the optimizer got them",
        "Look at gradient clipping, at the scale of the loss, at a scaler that does not unscale, and at saturated "
        "activations.",
    ),
    "large_eps": Words("the optimizer's eps is large for these gradients", "Set eps back to its default, about 1e-8."),
    "accumulated_gradient": Words(
        "the gradients of successive steps point the same way, as they do if they are never zeroed",
        "Call zero_grad() before each backward pass, or once for each accumulated batch.",
    ),
    "decay": Words(
        "weight decay moves the weights more than the gradient does", "Lower the weight decay, or check its unit."
    ),
    "dead_weights": Words(
        "most of its weights have no gradient", "Look for dead channels, a mask, or inputs that are always 0."
    ),
    "rate_spike": Words("the learning rate was higher at this step", "Look at the schedule at this step."),
    "parted": Words(
        "a rank has other weights or other gradients",
        "Call the model through its DistributedDataParallel wrapper, not model.module. Load or change weights on every "
        "rank. Give every rank the same optimizer with the same state.",
    ),
    "overflow": Words(
        "it found infinite gradients",
        "Look for infinity in the loss or the inputs. If there is none, let the scaler begin with a smaller scale.",
    ),
    "large_gradient": Words(
        "the gradients are large", "Normalize the inputs, look at the batch, clip the gradients, or lower the rate."
    ),
}

# What to do about a finding whose cause is not known.
ADVICE = {
    "not_finite": "Go back to the last checkpoint. Look at the loss and the batch of this step; lower the rate or clip "
    "the gradients if the weights moved more and more before.",
    "runaway": "Look at its gradient at this step. Give it a lower rate, clip its gradient, check its weight decay.",
    "others_stopped": "Leave this layer alone. Follow the gradient from it towards the input, and look where it ends.",
    "stopped": "Look at its inputs and its gradient at this step: dead ReLUs, saturation, a branch cut off.",
    "all_stopped": "Look at the learning rate first, then at the loss: if it is far above its goal, units died.",
    "still": "Look at its grad after backward(), and at whether the optimizer has it.",
    "small_step": "Look at gradient clipping, at the scale of the loss, and at eps.",
    "spike": "Look at the loss after it. If it is not where it was, go back to a checkpoint before this step.",
}
