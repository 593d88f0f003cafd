"""The fixed colours of figures and reports: one for each label, region and split, so that each always means the same.

Chosen by search so that those of labels and regions stay apart for normal vision and for protanopia, deuteranopia and
tritanopia, simulated with the matrices of Machado, Oliveira and Fernandes 2009 (https://doi.org/10.1109/TVCG.2009.113):
at least 30 CIELAB units between any two. The labels' own are also at least 30 units of chroma away from any grey, and
bright enough to be seen on black. Those of WT and TC are for charts on white.
"""

# By the names of `jaxbrats.data.labels`: LABEL_NAMES and REGIONS. The region ET is the label ET.
COLOURS = {
    "background": "#8A8A8A",
    "NCR": "#D62A1E",
    "ED": "#1FA8F5",
    "ET": "#F7B500",
    "WT": "#253080",
    "TC": "#906189",
}

# A pair told apart by lightness alone, neither of them the colour of a label.
SPLIT_COLOURS = {"train": "#8795A1", "val": "#12564F"}
