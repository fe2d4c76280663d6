"""Make the label embeddings that head=zero_shot reads, from a file of word vectors (word2vec, GloVe or fastText text).

    python tools/build_label_embeddings.py dataset=nuswide_zsl vectors=crawl-300d-2M.vec
    python tools/build_label_embeddings.py dataset=coco vectors=glove.6B.300d.txt aliases=aliases.txt
    python tools/build_label_embeddings.py classes=classes.txt vectors=glove.6B.300d.txt out=embeddings.npz

The file is read once, line by line, and only the words that are needed are kept; .gz too. A class has the vector of its
whole name, where the file has it as one word, or else the mean of those of its words.

    vectors=FILE          word vectors
    classes=FILE          class names, one per line; default: those of the data set
    aliases=FILE          other words for some classes, one per line: class=words
    out=FILE              default: <paths.data>/embeddings/<dataset.name>.npz, where head=zero_shot looks for it

    --cfg job             print every option instead of running
    --config-dir DIR      look for data set configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import dataset_tools  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(
        dataset_tools.build_label_embeddings,
        dataset_tools.LabelEmbeddings,
        about=__doc__ or "",
        config_dir=ROOT / "configs",
    )
