"""The official client against a running server, through what it offers for conversations and completions.

    pip install openai
    quest serve &
    python serve/tests/openai_client.py http://127.0.0.1:8000/v1

A model without a chat template is asked for completions only.
"""

import concurrent.futures
import json
import re
import sys

import openai


def refused(call, param, status=400):
    """The error that a call is refused with names the parameter."""
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.param == param, error
        return error
    raise AssertionError(f"{param} was taken")


def completions(client, model):
    ask = client.completions.create
    once = ask(model=model, prompt="The code of the old lamp is", max_tokens=8, temperature=0, logprobs=2)
    choice = once.choices[0]
    assert choice.finish_reason in ("stop", "length"), once
    assert once.usage.completion_tokens <= 8 and once.usage.prompt_tokens > 0
    assert "".join(choice.logprobs.tokens) == choice.text, choice

    chunks = list(
        ask(
            model=model,
            prompt="The code of the old lamp is",
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == choice.text, (text, choice.text)
    assert chunks[-1].usage.completion_tokens == once.usage.completion_tokens

    drawn = dict(model=model, prompt="The", max_tokens=8, temperature=1.5, seed=3, n=2)
    first, second = ask(**drawn), ask(**drawn)
    assert [c.text for c in first.choices] == [c.text for c in second.choices]
    assert len(first.choices) == 2

    stopped = ask(model=model, prompt="The code of the old lamp is 407. The code", max_tokens=30, temperature=0, stop=[" "])
    assert " " not in stopped.choices[0].text

    ask(model=model, prompt="a", max_tokens=1, extra_body={"quest": {"token_budget": 64}, "top_k": 5, "min_p": 0.1})
    refused(lambda: ask(model=model, prompt="a", n=0), "n")
    refused(lambda: ask(model=model, prompt="a", echo=True), "echo")
    refused(lambda: ask(model=model, prompt="a", extra_body={"guided_whitespace_pattern": " "}), "guided_whitespace_pattern")

    bound = dict(model=model, prompt="The code of the old lamp is", max_tokens=100, temperature=1, seed=5)
    code = ask(**bound, extra_body={"guided_regex": "[0-9]{3}"}).choices[0]
    assert re.fullmatch("[0-9]{3}", code.text) and code.finish_reason == "stop", code
    either = ask(**bound, n=4, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert {choice.text for choice in either.choices} <= {"yes", "no"}, either
    schema = {"type": "object", "properties": {"code": {"type": "integer"}}, "required": ["code"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "code", "schema": schema, "strict": True}}
    chunks = ask(**bound, stream=True, extra_body={"response_format": form})
    choices = [chunk.choices[0] for chunk in chunks]
    if choices[-1].finish_reason == "stop":
        value = json.loads("".join(choice.text for choice in choices))
        assert isinstance(value["code"], int) and len(value) == 1, value
    hostile = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/none"}}}
    refused(lambda: ask(model=model, prompt="a", extra_body={"response_format": hostile}), "response_format")
    assert refused(lambda: ask(model="gpt-4", prompt="a"), "model", 404).code == "model_not_found"


def chats(client, model):
    ask = client.chat.completions.create
    messages = [{"role": "user", "content": "Say hello in one word."}]
    try:
        once = ask(model=model, messages=messages, max_completion_tokens=16, temperature=0, logprobs=True, top_logprobs=2)
    except openai.BadRequestError as error:
        assert error.code == "no_chat_template", error
        print("no chat template: conversations are passed over")
        return
    choice = once.choices[0]
    assert choice.message.role == "assistant" and choice.message.content, once
    assert "".join(t.token for t in choice.logprobs.content) == choice.message.content
    chunks = ask(model=model, messages=messages, max_completion_tokens=16, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == choice.message.content, (text, choice.message.content)
    messages += [choice.message.model_dump(), {"role": "user", "content": "Again."}]
    assert ask(model=model, messages=messages, max_tokens=8).choices[0].message.content
    refused(lambda: ask(model=model, messages=messages, store=True), "store")
    refused(lambda: ask(model=model, messages=[]), "messages")
    schema = {
        "type": "object",
        "properties": {"greeting": {"enum": ["hello", "goodbye"]}, "length": {"type": "integer", "maximum": 99}},
        "required": ["greeting", "length"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "greeting", "schema": schema, "strict": True}}
    bound = ask(model=model, messages=messages[:1], max_tokens=200, temperature=0, response_format=form).choices[0]
    if bound.finish_reason == "stop":
        value = json.loads(bound.message.content)
        assert value["greeting"] in ("hello", "goodbye") and value["length"] <= 99, value
    object_form = {"type": "json_object"}
    free = ask(model=model, messages=messages[:1], max_tokens=200, temperature=0, response_format=object_form).choices[0]
    assert free.finish_reason == "length" or isinstance(json.loads(free.message.content), dict), free

    parameters = {"type": "object", "properties": {"town": {"enum": ["Ulm", "Rome"]}}, "required": ["town"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    refused(lambda: ask(model=model, messages=messages, tool_choice="required"), "tool_choice")
    try:
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            call = ask(
                model=model, messages=messages[:1], tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=200
            ).choices[0]
            if call.finish_reason != "length":
                [call] = call.message.tool_calls
                assert call.function.name == "weather", call
                assert json.loads(call.function.arguments)["town"] in ("Ulm", "Rome"), call
    except openai.BadRequestError as error:
        assert error.param in ("tools", "tool_choice"), error
    try:
        ask(model=model, messages=messages, tools=tools, max_tokens=8)
    except openai.BadRequestError as error:
        assert error.param == "tools", error


def many(client, model, clients=200):
    def one(i):
        answer = client.completions.create(model=model, prompt=f"{i} is", max_tokens=4, temperature=0)
        return answer.choices[0].finish_reason

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        reasons = list(pool.map(one, range(clients)))
    assert len(reasons) == clients and set(reasons) <= {"stop", "length"}


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
    key = sys.argv[2] if len(sys.argv) > 2 else "none"
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=300)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    completions(client, model)
    chats(client, model)
    many(client, model)
    print(f"{model}: the client of openai {openai.__version__} is served")


if __name__ == "__main__":
    main()
