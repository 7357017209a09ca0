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
# # Train IRRA and search, on a TPU, a GPU or a CPU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tipr-jax/tipr_jax/blob/main/scripts/colab/train_and_search.ipynb)
#
# From nothing to a person search: this notebook generates drawn pedestrians, trains a small IRRA on them, and answers
# typed sentences. With a licensed data set and CLIP's weights the same commands train the paper's model (last section).
#
# Choose **Runtime > Change runtime type** before you start: a TPU (v5e-1, v6e-1), a GPU, or a CPU.

# %% [markdown]
# ## 1. Install
#
# JAX and the TPU's library go together, and before JAX is first imported; otherwise they do not match.
# TensorFlow's TPU package must not be installed: it replaces the library, and JAX falls back to the CPU without a word.

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
SMALL = bool(os.environ.get("TIPR_SMALL"))  # minutes instead of an hour, for tests of this notebook
CONFIG = "configs/irra.py:debug" if SMALL else "configs/irra.py:quickstart"
SENTENCE = "a woman with long hair wearing a red coat and blue jeans, carrying a black backpack"

# %% [markdown]
# ## 2. Which device computes?
#
# If you chose a TPU or a GPU and read `cpu` here, the installation above did not take: restart the runtime
# (**Runtime > Restart session**) and run the notebook from the top.

# %%
import jax

print(f"jax {jax.__version__} on {jax.default_backend()}: {len(jax.devices())} x {jax.devices()[0].device_kind}")
if IN_COLAB:
    expected = {"tpu": "tpu", "cuda": "gpu", "": "cpu"}[accelerator]
    assert jax.default_backend() == expected, f"expected {expected}; restart the session and run from the top"

# %% [markdown]
# ## 3. Where results stay
#
# The disk of a session is lost with it. Results on Google Drive outlive it, and the same command continues there.

# %%
if IN_COLAB and input("Keep the run on Google Drive? [y/N] ").lower() == "y":
    from google.colab import drive

    drive.mount("/content/drive")
    RUN = "/content/drive/MyDrive/tipr_jax/quickstart"
else:
    RUN = "runs/quickstart"

# %% [markdown]
# ## 4. Train
#
# Data is generated, a contrastive warm start is trained, then the losses of the paper. Stopped at any moment, the same
# cell continues where it was.

# %%
# !python -m tipr_jax.main --config={CONFIG} --workdir={RUN}

# %% [markdown]
# ## 5. Look at the result
#
# Text to image, in percent: of how many sentences the right person is the first, among the first five, ten.

# %%
import json
import pathlib

from IPython.display import Image, display

results = json.loads(pathlib.Path(RUN, "results.json").read_text())
print({name: round(value, 2) for name, value in results["t2i"].items()})
for picture in sorted(pathlib.Path(RUN, "report").glob("sheet_*.png"))[:3]:
    display(Image(str(picture)))

# %% [markdown]
# ## 6. Search
#
# A gallery is one file. It holds what the model sees in the photos, not the photos.

# %%
# !python -m tipr_jax.gallery add data --model={RUN} --gallery={RUN}/photos.gallery
# !python -m tipr_jax.gallery search "{SENTENCE}" --gallery={RUN}/photos.gallery --picture=answer.png
display(Image("answer.png"))

# %% [markdown]
# The same from Python, with a filter on the path and the part of each word in the score:

# %%
from tipr_jax.gallery import Retriever
from tipr_jax.gallery.explain import explain

retriever = Retriever.open(f"{RUN}/photos.gallery")
matches = retriever.search(SENTENCE, k=3, where={"path": "*cam_a*"})
for match in matches:
    print(f"{match.score:.3f}  {match.path}")
if matches:
    print(explain(retriever, SENTENCE, matches)[matches[0].item.id])

# %% [markdown]
# ## 7. The paper's model
#
# Request CUHK-PEDES, ICFG-PEDES or RSTPReid from their authors, put the data set on Drive or into a bucket, and fetch CLIP:
#
# ```
# !python -m tipr_jax.convert --method=openai_clip --input=ViT-B-16.pt --output=weights/clip_vit_b16
# !python -m tipr_jax.main --config=configs/irra.py:cuhk_pedes --workdir={RUN} \
#     --config.data.root=/content/drive/MyDrive/data --config.init_from=weights/clip_vit_b16 \
#     --config.remat=dots
# ```
#
# On one v5e chip (16 GiB) ViT-B/16 at batch 64 to 128 fits with `--config.remat=dots`.
