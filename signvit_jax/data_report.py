"""Writes a page that shows what is in a built data set: one self-contained HTML file, no script, nothing loaded.

Clips, lengths, texts, glosses, vocabulary and words unseen in training, signers, clips that CTC cannot align, contact sheets, duplicates and leaks,
and what could not be read when it was built.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.command_line import parser
from signvit_jax.config import Config
from signvit_jax.exit_codes import DONE, run_command
from signvit_jax.streams import clean


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(__doc__, "python -m signvit_jax.data_report --data_dir=data --name=video_folder --config=configs/small.py")
    flags.add_argument("--data_dir", required=True)
    flags.add_argument("--name", required=True, help="name of the data set under data_dir")
    flags.add_argument("--config", help="configuration whose frame sampling, tokenizer and CTC target count; without it the defaults")
    flags.add_argument("--output", type=Path, help="the page (default: data_report.html in the data set's folder)")
    flags.add_argument("--clips", type=_clips, default=6, help="clips of each split that are shown (6)")
    arguments = flags.parse_args(argv)

    from signvit_jax.config_file import load_config
    from signvit_jax.data.dataset import open_dataset
    from signvit_jax.data.inspection import inspect, read_build_report
    from signvit_jax.data.inspection_page import render

    config = load_config(arguments.config) if arguments.config else Config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=arguments.data_dir, name=arguments.name))
    dataset = open_dataset(arguments.data_dir, arguments.name)
    output = arguments.output or dataset.folder / "data_report.html"
    facts = [inspect(dataset.split(name), config, dataset) for name in dataset.splits]
    text = render(arguments.name, dataset, facts, config, read_build_report(dataset.folder), arguments.clips)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(clean(str(output)))
    return DONE


def _clips(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
