"""The report on recorded results, computed by hand. Run by `cargo test`, or alone:
`python3 -m unittest discover benches`."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

import report
import svg

HERE = Path(__file__).parent
RECORDED = HERE / "tests" / "recorded"
FILES = [str(RECORDED / name) for name in ("attention.jsonl", "decode.jsonl")]


def cells(text, label):
    """The cells of the row that begins with a label."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    found = [row[1:] for row in rows if row[0] == label]
    if len(found) != 1:
        raise AssertionError(f"expected one row {label}, found {len(found)}")
    return found[0]


class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.records = report.read(FILES)
        cls.text = report.report(cls.records)

    def test_times_stand_with_their_quartiles(self):
        self.assertEqual(cells(self.text, "quest-burn, cuda: page_scores"), ["5.00 (4.90-5.10)"])
        self.assertEqual(cells(self.text, "pytorch_cudnn: dense_attention"), ["32.0 (31.9-32.1)"])

    def test_ratios_are_to_the_best_peer_and_to_the_floor(self):
        for label, expected in (
            ("*cuda: best dense peer / our Quest*", "2.00x"),
            ("*cuda: best Quest peer / our Quest*", "4.00x"),
            ("*cuda: our dense / our Quest*", "2.50x"),
            ("*cuda: our dense / best dense peer*", "1.25x"),
            ("*cuda: our Quest / byte floor*", "4.00x"),
            ("*cuda: our dense / byte floor*", "1.25x"),
            ("*cuda: byte floor of Quest*", "4.00"),
            ("*our Quest, vulkan / cuda*", "1.50x"),
        ):
            self.assertEqual(cells(self.text, label), [expected], label)

    def test_decode_steps_stand_by_context(self):
        quest = "quest-burn, cuda: quest 2048, plain"
        self.assertEqual(cells(self.text, quest), ["4.00 (4.00-4.00)", "5.00 (5.00-5.00)"])
        self.assertEqual(cells(self.text, f"*our dense / {quest}*"), ["1.25x", "1.60x"])
        self.assertEqual(cells(self.text, f"*best peer / {quest}*"), ["-", "1.65x"])
        self.assertEqual(cells(self.text, f"*{quest} / byte floor*"), ["1.25x", "1.25x"])

    def test_what_was_not_measured_is_listed(self):
        self.assertIn("FlashInfer is not installed", self.text)
        self.assertIn("0123456789ab", self.text)

    def test_files_are_written_and_plots_are_xml(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(report.main([*FILES, "--out", folder]), 0)
            names = sorted(path.name for path in Path(folder).iterdir())
            self.assertIn("report.md", names)
            self.assertIn("decode-llama2-7b-f16-b1.svg", names)
            self.assertIn("breakdown-cuda-f16-b1-h32x8-d128-p16.svg", names)
            self.assertIn("kernels-cuda-f16-b1-h32x8-d128-p16.svg", names)
            for path in Path(folder).glob("*.svg"):
                xml.parse(path)

    def test_results_with_packed_digests_stand_apart(self):
        packed = [
            {**r, "digests": "int8", "median_us": r["median_us"] / 2}
            for r in self.records if r["kind"] in ("attention", "decode") and r["implementation"] == report.OURS
        ]
        text = report.report(self.records + packed)
        self.assertEqual(cells(text, "quest-burn, cuda: page_scores"), ["5.00 (4.90-5.10)"])
        found = cells(text, "quest-burn, cuda, int8 digests: page_scores")
        self.assertTrue(found[0].startswith("2.50 "), found)
        self.assertEqual(cells(text, "*cuda: best dense peer / our Quest*"), ["2.00x"])
        self.assertEqual(cells(text, "*cuda, int8 digests: best dense peer / our Quest*"), ["4.00x"])
        quest = "quest-burn, cuda, int8 digests: quest 2048, plain"
        self.assertEqual(cells(text, f"*our dense / {quest}*"), ["1.25x", "1.60x"])
        self.assertIn(
            "breakdown-cuda-f16-b1-h32x8-d128-p16-int8.svg", report.plots(self.records + packed)
        )

    def test_contexts_and_budgets_can_be_limited(self):
        contexts = {r["context"] for r in self.records if r["kind"] == "decode"}
        kept = report.limited(self.records, [max(contexts)], None)
        self.assertEqual({r["context"] for r in kept if "context" in r}, {max(contexts)})
        self.assertTrue(any(r["kind"] == "bandwidth" for r in kept))
        self.assertFalse(any("budget" in r for r in report.limited(self.records, None, [7])))
        with self.assertRaises(report.BadInput):
            report.limited([r for r in self.records if "context" in r], [7], None)

    def test_the_breakdown_stacks_the_parts(self):
        chart = report.plots(self.records)["breakdown-cuda-f16-b1-h32x8-d128-p16.svg"]
        for label in ("page scores", "top pages", "paged attention", ">18.0<", ">40.0<", ">32.0<"):
            self.assertIn(label, chart)


class BadInput(unittest.TestCase):
    def refused(self, content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lines.jsonl"
            path.write_text(content, encoding="utf-8")
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                self.assertEqual(report.main([str(path), "--out", folder]), 2)
            return errors.getvalue()

    def test_lines_that_are_no_results_are_refused_with_their_place(self):
        good = (RECORDED / "decode.jsonl").read_text(encoding="utf-8").splitlines()[0]
        self.assertIn("lines.jsonl:2: expected a JSON object", self.refused(good + "\n{\n"))
        self.assertIn("found [1]", self.refused("[1]\n"))
        self.assertIn("found nonsense", self.refused('{"kind": "nonsense"}\n'))
        cut = json.loads(good)
        del cut["median_us"]
        self.assertIn("expected median_us, found none", self.refused(json.dumps(cut)))
        self.assertIn("at least one result", self.refused("\n"))

    def test_an_absent_file_is_refused(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            self.assertEqual(report.main(["/no/such/file.jsonl"]), 2)
        self.assertIn("/no/such/file.jsonl", errors.getvalue())


class Charts(unittest.TestCase):
    def test_nothing_gives_no_chart(self):
        self.assertIsNone(svg.line_charts([("empty", {"line": []})], "y"))
        self.assertIsNone(svg.stacked_bars("empty", [("group", [])], "y"))

    def test_labels_are_escaped(self):
        chart = svg.line_charts([("a < b", {"x & y": [(1024, 1.0), (2048, 2.0)]})], "y")
        xml.fromstring(chart)
        self.assertIn("x &amp; y", chart)

    def test_lines_of_one_colour_differ_in_their_legend(self):
        lines = {f"line {i}": [(1024, 1.0), (2048, 2.0)] for i in range(len(svg.COLORS) + 1)}
        chart = svg.line_charts([("many", lines)], "y")
        # In the panel and in the legend.
        self.assertEqual(chart.count("stroke-dasharray"), 2)

    def test_ticks_are_round_numbers_within_the_bounds(self):
        self.assertEqual(svg.ticks(3, 120), [5, 10, 20, 50, 100])


class Peers(unittest.TestCase):
    """Where PyTorch is not installed."""

    def run_without_torch(self, name, *arguments):
        path = HERE / "peers" / name
        code = (
            f"import runpy, sys; sys.modules['torch'] = None; sys.path.insert(0, {str(path.parent)!r}); "
            f"runpy.run_path({str(path)!r}, run_name='__main__')"
        )
        return subprocess.run([sys.executable, "-B", "-c", code, *arguments], capture_output=True, text=True)

    def test_options_are_explained(self):
        for name in ("attention_torch.py", "decode_torch.py"):
            done = self.run_without_torch(name, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)
            self.assertIn("--contexts", done.stdout)

    def test_its_absence_is_a_line(self):
        for name in ("attention_torch.py", "decode_torch.py"):
            done = self.run_without_torch(name)
            expected = "error: expected PyTorch in this Python, found none (PYTHON names another one)\n"
            self.assertEqual((done.returncode, done.stdout, done.stderr), (2, "", expected), name)


class RunAll(unittest.TestCase):
    def run_all(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            program = ["bash", str(HERE / "run_all.sh"), *arguments]
            # A program that does nothing, so that a script that goes on is soon done.
            environment = {"PATH": os.environ["PATH"], "QUEST_BENCH": "true", "PEERS": "none"}
            done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env=environment)
            return done, list(Path(folder).iterdir())

    def test_help_is_its_own(self):
        for option in ("-h", "--help"):
            done, files = self.run_all(option)
            self.assertEqual((done.returncode, done.stderr, files), (0, "", []))
            self.assertIn("usage: benches/run_all.sh [OUT]", done.stdout)
            self.assertIn("QUEST_BENCH", done.stdout)

    def test_what_it_does_not_know_is_refused(self):
        for arguments, found in ((["--out"], "--out"), (["a", "b"], "a b")):
            done, files = self.run_all(*arguments)
            self.assertEqual((done.returncode, done.stdout, files), (2, "", []))
            self.assertTrue(done.stderr.endswith(f"found {found}\n"), done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)

    def test_a_folder_may_begin_with_a_dash(self):
        _, files = self.run_all("--", "-p")
        self.assertEqual([path.name for path in files], ["-p"])


if __name__ == "__main__":
    unittest.main()
