"""openpi's checkpoint layout, read and written: the hinge between training, policies and export.

layout.py        where things are in a run and in a checkpoint
trees.py         flat `{path: array}` <-> the nested trees on disk; the train state
saving.py        CheckpointStore: asynchronous, atomic, with a keep policy
reading.py       a checkpoint's shapes and arrays, sharded or as numpy, a little at a time
integrity.py     checksums of a checkpoint's files, and which arrays a damaged file held
space.py         bytes of the next checkpoint against the disk
architecture.py  which model a set of shapes is
loading.py       what of a checkpoint goes into a model, and the report of it
paligemma.py     PaliGemma's .npz as a source
sources.py       `init:`: a path, a URL, a publication, or a run of this project

Parameters are a flat `{path: array}` with openpi's paths, `PaliGemma/llm/layers/attn/q_einsum/w`.
"""
