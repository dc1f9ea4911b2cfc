"""What protects, and the test that must fail without it; protections.py takes it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protection:
    """Something that protects, and what notices that it is gone.

    Attributes:
        name: of what is protected against.
        file: within the package, without `.py`.
        code: the piece of the file that protects; it stands there once.
        without: what takes its place.
        test: file within `tests`, without `test_` and `.py`, and pytest's `-k`.
        slow: whether the test starts processes.
    """

    name: str
    file: str
    code: str
    without: str
    test: tuple[str, str]
    slow: bool = False


PROTECTIONS = (
    # Checkpoints
    Protection(
        "a changed checkpoint",
        "run_folder",
        "if sha256 != expected:",
        "if False:",
        ("checkpointing", "damaged_checkpoint_is_named"),
    ),
    Protection(
        "a checkpoint half written",
        "checkpointing",
        "aside = unfinished(final)",
        "aside = final; aside.mkdir()",
        ("checkpointing", "crash_in_the_middle"),
    ),
    Protection(
        "what a killed run left",
        "run_folder",
        "if _LEFT_BEHIND.fullmatch(path.name):",
        "if False:",
        ("faults", "killed_run_left"),
    ),
    Protection(
        "a model of a damaged checkpoint",
        "loading",
        'verify_checkpoint(Path(where), only="model.safetensors")',
        "pass",
        ("faults", "damaged_checkpoint_is_not_used"),
    ),
    Protection(
        "damaged weights as the release",
        "finishing",
        "    verify_checkpoint(folder)\n    load_weights",
        "    load_weights",
        ("faults", "damaged_weights_are_not_chosen"),
    ),
    Protection(
        "damaged weights in a mean",
        "finishing",
        "        verify_checkpoint(kept[step])\n",
        "        pass\n",
        ("faults", "damaged_weights_are_not_chosen"),
    ),
    Protection(
        "another recipe on resume",
        "checkpointing",
        "if before.get(name) != after.get(name):",
        "if False:",
        ("checkpointing", "changed_recipe"),
    ),
    Protection(
        "other pairs on resume",
        "checkpointing",
        'if saved["data_fingerprints"].get(split) != fingerprint:',
        "if False:",
        ("checkpointing", "changed_pairs"),
    ),
    Protection(
        "another file of a stream on resume",
        "preparation",
        'return sample_digest(spec) if spec else "stream"',
        'return "stream"',
        ("faults", "knows_its_file"),
    ),
    Protection(
        "another number of processes on resume",
        "checkpointing",
        'if saved["world_size"] != now["world_size"]:',
        "if False:",
        ("checkpointing", "names_every_difference"),
    ),
    Protection(
        "files of somebody else in the folder of a run",
        "run_folder",
        "    if not overwrite:\n",
        "    if False:\n",
        ("checkpointing", "refused_and_left_alone"),
    ),
    # Training
    Protection(
        "a loss or gradient that is no number",
        "training_step",
        "if not (math.isfinite(loss_sum) and (math.isfinite(grad_norm) or is_excused)):",
        "if False:",
        ("training", "not_finite"),
    ),
    Protection(
        "weights that are no numbers",
        "training_run",
        "if not all(bool(p.isfinite().all()) for p in self.bare_model.parameters()):",
        "if False:",
        ("faults", "blown_up"),
    ),
    Protection(
        "a gradient that no scale saves",
        "training_step",
        "is_excused = scale is not None and scale >= 1",
        "is_excused = scale is not None",
        ("faults", "no_scale_saves"),
    ),
    Protection(
        "steps that the scaler skips in silence",
        "training_step",
        "was_skipped = scaler is not None and scaler.get_scale() < scale",
        "was_skipped = run.accelerator.optimizer_step_was_skipped",
        ("faults", "scaler_skips"),
    ),
    Protection(
        "halves of a batch with dropout",
        "training_step",
        "is_exact = run.accelerator.num_processes == 1 and not _draws(run.bare_model)",
        "is_exact = True",
        ("faults", "told_what_to_lower"),
    ),
    Protection(
        "a gradient counted twice",
        "training_step",
        "    run.optimizer.zero_grad()\n    clear_device_cache",
        "    clear_device_cache",
        ("faults", "in_halves"),
    ),
    Protection(
        "a pair for two processes",
        "batching",
        "yield step[self.rank].tolist()",
        "yield step[0].tolist()",
        ("batching", "every_pair_once"),
    ),
    Protection(
        "what was given out, given out again on resume",
        "batching",
        "for step in steps[self._batches_done :]:",
        "for step in steps:",
        ("batching", "resuming_inside_an_epoch"),
    ),
    # Input
    Protection(
        "gzip bombs",
        "pair_files",
        "if self._bytes > self._most:",
        "if False:",
        ("fuzz", "bomb"),
    ),
    Protection(
        "a line without end",
        "pair_files",
        "if len(raw) > _LONGEST_LINE_BYTES:",
        "if False:",
        ("fuzz", "without_end"),
    ),
    Protection(
        "half a character in JSON",
        "pair_files",
        "if found := _SURROGATE.search(value):",
        "if found := None:",
        ("pair_files", "flaws_name"),
    ),
    Protection(
        "NUL bytes",
        "pair_files",
        'if b"\\0" in raw:',
        "if False:",
        ("pair_files", "flaws_name"),
    ),
    Protection(
        "ragged rows",
        "pair_files",
        "if len(fields) == len(names):",
        "if True:",
        ("pair_files", "flaws_name"),
    ),
    Protection(
        "control characters in messages",
        "errors",
        "c if c.isprintable() else c.encode(",
        "c if True else c.encode(",
        ("fuzz", "control"),
    ),
    Protection(
        "defaults of the search that make no sense",
        "loading",
        "    _check_search(where, model)\n",
        "",
        ("loading", "make_sense"),
    ),
    # Trust
    Protection(
        "an index of weights that leaves its folder",
        "loading",
        "        _check_index(index)\n",
        "        pass\n",
        ("trust", "index_of_weights_names"),
    ),
    Protection(
        "a manifest that leaves its folder",
        "run_folder",
        "if not is_plain_name(name):",
        "if False:",
        ("trust", "manifest"),
    ),
    Protection(
        "pickles",
        "tutorial",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        ("trust", "runs_what"),
    ),
    Protection(
        "markup in attention maps",
        "alignment_markup",
        "return html.escape(visible(token))",
        "return visible(token)",
        ("alignment_markup", "escaped"),
    ),
    Protection(
        "markup in the name of a run",
        "report",
        "<header><h1>{escape(name)}</h1>",
        "<header><h1>{name}</h1>",
        ("report", "Markup"),
    ),
    Protection(
        "markup in languages",
        "report",
        "{escape(direction)}",
        "{direction}",
        ("report", "Markup"),
    ),
    Protection(
        "markup in settings",
        "report",
        "<td>{escape(shown)}</td>",
        "<td>{shown}</td>",
        ("report", "Markup"),
    ),
    Protection(
        "markup in names of settings",
        "report",
        "name = escape(str(key))",
        "name = str(key)",
        ("report", "Markup"),
    ),
    Protection(
        "markup in signatures",
        "report",
        'f"{escape(str(value))}</p>',
        'f"{str(value)}</p>',
        ("report", "Markup"),
    ),
    Protection(
        "markup in names of splits",
        "report",
        "<div><h3>{escape(str(split))}</h3>",
        "<div><h3>{str(split)}</h3>",
        ("report", "Markup"),
    ),
    Protection(
        "markup in sources",
        "report",
        "<dd{source_lang}>{escape(source)}</dd>",
        "<dd{source_lang}>{source}</dd>",
        ("report", "Markup"),
    ),
    Protection(
        "markup in translations",
        "report",
        'old, new = escape("".join(old_pieces[a:b])), escape("".join(new_pieces[c:d]))',
        'old, new = "".join(old_pieces[a:b]), "".join(new_pieces[c:d])',
        ("report", "Markup"),
    ),
    Protection(
        "markup in notes on the page",
        "demo",
        'role="status">{escape(" ".join(notes))}</p>',
        'role="status">{" ".join(notes)}</p>',
        ("demo", "model_writes"),
    ),
    Protection(
        "markup in choices on the page",
        "demo",
        "<td>{escape(translation.text)}</td>",
        "<td>{translation.text}</td>",
        ("demo", "model_writes"),
    ),
    Protection(
        "text without end on the page",
        "demo",
        "return text[:MAX_CHARACTERS], [",
        "return text, [",
        ("demo", "bounded"),
    ),
    Protection(
        "beams without end on the page",
        "demo",
        "return min(most, max(1, int(value)))",
        "return max(1, int(value))",
        ("demo", "bounded"),
    ),
    Protection(
        "visitors who wait without end",
        "demo",
        "page.queue(max_size=MAX_WAITING, api_open=False)",
        "page.queue(api_open=False)",
        ("demo", "visitors"),
    ),
    Protection(
        "visitors who are all served at once",
        "demo",
        'trigger_mode="always_last",\n                    '
        'concurrency_id="model", concurrency_limit=NUM_AT_ONCE,',
        'trigger_mode="always_last",\n                    '
        'concurrency_id="model", concurrency_limit=None,',
        ("demo", "visitors"),
    ),
    Protection(
        "sessions kept without end",
        "demo",
        '    launch |= {"state_session_capacity": 50}\n',
        "",
        ("demo", "visitors"),
    ),
    # Processes
    Protection(
        "every process writes",
        "processes",
        "    if accelerator.is_main_process:\n        try:",
        "    if True:\n        try:",
        ("launch", "one_process_writes"),
        slow=True,
    ),
    Protection(
        "a pair learnt twice in a pass",
        "batching",
        "yield step[self.rank].tolist()",
        "yield step[0].tolist()",
        ("launch", "one_process_writes"),
        slow=True,
    ),
    Protection(
        "a process that dies",
        "training",
        "        losses_are_told(run.accelerator),\n",
        "",
        ("launch", "dies"),
        slow=True,
    ),
)
