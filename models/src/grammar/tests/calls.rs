//! Calls of functions, in the form of each family.

use serde_json::json;

use super::{takes, tokenizers};
use crate::grammar::{CallForm, FunctionSchema, Grammar, GrammarCompiler, ToolCalls};

#[test]
fn calls_follow_the_schema_in_the_form_of_a_family() {
    let add = FunctionSchema {
        name: "add".into(),
        parameters: Some(json!({
            "type": "object",
            "properties": { "a": { "type": "integer" } },
            "required": ["a"],
            "additionalProperties": false,
        })),
    };
    let now = FunctionSchema {
        name: "now".into(),
        parameters: None,
    };
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    for (form, once, twice) in [
        (
            CallForm::Tagged,
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        ),
        (
            CallForm::Listed,
            "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}]",
            "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}, \
             {\"name\": \"now\", \"arguments\": {\"b\": 2}}]",
        ),
        (
            CallForm::Named,
            "[TOOL_CALLS]add[ARGS]{\"a\": 1}",
            "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[ARGS]{}",
        ),
        (
            CallForm::Object,
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"now\", \"parameters\": {}}",
        ),
        (
            CallForm::Function,
            "<function=add>{\"a\": 1}</function>",
            "<function=add>{\"a\": 1}</function><function=now>{}</function>",
        ),
    ] {
        let grammar = |allows_text, allows_several| {
            let calls = ToolCalls {
                form,
                functions: vec![add.clone(), now.clone()],
                allows_text,
                allows_several,
            };
            compiler.compile(&calls.source(&tokenizer)).unwrap()
        };
        let forced = grammar(false, true);
        let takes = |grammar: &Grammar, text: &str| takes(&tokenizer, grammar, text);
        assert!(takes(&forced, once) && takes(&forced, twice), "{form:?}");
        assert!(!takes(&forced, &once.replace("\"a\": 1", "\"a\": true")));
        assert!(!takes(&forced, &once.replace("add", "sub")));
        assert!(!takes(&forced, "The sum is 3.") && !takes(&forced, ""));
        let single = grammar(false, false);
        assert!(takes(&single, once) && !takes(&single, twice), "{form:?}");
        let free = grammar(true, false);
        assert!(
            takes(&free, "The sum is 3.") && takes(&free, once),
            "{form:?}"
        );
        assert!(takes(&free, ""), "{form:?}");
        assert!(!takes(&free, twice), "{form:?}");
        assert!(
            !takes(&free, &once.replace("\"a\": 1", "\"a\": true")),
            "{form:?}"
        );
    }
}

#[test]
fn the_form_of_calls_is_what_a_template_shows() {
    for (template, form) in [
        ("{{ '<tool_call>\\n' }}", Some(CallForm::Tagged)),
        ("[TOOL_CALLS] [", Some(CallForm::Listed)),
        ("[TOOL_CALLS]{{ name }}[ARGS]", Some(CallForm::Named)),
        (
            "{\"name\": function name, \"parameters\": {..}}",
            Some(CallForm::Object),
        ),
        ("<function=example>", Some(CallForm::Function)),
        ("{{ message.content }}", None),
    ] {
        assert_eq!(CallForm::of_template(template), form, "{template}");
    }
}
