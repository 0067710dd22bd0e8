"""Writes, for every template of a folder, what Hugging Face transformers renders of the cases in cases.json.

usage: golden.py [FOLDER]    FOLDER/NAME.jinja -> FOLDER/NAME.json, and FOLDER/cases.json where it is another folder
needs: pip install transformers jinja2 (5.24 and 3.1 wrote the files here)
"""
import datetime
import json
import pathlib
import shutil
import sys

import transformers.utils.chat_template_utils as utils


class Clock(datetime.datetime):
    """The time that the tests render at."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 7, 14, 5, 9)


utils.datetime = Clock
here = pathlib.Path(__file__).parent
folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
if folder.resolve() != here.resolve():
    shutil.copy(here / "cases.json", folder / "cases.json")
golden = json.loads((here / "cases.json").read_text(encoding="utf-8"))


def render(template, case):
    # Fields without a value are dropped, as `apply_chat_template` drops them.
    messages = [{k: v for k, v in message.items() if v is not None} for message in case["messages"]]
    variables = {**golden["special_tokens"], **case.get("variables", {})}
    try:
        texts, _ = utils.render_jinja_template(
            [messages],
            tools=case.get("tools"),
            documents=case.get("documents"),
            chat_template=template,
            add_generation_prompt=case.get("add_generation_prompt", False),
            **variables,
        )
        return {"text": texts[0]}
    except Exception as error:
        kind = type(error).__name__
        return {"raised" if kind == "TemplateError" else kind: str(error)}


for path in sorted(folder.glob("*.jinja")):
    template = path.read_text(encoding="utf-8")
    rendered = {name: render(template, case) for name, case in golden["cases"].items()}
    text = json.dumps(rendered, ensure_ascii=False, indent=1)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
