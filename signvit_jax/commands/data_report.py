"""Write an HTML page about a built data set: one self-contained file without scripts.

It shows clips, lengths, texts, glosses, the vocabulary and words unseen in training, signers,
clips that CTC cannot align, contact sheets, duplicates and leaks, and clips that the build could
not read. How many frames are sampled from a clip, how texts are tokenized and what CTC can align
depend on the model: that of --config, with its overrides, or that of a training run, --workdir.
"""

import dataclasses
from collections.abc import Sequence

from signvit_jax.cli.config_flags import parse_with_optional_config
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_json
from signvit_jax.files.atomic import write_atomically
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.runtime.command_line import integer, parser
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.standard_streams import clean


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "signvit data_report --config=small "
        "--config.data.name=video_folder --config.data.data_dir=data",
    )
    flags.add_argument(
        "--workdir", type=local_path, help="folder of a training run, instead of --config"
    )
    flags.add_argument("--data_dir", type=local_path_string, help="default: config.data.data_dir")
    flags.add_argument(
        "--name", help="name of the data set under data_dir (default: config.data.name)"
    )
    flags.add_argument(
        "--output",
        type=local_path,
        help="the page (default: data_report.html in the data set's folder)",
    )
    flags.add_argument("--clips", type=integer(0), default=6, help="clips shown of each split (6)")
    arguments, config = parse_with_optional_config(flags, argv)
    if (config is None) == (arguments.workdir is None):
        raise ConfigError(
            "give either --config=FILE.py or --workdir=DIR: "
            "the report on frames, tokens and CTC is made for that model"
        )

    from signvit_jax.data.dataset import open_dataset
    from signvit_jax.reports.dataset_page import render
    from signvit_jax.reports.dataset_stats import read_build_report, split_facts

    if arguments.workdir is not None:
        from signvit_jax.checkpoints.data_folder import open_data_of_run, with_data_of_run
        from signvit_jax.checkpoints.workdir import Workdir

        workdir = Workdir.open(arguments.workdir)
        trained = from_json(workdir.config_json.read_text(encoding="utf-8"))
        config = with_data_of_run(trained, workdir, arguments.data_dir, arguments.name)
        dataset = open_data_of_run(config, named=arguments.name is not None)
    else:
        assert config is not None  # checked above
        flag_values = {"data_dir": arguments.data_dir, "name": arguments.name}
        overrides = {name: value for name, value in flag_values.items() if value is not None}
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **overrides))
        dataset = open_dataset(config.data.data_dir, config.data.name)
    output = arguments.output or dataset.folder / "data_report.html"
    facts = [split_facts(dataset.split(name), config, dataset) for name in dataset.splits]
    text = render(
        config.data.name, dataset, facts, config, read_build_report(dataset.folder), arguments.clips
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, text)
    print(clean(str(output)))
    return DONE
