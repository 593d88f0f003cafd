"""nnU-Net v2 on the patients and folds that ours were measured on, for equal time or equal steps.

    pip install '.[bench]'
    python experiments/compare_nnunet.py --raw=COHORT --workdir=DIR --equal=time [--folds_run=0,1]

nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z) plans, preprocesses, trains and predicts by
itself, with its defaults: region-based training as its own conversion of BraTS has it, its plan for 3-D at full
resolution, its augmentation, SGD with a polynomial schedule over exactly the steps it gets, its sliding window and
mirroring, its way back to the files' voxels. Set are the target spacing, 3 mm as ours, and the number of steps. Folds,
steps, scores and files are told of in peers.py.

Writes results/compare_nnunet.md and .json.
"""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import peers

from jaxbrats import commands
from jaxbrats.data.labels import MODALITIES
from jaxbrats.data.raw.cases import Case, VolumeFile
from jaxbrats.data.raw.nifti import read_labels, write_labels
from jaxbrats.data.raw.voxels import read_header
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import replacing, write_json
from jaxbrats.system.processes import available_cpus

FLAGS = peers.define_flags()

DATASET, CONFIGURATION, PLANS = "Dataset001_BraTS", "3d_fullres", "nnUNetPlans_3mm"
# nnU-Net's conversion of BraTS: regions are of consecutive numbers from the outside in, edema 1, necrosis 2. The map
# is its own inverse.
LABEL_MAP = {0: 0, 1: 2, 2: 1, 3: 3}
LABELS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
# Steps of an epoch, after which the learning rate falls, and between two checkpoints; both as near as the number of
# steps allows. An epoch of nnU-Net has 250, a run a thousand epochs.
EPOCH_STEPS = range(5, 11)
CHECKPOINT_STEPS = 25
# nnU-Net starts its workers and fills their queue anew each time it is measured.
WARMUP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class NnUNet:
    """The peer; `workdir` holds the folders that nnU-Net knows by environment variables."""

    workdir: pathlib.Path
    name: str = "nnU-Net"

    def prepare(self, patients: peers.Patients) -> None:
        """Plans and preprocesses once, by nnU-Net's own functions; writes the folds where nnU-Net looks for them."""
        raw, preprocessed = (self.enter() / kind / DATASET for kind in ("raw", "preprocessed"))
        if (preprocessed / "splits_final.json").exists():
            return
        from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

        (raw / "labelsTr").mkdir(parents=True, exist_ok=True)
        files = {name: as_nnunet(case, raw / "labelsTr" / f"{name}.nii.gz") for name, case in patients.cases.items()}
        description = {
            "channel_names": {str(number): name for number, name in enumerate(MODALITIES)},
            "labels": LABELS,
            "regions_class_order": [1, 2, 3],
            "numTraining": len(files),
            "file_ending": ".nii.gz",
            "dataset": files,
        }
        write_json(raw / "dataset.json", description)
        number, workers = int(DATASET[7:10]), available_cpus()
        nnunet.extract_fingerprints([number], num_processes=workers)
        nnunet.plan_experiments([number], overwrite_target_spacing=peers.SPACING_MM, overwrite_plans_name=PLANS)
        nnunet.preprocess([number], PLANS, (CONFIGURATION,), (workers,))
        write_json(preprocessed / "splits_final.json", patients.splits())

    def enter(self, results: pathlib.Path | None = None) -> pathlib.Path:
        """Tells nnU-Net of its folders, and returns that of all."""
        home = (self.workdir / self.name).resolve()
        folders = {"raw": home / "raw", "preprocessed": home / "preprocessed", "results": results or home / "measured"}
        os.environ.update({f"nnUNet_{kind}": str(folder) for kind, folder in folders.items()})
        return home

    def trainer(self, fold: int, results: pathlib.Path | None = None, steps: int = 1000) -> Any:
        """nnU-Net's own trainer for a fold, with so many steps."""
        home = self.enter(results) / "preprocessed" / DATASET
        import torch
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        plans, description = (json.loads((home / name).read_text()) for name in (f"{PLANS}.json", "dataset.json"))
        plans["continue_training"] = results is not None and any(results.rglob("checkpoint_*.pth"))
        trainer = nnUNetTrainer(plans, CONFIGURATION, fold, description, torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch = epochs_of(steps)
        trainer.num_val_iterations_per_epoch = 1  # it is looked at by nobody
        trainer.save_every = max(1, round(CHECKPOINT_STEPS / trainer.num_iterations_per_epoch))
        trainer.initialize()
        return trainer

    def step_seconds(self, steps: int) -> float:
        """Of nnU-Net's training step, with what its loader's processes do beside it."""
        trainer = _measured(self)
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        for number in range(WARMUP_STEPS + steps):
            if number == WARMUP_STEPS:
                begun = time.perf_counter()
            trainer.train_step(next(trainer.dataloader_train))
        seconds = (time.perf_counter() - begun) / steps
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            loader._finish()
        return seconds

    def train(self, fold: int, steps: int, folder: pathlib.Path) -> int:
        """Trains to the last checkpoint, from the latest where there is one, as nnUNetv2_train --c does."""
        trainer = self.trainer(fold, folder, steps)
        from nnunetv2.run.run_training import maybe_load_checkpoint

        save = trainer.save_checkpoint

        def save_whole(filename: str) -> None:
            with replacing(filename) as temporary:
                save(str(temporary))

        trainer.save_checkpoint = save_whole
        if not (pathlib.Path(trainer.output_folder) / "checkpoint_final.pth").exists():
            maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
            trainer.run_training()
        return trainer.num_epochs * trainer.num_iterations_per_epoch

    def predict(self, fold: int, folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
        """By nnU-Net's predictor as it is, from the files."""
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        home = self.enter(folder)
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        trained = folder / DATASET / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"
        predictor.initialize_from_trained_model_folder(str(trained), (fold,), "checkpoint_final.pth")
        files = json.loads((home / "raw" / DATASET / "dataset.json").read_text())["dataset"]
        splits = json.loads((home / "preprocessed" / DATASET / "splits_final.json").read_text())
        for name in splits[fold]["val"]:
            out = folder / "predictions" / name
            out.parent.mkdir(exist_ok=True)
            predictor.predict_from_files_sequential([files[name]["images"]], [str(out)])
            yield name, read_labels(VolumeFile(out.with_name(f"{name}.nii.gz")), name, LABEL_MAP)[0]

    def facts(self) -> dict[str, str]:
        """What nnU-Net planned."""
        trainer = _measured(self)
        plan = trainer.configuration_manager
        features = plan.network_arch_init_kwargs["features_per_stage"]
        return {
            "network": f"{plan.network_arch_class_name.rpartition('.')[2]}, features {', '.join(map(str, features))}",
            "patch and batch": f"{' x '.join(map(str, plan.patch_size))}, {plan.batch_size}",
            "training": "nnU-Net's defaults, planned on all patients: SGD, polynomial, Dice + BCE of regions",
            "prediction": "mirrored in eight ways",
            "parameters": f"{sum(p.numel() for p in trainer.network.parameters()):,}",
        }


@functools.cache
def _measured(peer: NnUNet) -> Any:
    return peer.trainer(0)


def epochs_of(steps: int) -> tuple[int, int]:
    """Epochs and steps of an epoch: as many of `steps` as can be, in the longest epochs of `EPOCH_STEPS`."""
    length = min(EPOCH_STEPS, key=lambda length: (steps % length, -length))
    return steps // length, length


def as_nnunet(case: Case, labels: pathlib.Path) -> dict[str, Any]:
    """Writes a case's labels in nnU-Net's numbers; returns its files, as dataset.json may list them.

    Raises:
        InputError: its images are not files of their own that end with .nii.gz.
    """
    volumes = [case.modalities[name] for name in MODALITIES]
    for volume in volumes:
        if volume.channel is not None or not volume.path.name.endswith(".nii.gz"):
            problem = "nnU-Net reads a file for each modality that ends with .nii.gz"
            raise InputError(problem, case=case.name, file=volume.path, hint="Convert the cohort")
    voxels, _ = read_labels(case.labels, case.name, case.label_map)
    write_labels(labels, np.array(list(LABEL_MAP.values()), np.uint8)[voxels], read_header(volumes[0].path, case.name))
    return {"images": [str(volume.path.resolve()) for volume in volumes], "label": str(labels.resolve())}


def main() -> int:
    """Compares."""
    # The loaders' processes are forked, and nnU-Net ends them by this signal, which ends this program in good order.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    packages = ("jax", "nnunetv2", "torch")
    return peers.compare("compare_nnunet", [NnUNet(pathlib.Path(FLAGS.workdir))], packages, FLAGS)


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "compare_nnunet", sys.argv[1:]))
