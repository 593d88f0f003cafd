"""The training step of a run's settings, compiled ahead; and what memory it would take."""

import jax

from jaxbrats.config.settings import Settings
from jaxbrats.model.augment import make_augmentation
from jaxbrats.model.losses import make_loss
from jaxbrats.system.gc_paused import gc_paused
from jaxbrats.train.mesh import batch_shapes, replicated
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import TrainState, init_state, make_head, make_model
from jaxbrats.train.step import device_memory, jit_train_step

# Of a run that is only compiled for: no more than a constant of the program depends on it.
TOTAL_STEPS = 1000


def compile_step(
    settings: Settings, total_steps: int, mesh: jax.sharding.Mesh, state: TrainState, key: jax.Array
) -> jax.stages.Compiled:
    """The training step for batches of what the network is given at once, `settings.data.window`.

    Args:
        settings: The run's settings.
        total_steps: Steps of the run, for the schedule of the learning rate.
        mesh: The devices.
        state: Arrays or their shapes, with shardings.
        key: The run's random key, or its shape.
    """
    shape = (*settings.data.window, len(settings.data.modalities))
    with gc_paused():
        step = jit_train_step(
            mesh,
            make_model(settings),
            make_optimizer(settings.learning_rate, settings.schedule, total_steps, settings.optimizer),
            make_loss(settings.loss, make_head(settings)),
            settings.accumulate,
            skip_nonfinite=settings.skip_nonfinite,
            head=make_head(settings),
            ema=settings.ema,
            augment=make_augmentation(settings.augment),
        )
        batch = batch_shapes(mesh, settings.batch_size, shape, settings.data.soft_labels)
        return step.lower(state, batch, key).compile()


def step_memory(settings: Settings, mesh: jax.sharding.Mesh) -> int:
    """Bytes of each device's memory that a training step takes, by XLA's account of the compiled program.

    Compiles for the mesh's devices; neither state nor batch is made.
    """
    return device_memory(compile_step(settings, TOTAL_STEPS, mesh, *start_shapes(settings, mesh)))


def start_shapes(settings: Settings, mesh: jax.sharding.Mesh) -> tuple[TrainState, jax.Array]:
    """What a run begins with, state and random key, without the data: to compile for."""
    optimizer = make_optimizer(settings.learning_rate, settings.schedule, TOTAL_STEPS, settings.optimizer)
    channels = len(settings.data.modalities)

    def start() -> tuple[TrainState, jax.Array]:
        state = init_state(make_model(settings), optimizer, settings.seed, channels, settings.ema)
        return state, jax.random.key(settings.seed)

    def replicated_shape(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))

    return jax.tree.map(replicated_shape, jax.eval_shape(start))
