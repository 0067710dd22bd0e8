//! What is known to make the `tokenizers` crate panic, found before it does.

use serde_json::{Value, json};

/// Refuses a template of special tokens that names one which its own table lacks.
pub(super) fn template(tokenizer: &Value) -> Result<(), String> {
    let Some(processor) = tokenizer.get("post_processor") else {
        return Ok(());
    };
    each_object(processor, &mut |object| {
        if object["type"] != "TemplateProcessing" {
            return Ok(());
        }
        for kind in ["single", "pair"] {
            let pieces = object[kind].as_array().map(Vec::as_slice);
            for piece in pieces.unwrap_or_default() {
                let Some(token) = piece["SpecialToken"]["id"].as_str() else {
                    continue;
                };
                if object["special_tokens"].get(token).is_none() {
                    return Err(format!(
                        "expected the special token `{token}` of the post-processor's template in its \
                         table of special tokens, found none"
                    ));
                }
            }
        }
        Ok(())
    })
}

/// The decoder `Strip` panics on tokens that are shorter than what it takes off their end; patterns
/// that are replaced do the same without.
pub(super) fn replace_strips(tokenizer: &mut Value) {
    if let Some(decoder) = tokenizer.get_mut("decoder") {
        replace_strip(decoder);
    }
}

fn replace_strip(decoder: &mut Value) {
    if let Some(decoders) = decoder.get_mut("decoders").and_then(Value::as_array_mut) {
        decoders.iter_mut().for_each(replace_strip);
        return;
    }
    let strip = (
        decoder["type"].as_str(),
        decoder["content"].as_str(),
        decoder["start"].as_u64(),
        decoder["stop"].as_u64(),
    );
    let (Some("Strip"), Some(content), Some(start), Some(stop)) = strip else {
        return;
    };
    // More than any text is long is refused by regular expressions.
    let most = |n: u64| n.min(1000);
    let mut characters = content.chars();
    let (Some(character), None, 1..) = (characters.next(), characters.next(), stop) else {
        return;
    };
    let character = format!("\\x{{{:x}}}", u32::from(character));
    let ends = [
        format!("^{character}{{0,{}}}", most(start)),
        format!("{character}{{0,{}}}$", most(stop)),
    ];
    let replaced = ends.map(
        |pattern| json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": "" }),
    );
    *decoder = json!({ "type": "Sequence", "decoders": replaced });
}

/// Calls `check` with an object and the objects of the sequences in it.
fn each_object(
    value: &Value,
    check: &mut impl FnMut(&Value) -> Result<(), String>,
) -> Result<(), String> {
    check(value)?;
    let nested = value["processors"].as_array().map(Vec::as_slice);
    nested
        .unwrap_or_default()
        .iter()
        .try_for_each(|value| each_object(value, check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_at_the_end_becomes_patterns() {
        let strip =
            |start, stop| json!({ "type": "Strip", "content": "a", "start": start, "stop": stop });
        let mut json =
            json!({ "decoder": { "type": "Sequence", "decoders": [strip(1, 0), strip(1, 2)] } });
        replace_strips(&mut json);
        let decoders = &json["decoder"]["decoders"];
        assert_eq!(decoders[0], strip(1, 0));
        assert_eq!(
            decoders[1]["decoders"][0]["pattern"]["Regex"],
            "^\\x{61}{0,1}"
        );
        assert_eq!(
            decoders[1]["decoders"][1]["pattern"]["Regex"],
            "\\x{61}{0,2}$"
        );
    }

    #[test]
    fn a_template_with_an_unknown_token_is_refused_wherever_it_is() {
        let template = |table: Value| {
            json!({
                "type": "TemplateProcessing", "special_tokens": table, "pair": [],
                "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }],
            })
        };
        let json = |table| json!({ "post_processor": template(table) });
        assert!(super::template(&json(json!({ "<s>": {} }))).is_ok());
        let error = super::template(&json(json!({ "<bos>": {} }))).unwrap_err();
        assert!(error.contains("`<s>`"), "{error}");
        let nested = json!({ "post_processor": {
            "type": "Sequence", "processors": [template(json!({}))],
        } });
        assert!(super::template(&nested).is_err());
        assert!(super::template(&json!({})).is_ok());
    }
}
