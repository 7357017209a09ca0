# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     provenance: []
#   jupytext:
#     notebook_metadata_filter: accelerator,colab,-jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Fine-tune on your own photos and sentences
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tipr-jax/tipr_jax/blob/main/scripts/colab/fine_tune.ipynb)
#
# A table of photos and sentences is all it takes. After training, the weights before and after are interpolated: a model
# between them often knows the new clothes and has not forgotten the old ones.

# %% [markdown]
# ## 1. Install

# %%
import os
import shutil
import sys

IN_COLAB = "google.colab" in sys.modules
SOURCE = "git+https://github.com/tipr-jax/tipr_jax"

if IN_COLAB:
    has_tpu = os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
    accelerator = "tpu" if has_tpu else "cuda" if shutil.which("nvidia-smi") else ""
    extras = f"[{accelerator}]" if accelerator else ""
    get_ipython().run_line_magic("pip", f"install -q -U 'tipr_jax{extras} @ {SOURCE}'")

# %% tags=["parameters"]
SMALL = bool(os.environ.get("TIPR_SMALL"))  # for tests of this notebook
MODEL = os.environ.get("TIPR_MODEL", "/content/drive/MyDrive/tipr_jax/quickstart")  # the model to start from
PHOTOS = ""  # your folder with manifest.csv; empty: drawn people in clothes that the model has never seen
CONFIG = "configs/finetune.py:quickstart"  # of a model of the paper's size: configs/finetune.py:irra
RUN = "runs/mine"
SHORT = "--config.schedule.num_epochs=1" if SMALL else ""

# %%
import jax

print(f"jax {jax.__version__} on {jax.default_backend()}: {len(jax.devices())} x {jax.devices()[0].device_kind}")
if IN_COLAB:
    expected = {"tpu": "tpu", "cuda": "gpu", "": "cpu"}[accelerator]
    assert jax.default_backend() == expected, f"expected {expected}; restart the session and run from the top"
    from google.colab import drive

    drive.mount("/content/drive")
    RUN = "/content/drive/MyDrive/tipr_jax/mine"

# %% [markdown]
# ## 2. The table
#
# One line per sentence or per photo: `file, caption`, and if you know them `person_id`, `split`, `box`.
# `python -m data_pipelines.manifest make PHOTOS` writes a first one from a folder.

# %%
if not PHOTOS:
    PHOTOS = "own"
    if not os.path.exists("own/manifest.csv"):
        get_ipython().system("python -m data_pipelines.synth_pedes --manifest=own --vocabulary=festival")

# %%
# !head -n 3 {PHOTOS}/manifest.csv
# !python -m data_pipelines.check --name=manifest --root={PHOTOS}

# %% [markdown]
# ## 3. Train
#
# It stops when the photos of `val` are found no better, and compares weights between the old and the new model.

# %%
# !python -m tipr_jax.main --config={CONFIG} --workdir={RUN} --config.data.root={PHOTOS} --config.init_from={MODEL} {SHORT}

# %%
from IPython.display import Image, display

display(Image(f"{RUN}/interpolation.png"))

# %% [markdown]
# ## 4. Search with it

# %%
SENTENCE = "a man in a fuchsia tunic with burgundy chevrons"
# !python -m tipr_jax.gallery add {PHOTOS} --model={RUN}/interpolated --gallery=mine.gallery
# !python -m tipr_jax.gallery search "{SENTENCE}" --gallery=mine.gallery --picture=answer.png
display(Image("answer.png"))
