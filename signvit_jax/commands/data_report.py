"""Writes a page that shows what is in a built data set: one self-contained HTML file, no script, nothing loaded.

Clips, lengths, texts, glosses, vocabulary and words unseen in training, signers, clips that CTC cannot align, contact sheets, duplicates and leaks,
and what could not be read when it was built. How many frames are taken of a clip, how words are cut and what CTC can align
depends on the model: that of --config, with its overrides, or that of a run, --workdir.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from signvit_jax.cli.common import parse_with_optional_config, parser
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_json
from signvit_jax.files.local_paths import local_path, local_text
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.streams import clean


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "python -m signvit_jax.data_report --config=configs/small.py --config.data.name=video_folder --config.data.data_dir=data",
    )
    flags.add_argument(
        "--workdir", type=local_path, help="folder of a training run, in place of --config"
    )
    flags.add_argument("--data_dir", type=local_text, help="default: config.data.data_dir")
    flags.add_argument(
        "--name", help="name of the data set under data_dir (default: config.data.name)"
    )
    flags.add_argument(
        "--output",
        type=local_path,
        help="the page (default: data_report.html in the data set's folder)",
    )
    flags.add_argument(
        "--clips", type=_clips, default=6, help="clips of each split that are shown (6)"
    )
    arguments, config = parse_with_optional_config(flags, argv)
    if (config is None) == (arguments.workdir is None):
        raise ConfigError(
            "give one of --config=FILE.py and --workdir=DIR: what is said of frames, words and CTC is said for that model"
        )

    from signvit_jax.data.dataset import open_dataset
    from signvit_jax.reports.dataset_page import render
    from signvit_jax.reports.dataset_stats import inspect, read_build_report

    if arguments.workdir is not None:
        from signvit_jax.checkpoints.data_folder import with_data_of_run, open_data_of_run
        from signvit_jax.checkpoints.workdir import Workdir

        workdir = Workdir.open(arguments.workdir)
        config = with_data_of_run(
            from_json(workdir.config_json.read_text(encoding="utf-8")),
            workdir,
            arguments.data_dir,
            arguments.name,
        )
        dataset = open_data_of_run(config, named=arguments.name is not None)
    else:
        given = {
            name: value
            for name in ("data_dir", "name")
            if (value := getattr(arguments, name)) is not None
        }
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **given))
        dataset = open_dataset(config.data.data_dir, config.data.name)
    output = arguments.output or dataset.folder / "data_report.html"
    facts = [inspect(dataset.split(name), config, dataset) for name in dataset.splits]
    text = render(
        config.data.name, dataset, facts, config, read_build_report(dataset.folder), arguments.clips
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(clean(str(output)))
    return DONE


def _clips(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= 0")
    return int(text)
