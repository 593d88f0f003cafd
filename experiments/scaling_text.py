"""The table and the figure of `scaling.py`, from what it counted."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling_model import CLUSTERS, GPU_CLUSTERS

GIB = 2**30


def volume(shape: list[int]) -> str:
    """A volume's size in words."""
    return " x ".join(map(str, shape))


def write_up(result: dict[str, Any]) -> str:
    """The Markdown page."""
    machine = result["machine"]
    features = ", ".join(map(str, result["features"]))
    return "\n".join(
        [
            f"U-Net with {features} features, {result['gradient_bytes'] / 4:,.0f} parameters, float32, direct "
            f"convolutions. jax {machine['jax']}, Python {machine['python']}, {machine['cores']} CPU cores.",
            "",
            "## Memory of a device when a volume is split (config.mesh.space)",
            "",
            "One volume; XLA's account of the compiled step for CPU devices. Nothing was run. On GPUs: not measured.",
            "",
            "| volume | space | a device, GiB | activations, GiB | activations over one device's | halos sent, MiB |",
            "| --- | --- | --- | --- | --- | --- |",
            *map(_memory_row, result["memory"]),
            "",
            f"## Time on virtual devices: {result['edge']}^3, features {', '.join(map(str, result['timed_features']))}",
            "",
            f"Virtual devices are threads that share the {machine['cores']} cores, and other programs shared them too "
            f"(load {result['load']:.1f}). What is below one here was won by filling the cores better than one device "
            "does with XLA's direct 3-D convolutions, or is noise: it says that splitting costs little and that the "
            "losses agree, and nothing of GPUs (not measured). 'Over one device' is for the same work (weak "
            f"scaling: divided by the batch). Median (range) of {result['rounds']} steps.",
            "",
            "| what | mesh data x space | batch | seconds | over one device | loss of the last step |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_time_row(what, row, rows[0]) for what, rows in result["time"].items() for row in rows),
            "",
            "## Model of a step on 1 to 1024 GPUs",
            "",
            f"Not measured. Each GPU is assumed to compute {result['gpu_tflops']:g} TFLOP/s of the step's FLOPs as XLA "
            f"counts them (this CPU, as loaded: {result['cpu_flops_per_second'] / 1e9:.0f} GFLOP/s, measured). "
            f"Gradients are {result['gradient_bytes'] / 1e6:.1f} MB; halos as in the first table. Links have the "
            "published speeds below, of which 70 % are reached, and none of the communication overlaps with the "
            "computation. Step times of devices differ by 2 % (standard deviation). The formula is in "
            "experiments/scaling_model.py, and `--gpu_tflops` takes another speed. A batch is one case for each group "
            "of devices that shares a volume; whether a network learns as well from hundreds is another question "
            "(BraTS 2023 has 1,251 cases).",
            *(line for links in CLUSTERS for line in _model_table(result["model"], links.name)),
            "",
        ]
    )


def _memory_row(row: dict[str, Any]) -> str:
    halos = row["sent"].get("collective-permute", {"bytes": 0})["bytes"] / 2**20
    return (
        f"| {volume(row['shape'])} | {row['space']} | {row['bytes'] / GIB:.2f} | {row['activation_bytes'] / GIB:.2f} | "
        f"{row['share']:.3f} (1/{row['space']} = {1 / row['space']:.3f}) | {halos:.0f} |"
    )


def _time_row(what: str, row: dict[str, Any], first: dict[str, Any]) -> str:
    low, high = row["range"]
    mesh = f"{row['data']} x {row['space']}"
    work = row["batch"] / first["batch"]
    return (
        f"| {what} | {mesh} | {row['batch']} | {row['seconds']:.3f} ({low:.3f} to {high:.3f}) | "
        f"{row['seconds'] / first['seconds'] / work:.2f}x | {row['loss']:.6f} |"
    )


def _model_table(rows: list[dict[str, Any]], links: str) -> list[str]:
    rows = [row for row in rows if row["links"] == links]
    lines = ["", f"{links}:", "", "| volume | space | devices | batch | step, s | efficiency | reading, GB/s |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if row["space"] in (1, 4) and row["gpus"] in (1, 4, 8, 32, 128, 1024):
            lines.append(
                f"| {volume(row['shape'])} | {row['space']} | {row['gpus']} | {row['batch']} | {row['seconds']:.4f} | "
                f"{100 * row['efficiency']:.0f} % | {row['read_bytes_per_second'] / 1e9:.2f} |"
            )
    return lines


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Memory against space, time on virtual devices, and the model's efficiency against GPUs."""
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.16, top=0.88, wspace=0.3)
    _draw_memory(axes[0], result["memory"])
    for what, rows in result["time"].items():
        devices = [row["data"] * row["space"] for row in rows]
        relative = [
            row["seconds"] / rows[0]["seconds"] / (row["batch"] / rows[0]["batch"]) for row in rows
        ]  # the same work as one device's
        axes[1].plot(devices, relative, marker="o", label=what)
    axes[1].axhline(1, color="0.7", linewidth=0.8)
    axes[1].set(title="Virtual devices of one processor", ylabel="time over one device's, same work")
    axes[1].set(xlabel="virtual devices", ylim=(0, None))
    shape = result["memory"][-1]["shape"]
    for links, style in zip(GPU_CLUSTERS, ("-", "--"), strict=True):
        for space, colour in ((1, "C0"), (4, "C1")):
            rows = [
                row
                for row in result["model"]
                if row["links"] == links.name and row["space"] == space and row["shape"] == shape
            ]
            label = f"space {space}, {links.name.split(',')[1].split('(')[0].strip()}"
            gpus, share = [row["gpus"] for row in rows], [100 * row["efficiency"] for row in rows]
            axes[2].plot(gpus, share, style, color=colour, label=label)
    axes[2].set(title=f"Model, {volume(shape)} (not measured)", xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 105))
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.legend(fontsize=7, frameon=False)
        axis.grid(alpha=0.3)
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_memory(axis: Axes, rows: list[dict[str, Any]]) -> None:
    for shape in sorted({tuple(row["shape"]) for row in rows}):
        own = [row for row in rows if tuple(row["shape"]) == shape]
        space = [row["space"] for row in own]
        line = axis.plot(space, [row["bytes"] / GIB for row in own], marker="o", label=volume(list(shape)))[0]
        ideal = [own[0]["bytes"] / GIB / devices for devices in space]
        axis.plot(space, ideal, ":", color=line.get_color(), label="1/space of it")
    axis.set(title="Memory of a training step", xlabel="devices a volume lies on", ylabel="GiB a device")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
