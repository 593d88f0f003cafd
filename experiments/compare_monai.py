"""MONAI's networks on the patients and folds that ours were measured on, for equal time or equal steps.

    pip install '.[bench]'
    python experiments/compare_monai.py --raw=COHORT --workdir=DIR --equal=time [--folds_run=0,1] [--peers=SegResNet]

The recipe is that of MONAI's bundle for this task, brats_mri_segmentation (Project-MONAI/model-zoo, train.json): its
SegResNet (Myronenko 2018, https://arxiv.org/abs/1810.11654), transforms, loss, optimiser with a cosine over exactly the
steps it gets, sliding window. Other than in the bundle: voxels of 3 mm (Spacingd), cut to the brain (CropForegroundd),
a patch of 48 x 64 x 48 as ours, which both networks can divide (SegResNet by 8, DynUNet by 16), a batch of two as ours,
float32. Probabilities are brought back to the files' voxels linearly and then thresholded.

The bundle's learning rate of 1e-4 is for far more steps. Ten times that, which is ours, gives the peer a better chance
in few: SegResNet is tried with both, DynUNet (MONAI's network after nnU-Net's) with the higher. Folds, steps, scores
and files are told of in peers.py.

Writes results/compare_monai.md and .json.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import peers
from absl import flags

from jaxbrats import commands
from jaxbrats.data.labels import ED, ET, MODALITIES, NCR
from jaxbrats.data.raw.cases import Case
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, replacing, write_json

FLAGS = peers.define_flags()
# The network and the learning rate of each peer.
PEERS = {"SegResNet": ("SegResNet", 1e-4), "SegResNet-1e-3": ("SegResNet", 1e-3), "DynUNet-1e-3": ("DynUNet", 1e-3)}
_PEERS = flags.DEFINE_multi_enum("peers", list(PEERS), list(PEERS), "Which to train.", flag_values=FLAGS)

PATCH, BATCH = (48, 64, 48), 2
DYNUNET_FEATURES = (32, 64, 128, 256, 320)
CHECKPOINT_STEPS = 25


@dataclasses.dataclass(frozen=True)
class Monai:
    """A peer: one of `PEERS`."""

    workdir: pathlib.Path
    name: str

    @property
    def architecture(self) -> str:
        """The name of MONAI's network."""
        return PEERS[self.name][0]

    @property
    def learning_rate(self) -> float:
        """Adam's, with which the cosine begins."""
        return PEERS[self.name][1]

    def prepare(self, patients: peers.Patients) -> None:
        """Lists the files of each fold; loads all cases once, which are kept at 3 mm from then on."""
        files = {name: as_monai(case) for name, case in patients.cases.items()}
        write_json(self.workdir / self.name / "datalist.json", {"cases": files, "folds": patients.splits()})
        for _ in self.dataset(list(files.values())):
            pass

    def cases(self, fold: int, side: str) -> dict[str, dict[str, Any]]:
        """Files of the cases of a fold."""
        listed = read_json(self.workdir / self.name / "datalist.json")
        return {name: listed["cases"][name] for name in listed["folds"][fold][side]}

    def dataset(self, cases: list[dict[str, Any]]) -> Any:
        """MONAI's data set for training; what is not random of its transforms is kept on disk."""
        from monai.data import PersistentDataset

        return PersistentDataset(cases, transforms(("image", "label"), training=True), self.workdir / "monai_arrays")

    def network(self) -> Any:
        """With MONAI's defaults where the bundle says nothing."""
        from monai.networks import nets

        if self.architecture == "SegResNet":
            blocks = {"blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1), "init_filters": 16, "dropout_prob": 0.2}
            return nets.SegResNet(in_channels=len(MODALITIES), out_channels=3, **blocks)
        strides = (1, *[2] * (len(DYNUNET_FEATURES) - 1))
        kernels = [3] * len(strides)
        return nets.DynUNet(3, len(MODALITIES), 3, kernels, strides, strides[1:], filters=DYNUNET_FEATURES)

    def training(self, fold: int, steps: int, checkpoint: pathlib.Path | None = None) -> Iterator[int]:
        """Takes the steps that are left and yields their numbers; a checkpoint is left every few and at the end."""
        import monai
        import torch

        network = self.network()
        loss_of = monai.losses.DiceLoss(smooth_nr=0, smooth_dr=1e-5, squared_pred=True, sigmoid=True)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate, weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        parts, done = {"network": network, "optimizer": optimizer, "schedule": schedule}, 0
        if checkpoint is not None and checkpoint.exists():
            saved = torch.load(checkpoint)
            done = saved.pop("step")
            for name, state in saved.items():
                parts[name].load_state_dict(state)
        monai.utils.set_determinism(done)
        dataset = self.dataset(list(self.cases(fold, "train").values()))
        loader = monai.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
        network.train()
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        for step, batch in enumerate(itertools.islice(batches, steps - done), done + 1):
            optimizer.zero_grad()
            loss = loss_of(network(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            schedule.step()
            if checkpoint is not None and (step % CHECKPOINT_STEPS == 0 or step == steps):
                print(f"step {step} of {steps}, loss {loss.item():.4f}", flush=True)
                with replacing(checkpoint) as temporary:
                    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, temporary)
            yield step

    def step_seconds(self, steps: int) -> float:
        """Of what `training` does for a step."""
        training = _measured(self)
        begun = time.perf_counter()
        for _ in range(steps):
            next(training)
        return (time.perf_counter() - begun) / steps

    def train(self, fold: int, steps: int, folder: pathlib.Path) -> int:
        """Trains to the last checkpoint, from the latest where there is one."""
        folder.mkdir(parents=True, exist_ok=True)
        for _ in self.training(fold, steps, folder / "checkpoint.pt"):
            pass
        return steps

    def predict(self, fold: int, folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
        """From the files, by MONAI's sliding window, and back by the inverse of its transforms."""
        import monai
        import torch

        network = self.network()
        network.load_state_dict(torch.load(folder / "checkpoint.pt")["network"])
        network.eval()
        forwards = transforms(("image",), training=False)
        backwards = monai.transforms.Invertd("pred", forwards, "image", nearest_interp=False)
        for name, files in self.cases(fold, "val").items():
            data = forwards({"image": files["image"]})
            with torch.no_grad():
                logits = monai.inferers.sliding_window_inference(data["image"][None], PATCH, 1, network, overlap=0.5)
            probabilities = backwards(data | {"pred": logits[0].sigmoid()})["pred"]
            yield name, labels_of(np.asarray(probabilities))

    def facts(self) -> dict[str, str]:
        """What the recipe is."""
        dynunet = f"features {', '.join(map(str, DYNUNET_FEATURES))}"
        shape = {"SegResNet": "16 filters, blocks 1, 2, 2, 4, dropout 0.2", "DynUNet": dynunet}[self.architecture]
        return {
            "network": f"{self.architecture}, {shape}",
            "patch and batch": f"{' x '.join(map(str, PATCH))}, {BATCH}",
            "training": f"MONAI's bundle, at a learning rate of {self.learning_rate:g}: Adam, cosine, Dice of regions; "
            "flips, scaled and shifted intensities",
            "prediction": "not mirrored, as in the bundle",
            "parameters": f"{sum(p.numel() for p in self.network().parameters()):,}",
        }


@functools.cache
def _measured(peer: Monai) -> Iterator[int]:
    return peer.training(0, 10**6)


def transforms(keys: tuple[str, ...], training: bool) -> Any:
    """The bundle's transforms, at 3 mm and cut to the brain."""
    from monai import transforms as t

    linear = ("bilinear", "nearest")[: len(keys)]
    steps = [
        t.LoadImaged(keys),
        t.EnsureChannelFirstd(keys),
        t.CropForegroundd(keys, source_key="image"),
        t.Spacingd(keys, pixdim=peers.SPACING_MM, mode=linear),
        t.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]
    if training:
        # The enhancing tumour is 3 or 4, by the convention of the files: all that is neither 1 nor 2.
        steps.insert(2, t.Lambdad("label", lambda label: label.clip(max=3)))
        steps.insert(3, t.ConvertToMultiChannelBasedOnBratsClassesd("label", et_label=3))
        steps += [t.SpatialPadd(keys, PATCH), t.RandSpatialCropd(keys, PATCH, random_size=False)]
        steps += [t.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)]
        steps += [t.RandScaleIntensityd("image", 0.1, prob=1.0), t.RandShiftIntensityd("image", 0.1, prob=1.0)]
        steps.append(t.EnsureTyped(keys, dtype=np.float32, track_meta=False))
    return t.Compose(steps)


def labels_of(probabilities: np.ndarray) -> np.ndarray:
    """Labels of the bundle's channels, `(3, X, Y, Z)`: tumour core, whole tumour, enhancing tumour."""
    core, whole, enhancing = probabilities >= 0.5
    return np.select([enhancing, core, whole], [ET, NCR, ED], 0).astype(np.uint8)


def as_monai(case: Case) -> dict[str, Any]:
    """A case's files as the bundle lists them.

    Raises:
        InputError: a modality has no file of its own, or the labels are numbered otherwise than BraTS does.
    """
    volumes = [case.modalities[name] for name in MODALITIES]
    if any(volume.channel is not None for volume in volumes) or case.label_map.get(1) != NCR:
        problem = "expected a cohort as BraTS publishes it"
        raise InputError(problem, case=case.name, file=volumes[0].path, hint="Convert the cohort")
    return {"image": [str(volume.path.resolve()) for volume in volumes], "label": str(case.labels.path.resolve())}


def main() -> int:
    """Compares."""
    sides = [Monai(pathlib.Path(FLAGS.workdir), name) for name in dict.fromkeys(_PEERS.value)]
    return peers.compare("compare_monai", sides, ("jax", "monai", "torch"), FLAGS)


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "compare_monai", sys.argv[1:]))
