"""Checkpoint -> PyTorch, and back; nothing is left at its place before both models have been compared.

::

    source = open_source("my_arm/pi05_lora@best", home)                     refused where something is missing or is of something else
    export(source, Path("export"), layout="lerobot", precision="bfloat16")  raises ParityError, naming the first layer that disagrees
    loaded = load_lerobot(Path("export"))                                   LeRobot's policy and processors, every tensor compared
    bring_back(Path("export"), Path("run/0"))                               a JAX checkpoint again

table.py          which array becomes which tensor, read in both directions
lora.py           LoRA's factors folded into their weights
adapter.py, adapter_torch.py   or kept beside them, as PEFT keeps an adapter
plan.py           every array against every tensor, before a number is read
tensors.py        safetensors written tensor by tensor
convert.py        the weights, one array of the checkpoint in memory at a time
source.py         what is exported, and what it is refused for
lerobot_layout.py, openpi_layout.py, tokenizer_folder.py   the two layouts
lerobot_sizes.py  sizes that LeRobot has no name for
samples.py        what both models are shown
jax_side.py, torch_side.py, lerobot_gate.py   what each of them computes
gate.py, parity.py, parity_plot.py   the comparison and its report
run.py            all of it: `export`
torch_folder.py, back.py   the way back
"""
