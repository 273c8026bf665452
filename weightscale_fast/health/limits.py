"""The limits of `check_health`, and the runs that they come from.

`python bench/health_false_alarms.py RUN ...` prints these numbers for recorded runs. 17 healthy float32 runs of 10,105
steps have no finding of any kind: AlexNet, ResNet-18, VGG-19, ResNet-10-T, MobileNetV3 and a small language
model; SGD, Adam and AdamW; a constant learning rate, and warm-up with a cosine to 0.

- STOPPED: the slowest layer (an embedding under SGD) moved 0.008 times the others' median in all steps. The limit is
  0.001, and higher for a layer that once was faster.
- RUNAWAY: the fastest layer (VGG-19's classifier) moved 13 times the median for 6 blocks, between 8 and 21. The limit
  is 25, and lower for a layer that once was slower. If a learning rate is raised 30 to 300 times, the layer reaches 30
  to 60 and then stays at 10 to 22, because its weights grow.
- STUCK: with bfloat16 weights there is one finding in 500 steps: where the cosine ends, 0.02 % of an embedding moves.

The 18 runs of docs/paper (13,020 steps) were made after the limits were set. They have no finding either.
"""

KINDS = ("not_finite", "runaway", "stopped", "stuck", "still")
BLOCK = 16  # steps whose median is a layer's level, so that a spike or a few skipped steps do not count
FEWEST_ROWS = 4  # in a block, if a row spans several steps
CONFIRM = {"runaway": 6, "stopped": 3, "stuck": 3, "still": 4}  # blocks in a row before a layer is reported
RECOVER = 2.0  # a layer must improve past the limit by this factor before it is reported again
STOPPED = 1e-3  # of the others' median
STOPPED_IF_FALLEN = 1e-2  # the same, if the layer fell below 1 / FALLEN of its own maximum
FALLEN = 20.0
RUNAWAY = 25.0  # times the others' median
RUNAWAY_IF_RISEN = 10.0  # the same, if the layer rose above RISEN times its own minimum
RISEN = 5.0
FALLING = 0.5  # of its own maximum in as many blocks: layers that start at 0 move fast, then slow down
STUCK = 1e-3  # fraction of the weights that move in a step
SIXTEEN_BIT = ("bfloat16", "float16")
NAMED = 3  # up to so many layers get a finding each; more share one
