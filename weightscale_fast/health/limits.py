"""The limits of `check_health`, and the runs that they come from.

`python bench/health_false_alarms.py RUN ...` prints the first four for recorded runs. 17 healthy float32 runs of 10,105
steps have no finding of any kind: AlexNet, ResNet-18, VGG-19, ResNet-10-T, MobileNetV3 and a small language
model; SGD, Adam and AdamW; a constant learning rate, and warm-up with a cosine to 0.

- STOPPED: the slowest layer (an embedding under SGD) moved 0.008 times the others' median in all steps. The limit is
  0.001, and higher for a layer that once was faster.
- RUNAWAY: the fastest layer (VGG-19's classifier) moved 13 times the median for 6 blocks, between 8 and 21. The limit
  is 25, and lower for a layer that once was slower. If a learning rate is raised 30 to 300 times, the layer reaches 30
  to 60 and then stays at 10 to 22, because its weights grow.
- STUCK: with bfloat16 weights there is one finding in 500 steps: where the cosine ends, 0.02 % of an embedding moves.

The 18 runs of docs/paper (13,020 steps) were made after these limits were set. They had no finding either. All these
runs were judged before the kinds below existed, and not again.

The other limits were set on the networks `regression` and `cnn` of `bench/faults`, and tried on its other networks.
"""

KINDS = (
    "not_finite",
    "runaway",
    "others_stopped",
    "stopped",
    "all_stopped",
    "stuck",
    "sparse",
    "still",
    "frozen",
    "slow",
    "fast",
    "small_step",
    "large_step",
    "shrinking",
    "growing",
    "spike",
    "skipped",
    "replicas",
)
NOTES = ("frozen",)  # no faults
BLOCK = 16  # steps whose median is a layer's level, so that a spike or a few skipped steps do not count
FEWEST_ROWS = 4  # in a block, if a row spans several steps
CONFIRM = {  # blocks in a row before something is reported
    "runaway": 6,
    "others_stopped": 6,
    "stopped": 3,
    "stuck": 3,
    "sparse": 4,
    "still": 4,
    "all_stopped": 3,
    "slow": 6,
    "fast": 6,
    "small_step": 3,
    "large_step": 4,
    "shrinking": 3,
    "growing": 3,
    "skipped": 3,
}
RECOVER = 2.0  # a layer must improve past the limit by this factor before it is reported again
NAMED = 3  # up to so many layers get a finding each; more share one

# A layer compared with the others
STOPPED = 1e-3  # of the others' median
STOPPED_IF_FALLEN = 1e-2  # the same, if the layer fell below 1 / FALLEN of its own maximum
FALLEN = 20.0
RUNAWAY = 25.0  # times the others' median
RUNAWAY_IF_RISEN = 10.0  # the same, if the layer rose above RISEN times its own minimum
RISEN = 5.0
FALLING = 0.5  # of its own maximum in as many blocks: layers that start at 0 move fast, then slow down

# Rounding
STUCK = 1e-3  # fraction of the weights that move in a step
SIXTEEN_BIT = ("bfloat16", "float16")
LOST = 0.1  # of the step that the optimizer implies: more is lost if less is seen
SPARSE = 0.1  # fraction of the weights that move in a step

# The whole network
SLOW = 1e-5  # RWC
SLOW_IF_LARGE = 5e-4  # RWC, if the mean weight of the median layer is larger than LARGE
LARGE = 1.5
SLOW_IF_RISING = 0.3  # of these limits, while the rate rises
FAST = 1e-1  # RWC
SMALL_STEP = 0.07  # of the step that the optimizer implies
LARGE_STEP = 3.5  # times the step that the optimizer implies
NO_STEP = 0.004  # the same of a network that made ordinary steps before
ORDINARY_STEP = 0.15  # of the step that the optimizer implies; a network below it had not begun to learn
FALLEN_ALL = 1e-4  # of the largest RWC per learning rate so far
FALLEN_TOO = 0.05  # of the same, if the step is far smaller than the optimizer implies
RATE_GONE = 1e-6  # of the largest learning rate so far
DECAYING = 0.5  # of the largest learning rate so far: below, low movement is what the schedule wants
GROWING = 8.0  # times the weights of GROWING_BLOCKS blocks ago
GROWING_BLOCKS = 8
FAST_DECAY = 1e-3  # RWC of a network whose shrinking matters; learning rate times weight decay
SHRINKING = 0.8  # of the movement makes the weights smaller
GROUP_RATE = 1e3  # times smaller than the median rate of the layers
GROUP_RATE_HIGH = 30.0  # times larger
FAST_GROUP = 3e-2  # RWC of a layer with such a rate
GROWN_GROUP = 5.0  # times its first weights, and an RWC above FAST_IF_GROWN
FAST_IF_GROWN = 5e-3
SPIKE = 30.0  # times the steps before and after; and an RWC above FAST
SPIKE_OF_RATE = 1e-3  # RWC that is enough if the learning rate jumped at this step
SKIPPING = 0.9  # of the steps
