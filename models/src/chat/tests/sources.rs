//! Where templates and special tokens are found.

use std::{fs, path::Path};

use serde_json::json;

use crate::chat::{ChatError, ChatTemplate, ChatTemplates, Conversation, Message, SpecialTokens};

fn hello() -> Conversation {
    Conversation::new(vec![Message::user("hello")])
}

#[track_caller]
fn write(dir: &Path, name: &str, content: impl ToString) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content.to_string()).unwrap();
}

/// What the default template of a folder renders.
#[track_caller]
fn rendered(dir: &Path) -> String {
    let templates = ChatTemplates::from_dir(dir).unwrap().unwrap();
    let special = SpecialTokens::from_dir(dir).unwrap();
    let template = templates.select(None, false, special).unwrap();
    template.render(&hello()).unwrap()
}

#[test]
fn a_file_of_its_own_comes_before_fields_of_json_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(ChatTemplates::from_dir(dir).unwrap().is_none());
    write(dir, "tokenizer_config.json", json!({ "eos_token": "</s>" }));
    assert!(ChatTemplates::from_dir(dir).unwrap().is_none());
    write(
        dir,
        "chat_template.json",
        json!({ "chat_template": "third" }),
    );
    assert_eq!(rendered(dir), "third");
    write(
        dir,
        "tokenizer_config.json",
        json!({ "chat_template": "second" }),
    );
    assert_eq!(rendered(dir), "second");
    write(dir, "chat_template.jinja", "first");
    assert_eq!(rendered(dir), "first");
}

#[test]
fn special_tokens_are_texts_or_objects_and_null_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}";
    let config = json!({
        "chat_template": template,
        "bos_token": { "content": "<s>", "lstrip": false },
        "eos_token": "</s>",
        "pad_token": null,
    });
    write(dir, "tokenizer_config.json", config);
    assert_eq!(rendered(dir), "<s>hello</s>");
    write(
        dir,
        "special_tokens_map.json",
        json!({ "pad_token": "<pad>", "eos_token": "?" }),
    );
    assert_eq!(rendered(dir), "<s>hello</s><pad>");
}

#[test]
fn named_templates_are_chosen_by_name_and_by_tools() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let named = json!([
        { "name": "default", "template": "plain" },
        { "name": "tool_use", "template": "tools" },
        { "name": "rag", "template": "documents" },
    ]);
    write(
        dir,
        "tokenizer_config.json",
        json!({ "chat_template": named }),
    );
    let templates = ChatTemplates::from_dir(dir).unwrap().unwrap();
    let text = |name, has_tools| {
        let template = templates.select(name, has_tools, SpecialTokens::default());
        template.unwrap().render(&hello()).unwrap()
    };
    assert_eq!(text(None, false), "plain");
    assert_eq!(text(None, true), "tools");
    assert_eq!(text(Some("rag"), true), "documents");
    let error = templates.select(Some("none"), false, SpecialTokens::default());
    let error = error.unwrap_err().to_string();
    assert!(
        error.ends_with("expected a chat template named `none`, found default, rag, tool_use"),
        "{error}"
    );

    write(
        dir,
        "additional_chat_templates/rag.jinja",
        "other documents",
    );
    write(dir, "additional_chat_templates/notes.txt", "no template");
    let templates = ChatTemplates::from_dir(dir).unwrap().unwrap();
    assert_eq!(templates.names().collect::<Vec<_>>(), ["rag"]);
}

#[test]
fn bad_files_and_templates_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "tokenizer_config.json", "[");
    let error = ChatTemplates::from_dir(dir).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer_config.json: expected a JSON object"),
        "{error}"
    );
    write(dir, "tokenizer_config.json", json!({ "chat_template": 7 }));
    let error = ChatTemplates::from_dir(dir).unwrap_err().to_string();
    assert!(
        error.contains("field `chat_template`: expected a template"),
        "{error}"
    );

    let template = |source| ChatTemplate::new("here", source, SpecialTokens::default());
    let error = template("{% for %}").unwrap_err();
    assert!(matches!(error, ChatError::Syntax { .. }));
    assert!(
        error
            .to_string()
            .starts_with("chat template of here: syntax error"),
        "{error}"
    );
    let error = template("{{ raise_exception('no ' ~ messages[0].role) }}").unwrap();
    let error = error.render(&hello()).unwrap_err().to_string();
    assert_eq!(error, "chat template of here: no user");
    let error = template("{{ messages[0].content.missing.field }}").unwrap();
    let error = error.render(&hello()).unwrap_err();
    assert!(matches!(error, ChatError::Render { .. }), "{error}");
    let none = template("").unwrap().render(&Conversation::default());
    assert!(matches!(none.unwrap_err(), ChatError::Empty));
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new("here", source, SpecialTokens::default()).unwrap();
    let error = template.render(&hello()).unwrap_err().to_string();
    assert!(error.contains("fuel"), "{error}");
}
